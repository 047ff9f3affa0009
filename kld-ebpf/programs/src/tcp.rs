//! What a TCP socket tells of itself.

use kld_ebpf_events::tcp::Flow;

use crate::read::{Known, field, known};
use crate::socket::AF_INET;

#[unsafe(no_mangle)]
static SOCK_FAMILY: Known = known();
#[unsafe(no_mangle)]
static SOCK_PROTOCOL: Known = known();
#[unsafe(no_mangle)]
static SOCK_STATE: Known = known();
#[unsafe(no_mangle)]
static SOCK_LOCAL4: Known = known();
#[unsafe(no_mangle)]
static SOCK_REMOTE4: Known = known();
#[unsafe(no_mangle)]
static SOCK_LOCAL6: Known = known();
#[unsafe(no_mangle)]
static SOCK_REMOTE6: Known = known();
#[unsafe(no_mangle)]
static SOCK_LOCAL_PORT: Known = known();
#[unsafe(no_mangle)]
static SOCK_REMOTE_PORT: Known = known();

pub const IPPROTO_TCP: u16 = 6;

/// Whether a socket is TCP's: others change their states at the same hook.
#[inline(always)]
pub fn is_tcp(socket: *const u8) -> bool {
    protocol(socket) == IPPROTO_TCP
}

/// A socket's protocol.
#[inline(always)]
pub fn protocol(socket: *const u8) -> u16 {
    field(socket, &SOCK_PROTOCOL)
}

/// The state of a socket, or of its beginning or its rest.
#[inline(always)]
pub fn state(socket: *const u8) -> u16 {
    u16::from(field::<u8>(socket, &SOCK_STATE))
}

/// The family of a socket's addresses.
#[inline(always)]
pub fn family(socket: *const u8) -> u16 {
    field(socket, &SOCK_FAMILY)
}

/// A socket's two ends.
#[inline(always)]
pub fn flow(socket: *const u8) -> Flow {
    let family = family(socket);
    let (local, remote) = if family == AF_INET {
        (widen(field(socket, &SOCK_LOCAL4)), widen(field(socket, &SOCK_REMOTE4)))
    } else {
        (field(socket, &SOCK_LOCAL6), field(socket, &SOCK_REMOTE6))
    };
    Flow {
        local,
        remote,
        family,
        local_port: u16::from_be(field(socket, &SOCK_LOCAL_PORT)),
        remote_port: u16::from_be(field(socket, &SOCK_REMOTE_PORT)),
        state: state(socket),
    }
}

/// An address of version 4 in the room of one of version 6.
#[inline(always)]
pub fn widen(address: u32) -> [u8; 16] {
    u128::from(address).to_le_bytes()
}
