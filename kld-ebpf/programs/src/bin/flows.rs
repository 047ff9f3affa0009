//! wg-leaks: the first packet of every TCP and UDP flow that leaves a network namespace, with who sent it.
//!
//! A packet may leave long after it was written, while anybody runs. So who connects a socket, or sends without
//! connecting, is remembered by the socket's cookie, at hooks where that task runs.
#![no_std]
#![no_main]

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_skb_cgroup_id};
use aya_ebpf::macros::{cgroup_skb, cgroup_sock_addr, map};
use aya_ebpf::maps::{Array, HashMap, LruHashMap};
use aya_ebpf::programs::{SkBuffContext, SockAddrContext};
use kld_ebpf_events::Task;
use kld_ebpf_events::flow::{Key, Sent};
use kld_ebpf_programs::current::{now, task};
use kld_ebpf_programs::output::send;
use kld_ebpf_programs::packet;
use kld_ebpf_programs::read::{Known, field, known};

// How one comes from a packet to its socket, the socket's namespace and its inode.
#[unsafe(no_mangle)]
static SKB_SENDER: Known = known();
#[unsafe(no_mangle)]
static SENDER_STATE: Known = known();
#[unsafe(no_mangle)]
static SENDER_LISTENER: Known = known();
#[unsafe(no_mangle)]
static SENDER_TYPE: Known = known();
#[unsafe(no_mangle)]
static SENDER_NETWORK: Known = known();
#[unsafe(no_mangle)]
static SENDER_SOCKET: Known = known();
#[unsafe(no_mangle)]
static NETWORK_NUMBER: Known = known();
#[unsafe(no_mangle)]
static SOCKET_INODE: Known = known();

/// In every namespace the first interface is the loopback.
const LOOPBACK: u32 = 1;
// net/tcp_states.h
const TIME_WAIT: u8 = 6;
const NEW_SYN_RECV: u8 = 12;
/// linux/net.h: also the type of the kernel's own sockets that refuse connections.
const SOCK_RAW: u16 = 3;

/// The namespace whose flows are told, by its number; 0 until the reader is ready.
#[map]
static HERE: Array<u32> = Array::with_max_entries(1, 0);

/// The interfaces whose flows are not told.
#[map]
static TUNNELS: HashMap<u32, u8> = HashMap::with_max_entries(4096, 0);

/// Who has connected or sent, by the socket's cookie. The oldest is forgotten.
#[map]
static OWNERS: LruHashMap<u64, Task> = LruHashMap::with_max_entries(65536, 0);

/// What has been told. The oldest is forgotten, and told again where it goes on.
#[map]
static TOLD: LruHashMap<Key, u8> = LruHashMap::with_max_entries(65536, 0);

const NOBODY: Task = Task { time: 0, cgroup: 0, pid: 0, tid: 0, uid: 0, gid: 0, comm: [0; 16] };
/// Lets the packet, or the call, go on.
const GO_ON: i32 = 1;

#[cgroup_skb(egress)]
pub fn leaves(ctx: SkBuffContext) -> i32 {
    let _ = look(&ctx);
    GO_ON
}

#[inline(always)]
fn look(ctx: &SkBuffContext) -> Option<()> {
    // SAFETY: the kernel gives the packet.
    let interface = unsafe { (*ctx.skb.skb).ifindex };
    let is_tunnel = || TUNNELS.get_ptr(interface).is_some();
    if interface == LOOPBACK || is_tunnel() {
        return None;
    }
    let socket = sender(ctx)?;
    let here = *HERE.get(0)?;
    let network: *const u8 = field(socket, &SENDER_NETWORK);
    if here == 0 || field::<u32>(network, &NETWORK_NUMBER) != here {
        return None;
    }
    if field::<u16>(socket, &SENDER_TYPE) == SOCK_RAW {
        return None;
    }
    let mut key = packet::flow(ctx)?;
    key.interface = interface;
    if TOLD.get_ptr(key).is_some() {
        return None;
    }
    // SAFETY: the helper takes the packet.
    let (cookie, cgroup) = unsafe { (bpf_get_socket_cookie(ctx.as_ptr()), bpf_skb_cgroup_id(ctx.skb.skb)) };
    let mut told = false;
    send(|event: *mut Sent| {
        // SAFETY: the ring gives room for the event.
        unsafe {
            (*event).owner = OWNERS.get(cookie).copied().unwrap_or(NOBODY);
            (*event).time = now();
            (*event).inode = inode(socket);
            (*event).cgroup = cgroup;
            (*event).key = key;
        }
        told = true;
    });
    // What found no room is told with its next packet.
    if told {
        let _ = TOLD.insert(key, 1, 0);
    }
    Some(())
}

/// The socket that a packet is of; the listening one where a connection is being accepted.
#[inline(always)]
fn sender(ctx: &SkBuffContext) -> Option<*const u8> {
    let socket: *const u8 = field(ctx.as_ptr().cast_const().cast(), &SKB_SENDER);
    match field::<u8>(socket, &SENDER_STATE) {
        TIME_WAIT => None,
        NEW_SYN_RECV => Some(field(socket, &SENDER_LISTENER)),
        _ => Some(socket),
    }
}

/// The number of a socket's inode.
#[inline(always)]
fn inode(socket: *const u8) -> u64 {
    let upper: *const u8 = field(socket, &SENDER_SOCKET);
    if upper.is_null() { 0 } else { field(upper, &SOCKET_INODE) }
}

#[cgroup_sock_addr(connect4)]
pub fn connects4(ctx: SockAddrContext) -> i32 {
    remember(&ctx)
}

#[cgroup_sock_addr(connect6)]
pub fn connects6(ctx: SockAddrContext) -> i32 {
    remember(&ctx)
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sends4(ctx: SockAddrContext) -> i32 {
    remember(&ctx)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sends6(ctx: SockAddrContext) -> i32 {
    remember(&ctx)
}

/// The task that runs is the one that connects or sends.
#[inline(always)]
fn remember(ctx: &SockAddrContext) -> i32 {
    // SAFETY: the helper takes the socket's address.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let known = OWNERS.get_ptr(cookie);
    // SAFETY: a value that was found may be read.
    if known.is_none_or(|known| unsafe { (*known).pid } != ctx.tgid()) {
        let _ = OWNERS.insert(cookie, task(), 0);
    }
    GO_ON
}
