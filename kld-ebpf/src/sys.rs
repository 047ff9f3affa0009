//! The few calls of bpf(2) that are made here. Their arguments are those of `union bpf_attr` in linux/bpf.h, up to
//! the last one that is needed.

use std::ffi::CStr;
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use aya_obj::generated::{
    bpf_attach_type as attach_type, bpf_insn, bpf_prog_info, bpf_prog_type as prog_type,
};
use libc::c_int;

use crate::probe::{Cgroup, Point};

const MAP_UPDATE_ELEM: c_int = 2;
const PROG_LOAD: c_int = 5;
const OBJ_GET_INFO_BY_FD: c_int = 15;
const RAW_TRACEPOINT_OPEN: c_int = 17;
const MAP_FREEZE: c_int = 22;
const LINK_CREATE: c_int = 28;
const ENABLE_STATS: c_int = 32;

/// SAFETY (of the callers): the arguments are what the command wants, and what they point to is alive.
unsafe fn bpf<T>(command: c_int, arguments: &T) -> io::Result<c_int> {
    // SAFETY: the caller vouches for the arguments, and their size is told.
    let outcome = unsafe { libc::syscall(libc::SYS_bpf, command, arguments, size_of::<T>()) };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(outcome as c_int) }
}

/// SAFETY (of the callers): as for [`bpf`], and the command makes a descriptor.
unsafe fn bpf_descriptor<T>(command: c_int, arguments: &T) -> io::Result<OwnedFd> {
    // SAFETY: the caller vouches for both.
    unsafe { bpf(command, arguments).map(|fd| OwnedFd::from_raw_fd(fd)) }
}

/// Puts a read-only section into the map that stands for it, and closes the map to further writing, so that the
/// verifier takes the values for constants.
pub fn fill(map: BorrowedFd<'_>, bytes: &[u8], freeze: bool) -> io::Result<()> {
    #[repr(C)]
    struct Update {
        map: u32,
        pad: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let key = 0_u32;
    let map = map.as_raw_fd() as u32;
    let (key, value) = (std::ptr::from_ref(&key) as u64, bytes.as_ptr() as u64);
    // SAFETY: the map has one element of the section's size, and the key and the bytes are alive.
    unsafe { bpf(MAP_UPDATE_ELEM, &Update { map, pad: 0, key, value, flags: 0 })? };
    if freeze {
        // SAFETY: the command takes a map's descriptor.
        unsafe { bpf(MAP_FREEZE, &map)? };
    }
    Ok(())
}

/// What a program is for, in the kernel's numbers: its type, and where it attaches where the type leaves that open.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    program: u32,
    attach: u32,
}

impl Kind {
    /// That of programs that hang there.
    pub fn of(point: Point) -> Kind {
        let kind =
            |program: prog_type, attach: attach_type| Kind { program: program as u32, attach: attach as u32 };
        let address = |attach| kind(prog_type::BPF_PROG_TYPE_CGROUP_SOCK_ADDR, attach);
        match point {
            Point::Tracepoint(_) => {
                Kind { program: prog_type::BPF_PROG_TYPE_RAW_TRACEPOINT as u32, attach: 0 }
            }
            Point::Sample => Kind { program: prog_type::BPF_PROG_TYPE_PERF_EVENT as u32, attach: 0 },
            Point::Entry(_) | Point::Return(_) | Point::UserEntry(_) | Point::UserReturn(_) => {
                Kind { program: prog_type::BPF_PROG_TYPE_KPROBE as u32, attach: 0 }
            }
            Point::Cgroup(Cgroup::Egress) => {
                kind(prog_type::BPF_PROG_TYPE_CGROUP_SKB, attach_type::BPF_CGROUP_INET_EGRESS)
            }
            Point::Cgroup(Cgroup::Connect4) => address(attach_type::BPF_CGROUP_INET4_CONNECT),
            Point::Cgroup(Cgroup::Connect6) => address(attach_type::BPF_CGROUP_INET6_CONNECT),
            Point::Cgroup(Cgroup::Sendmsg4) => address(attach_type::BPF_CGROUP_UDP4_SENDMSG),
            Point::Cgroup(Cgroup::Sendmsg6) => address(attach_type::BPF_CGROUP_UDP6_SENDMSG),
        }
    }
}

