//! tcpdrop: packets of TCP that are dropped, on kfree_skb(packet, location[, reason[, socket that was to receive]]).
//! What they are is read from their own headers: many are dropped before a socket is found for them.
#![no_std]
#![no_main]

use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use kld_ebpf_events::tcp::{Drop, Flow, UNKNOWN};
use kld_ebpf_programs::current::task;
use kld_ebpf_programs::output::send;
use kld_ebpf_programs::read::{Known, field, known};
use kld_ebpf_programs::socket::{AF_INET, AF_INET6, is_anybody_wanted, is_full, wanted_family, wanted_owner};
use kld_ebpf_programs::tcp::{IPPROTO_TCP, is_tcp, state, widen};

use aya_ebpf::helpers::bpf_probe_read_kernel;

#[unsafe(no_mangle)]
static PACKET_SOCK: Known = known();
#[unsafe(no_mangle)]
static PACKET_HEAD: Known = known();
#[unsafe(no_mangle)]
static PACKET_NETWORK: Known = known();
#[unsafe(no_mangle)]
static PACKET_PROTOCOL: Known = known();

// linux/if_ether.h
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
/// The length of version 6's header.
const HEADER6: usize = 40;
/// The flags' place in TCP's header.
const FLAGS: usize = 13;
/// Of version 4's fragment field, the part that is 0 in a packet's first fragment.
const FRAGMENT: u16 = 0x1fff;

/// Kernels since 6.11.
#[raw_tracepoint(tracepoint = "kfree_skb")]
pub fn dropped(ctx: RawTracePointContext) -> i32 {
    tell(ctx.arg(0), ctx.arg(2), ctx.arg(3))
}

/// Kernels since 5.17.
#[raw_tracepoint(tracepoint = "kfree_skb")]
pub fn dropped_5_17(ctx: RawTracePointContext) -> i32 {
    tell(ctx.arg(0), ctx.arg(2), core::ptr::null())
}

/// Kernels before that, which give no reason.
#[raw_tracepoint(tracepoint = "kfree_skb")]
pub fn dropped_5_8(ctx: RawTracePointContext) -> i32 {
    tell(ctx.arg(0), UNKNOWN, core::ptr::null())
}

#[inline(always)]
fn tell(packet: *const u8, reason: u32, receiver: *const u8) -> i32 {
    let Some((mut flow, header)) = ends(packet) else { return 0 };
    if !wanted_family(flow.family) {
        return 0;
    }
    let own: *const u8 = field(packet, &PACKET_SOCK);
    let socket = if own.is_null() { receiver } else { own };
    let state = if socket.is_null() { 0 } else { state(socket) };
    let owner = if is_full(socket, state) && is_tcp(socket) {
        flow.state = state;
        wanted_owner(socket)
    } else {
        is_anybody_wanted().then(task)
    };
    let Some(task) = owner else { return 0 };
    let flags = u32::from(read::<u8>(header.wrapping_add(FLAGS)));
    // SAFETY: the ring gives room for the event.
    send(|event: *mut Drop| unsafe { event.write(Drop { task, flow, reason, flags }) });
    0
}

/// A packet's two ends, and where its TCP header is; `None` where it has none.
#[inline(always)]
fn ends(packet: *const u8) -> Option<(Flow, *const u8)> {
    let head: *const u8 = field(packet, &PACKET_HEAD);
    let network = head.wrapping_add(field::<u16>(packet, &PACKET_NETWORK) as usize);
    let version = read::<u8>(network) >> 4;
    match u16::from_be(field(packet, &PACKET_PROTOCOL)) {
        ETH_P_IP if version == 4 => {
            let length = (read::<u8>(network) & 0xf) as usize * 4;
            let fragment = u16::from_be(read(network.wrapping_add(6)));
            if read::<u8>(network.wrapping_add(9)) != IPPROTO_TCP as u8 || fragment & FRAGMENT != 0 {
                return None;
            }
            let address = |at: usize| widen(read(network.wrapping_add(at)));
            Some(with_ports(AF_INET, address(12), address(16), network.wrapping_add(length)))
        }
        ETH_P_IPV6 if version == 6 => {
            if read::<u8>(network.wrapping_add(6)) != IPPROTO_TCP as u8 {
                return None;
            }
            let address = |at: usize| read(network.wrapping_add(at));
            Some(with_ports(AF_INET6, address(8), address(24), network.wrapping_add(HEADER6)))
        }
        _ => None,
    }
}

#[inline(always)]
fn with_ports(family: u16, local: [u8; 16], remote: [u8; 16], header: *const u8) -> (Flow, *const u8) {
    let port = |at: usize| u16::from_be(read(header.wrapping_add(at)));
    (Flow { local, remote, family, local_port: port(0), remote_port: port(2), state: 0 }, header)
}

/// What is at an address; zeros where it cannot be read.
#[inline(always)]
fn read<T: Copy>(at: *const u8) -> T {
    // SAFETY: the helper checks the address; a T is plain data, as zeros are too.
    unsafe { bpf_probe_read_kernel(at.cast::<T>()).unwrap_or_else(|_| core::mem::zeroed()) }
}
