//! A network of a generator's own, and what its loopback does to packets. System calls only: it is for forked children.

use std::ffi::CStr;

use crate::common::socket;

/// linux/rtnetlink.h, linux/pkt_sched.h.
const RTM_NEWQDISC: u16 = 36;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const ROOT: u32 = 0xffff_ffff;
/// NLM_F_REQUEST, NLM_F_ACK, NLM_F_CREATE and NLM_F_REPLACE.
const FLAGS: u16 = 1 | 4 | 0x400 | 0x100;

/// From now on this process has a network of its own: a loopback that is up, of this number.
pub fn own() -> u32 {
    // SAFETY: system calls upon a socket of our own; all zeros is a request.
    unsafe {
        libc::unshare(libc::CLONE_NEWNET);
        let fd = socket(libc::AF_INET, libc::SOCK_DGRAM);
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        libc::ioctl(fd, libc::SIOCSIFFLAGS, &request);
        libc::close(fd);
        libc::if_nametoindex(c"lo".as_ptr())
    }
}

/// A message in the making, on the stack.
struct Message {
    bytes: [u8; 256],
    length: usize,
}

impl Message {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        // Everything begins at a multiple of four.
        self.length += bytes.len().next_multiple_of(4);
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let [low, high] = (value.len() as u16 + 4).to_ne_bytes();
        let [first, second] = kind.to_ne_bytes();
        self.add(&[low, high, first, second]);
        self.add(value);
    }
}

/// Puts a queueing discipline on an interface; whether the kernel has taken it.
fn queue(interface: u32, kind: &CStr, options: &[u8]) -> bool {
    let mut message = Message { bytes: [0; 256], length: 16 };
    // struct tcmsg: family and padding, interface, handle, parent, info.
    for word in [0, interface, 0, ROOT, 0] {
        message.add(&word.to_ne_bytes());
    }
    message.attribute(TCA_KIND, kind.to_bytes_with_nul());
    message.attribute(TCA_OPTIONS, options);
    let length = message.length as u32;
    message.length = 0;
    message.add(&length.to_ne_bytes());
    message.bytes[4..6].copy_from_slice(&RTM_NEWQDISC.to_ne_bytes());
    message.bytes[6..8].copy_from_slice(&FLAGS.to_ne_bytes());
    let mut answer = [0_u8; 256];
    // SAFETY: the message and the room for the answer are alive and as long as they say.
    unsafe {
        let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE);
        libc::send(fd, message.bytes.as_ptr().cast(), length as usize, 0);
        let got = libc::recv(fd, answer.as_mut_ptr().cast(), answer.len(), 0);
        libc::close(fd);
        // An error of 0 follows the header.
        got >= 20 && answer[16..20] == [0; 4]
    }
}

/// From now on the interface drops all that is sent: there is no room in its queue.
pub fn drop_all(interface: u32) -> bool {
    queue(interface, c"pfifo", &0_u32.to_ne_bytes())
}

/// From now on it loses so many of a hundred packets, where the kernel has sch_netem.
pub fn lose(interface: u32, of_hundred: u32) -> bool {
    // struct tc_netem_qopt: latency, limit, loss of 2^32, gap, duplicate, jitter.
    let options = [0, 1000, u32::MAX / 100 * of_hundred, 0, 0, 0].map(u32::to_ne_bytes);
    queue(interface, c"netem", options.as_flattened())
}

/// From now on a socket does not hear so many of a hundred packets that reach it: a filter that draws lots, for kernels
/// without sch_netem.
pub fn deafen(fd: i32, of_hundred: u32) {
    /// linux/filter.h: BPF_LD|BPF_W|BPF_ABS of SKF_AD_OFF + SKF_AD_RANDOM; BPF_JMP|BPF_JGE|BPF_K; BPF_RET.
    const LOT: u32 = (-0x1000_i32 + 56).cast_unsigned();
    let step = |code, jf, k| libc::sock_filter { code, jt: 0, jf, k };
    let limit = u32::MAX / 100 * of_hundred;
    let mut steps = [step(0x20, 0, LOT), step(0x35, 1, limit), step(0x06, 0, u32::MAX), step(0x06, 0, 0)];
    let program = libc::sock_fprog { len: 4, filter: steps.as_mut_ptr() };
    let length = size_of::<libc::sock_fprog>() as u32;
    // SAFETY: the program is alive and as long as it says.
    unsafe {
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, (&raw const program).cast(), length)
    };
}