/// Loads a program; with `log`, the verifier writes its findings there.
pub fn load(
    name: &str,
    kind: Kind,
    license: &CStr,
    instructions: &[bpf_insn],
    log: Option<&mut [u8]>,
) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel: u32,
        flags: u32,
        name: [u8; 16],
        device: u32,
        attach: u32,
    }
    let mut short = [0; 16];
    let length = name.len().min(15);
    short[..length].copy_from_slice(&name.as_bytes()[..length]);
    let (log_level, log_size, log) =
        log.map_or((0, 0, 0), |log| (1, log.len() as u32, log.as_mut_ptr() as u64));
    let arguments = Load {
        kind: kind.program,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level,
        log_size,
        log,
        kernel: 0,
        flags: 0,
        name: short,
        device: 0,
        attach: kind.attach,
    };
    // SAFETY: all that the arguments point to is borrowed by this function, and a program's descriptor is made.
    unsafe { bpf_descriptor(PROG_LOAD, &arguments) }
}

/// Attaches a program to a raw tracepoint; it is detached when the link is closed.
pub fn attach(tracepoint: &CStr, program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Open {
        name: u64,
        program: u32,
        pad: u32,
    }
    let arguments = Open { name: tracepoint.as_ptr() as u64, program: program.as_raw_fd() as u32, pad: 0 };
    // SAFETY: the name is borrowed by this function, and a link's descriptor is made.
    unsafe { bpf_descriptor(RAW_TRACEPOINT_OPEN, &arguments) }
}

/// Attaches a program to a control group, beside those that others have attached; it is detached when the link is
/// closed.
pub fn attach_to_cgroup(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>, kind: Kind) -> io::Result<OwnedFd> {
    let (program, cgroup) = (program.as_raw_fd() as u32, cgroup.as_raw_fd() as u32);
    // The program, the group, the kind of attachment, and no flags.
    let arguments = [program, cgroup, kind.attach, 0];
    // SAFETY: both descriptors are borrowed by this function, and a link's descriptor is made.
    unsafe { bpf_descriptor(LINK_CREATE, &arguments) }
}

/// Lets the kernel measure what programs cost, until the descriptor is closed.
pub fn measure() -> io::Result<OwnedFd> {
    // SAFETY: the command takes the kind of statistics, 0 for run time, and makes a descriptor.
    unsafe { bpf_descriptor(ENABLE_STATS, &0_u32) }
}

/// What the kernel keeps of a program.
#[derive(Debug, Clone, Copy)]
pub struct Kept {
    /// Its number, which no other program has.
    #[cfg(feature = "log")]
    pub id: u32,
    /// How long it has run, in nanoseconds, while that was [measured](measure).
    pub time: u64,
    /// How often, likewise.
    pub runs: u64,
    /// How often it was not run, since it ran on that processor already. Kernels before 5.12 do not tell.
    pub missed: u64,
}

/// What the kernel keeps of a program.
pub fn kept(program: BorrowedFd<'_>) -> io::Result<Kept> {
    #[repr(C)]
    struct Info {
        program: u32,
        length: u32,
        info: u64,
    }
    /// `struct bpf_prog_info`.
    #[repr(C, align(8))]
    struct Told([u8; 232]);
    let mut told = Told([0; 232]);
    let arguments = Info {
        program: program.as_raw_fd() as u32,
        length: size_of::<Told>() as u32,
        info: std::ptr::from_mut(&mut told) as u64,
    };
    // SAFETY: the room is as long as it says; all zeros asks for no list.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &arguments)? };
    let number = |at: usize| u64::from_ne_bytes(std::array::from_fn(|byte| told.0[at + byte]));
    Ok(Kept {
        #[cfg(feature = "log")]
        id: u32::from_ne_bytes(std::array::from_fn(|byte| told.0[offset_of!(bpf_prog_info, id) + byte])),
        time: number(offset_of!(bpf_prog_info, run_time_ns)),
        runs: number(offset_of!(bpf_prog_info, run_cnt)),
        missed: number(offset_of!(bpf_prog_info, recursion_misses)),
    })
}

/// Waits until every program that runs now has ended. Where the kernel cannot tell (it refuses with nohz_full), that is
/// a matter of microseconds, and it is waited for much longer.
pub fn wait_for_programs() {
    const MEMBARRIER_CMD_GLOBAL: c_int = 1;
    // SAFETY: the command takes nothing. It returns when every processor has left what no other task may interrupt,
    // which programs on tracepoints are.
    if unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } != 0 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
