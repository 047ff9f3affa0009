//! Sockets: that behind a descriptor, what they are set to, and whose they are.

use kld_ebpf_events::Task;
use kld_ebpf_events::filter::{BY_CGROUP, BY_UID};
use kld_ebpf_events::socket::{FREEBIND, IPV4, IPV6, NO_PORT, REUSE_ADDRESS, REUSE_PORT, TRANSPARENT};

use crate::cgroup::{above, id};
use crate::current::{filter, switches, task};
use crate::file;
use crate::read::{Known, bit, field, known};

#[unsafe(no_mangle)]
static FILE_PRIVATE: Known = known();
#[unsafe(no_mangle)]
static SOCKET_SOCK: Known = known();
#[unsafe(no_mangle)]
static SOCK_TYPE: Known = known();
#[unsafe(no_mangle)]
static SOCK_INTERFACE: Known = known();
#[unsafe(no_mangle)]
static SOCK_NET: Known = known();
#[unsafe(no_mangle)]
static NET_NUMBER: Known = known();
#[unsafe(no_mangle)]
static SOCK_UID: Known = known();
/// A control group's address: since 5.15, or with marks in its lowest bits before.
#[unsafe(no_mangle)]
static SOCK_CGROUP: Known = known();
// Places in bits.
#[unsafe(no_mangle)]
static BIT_FREEBIND: Known = known();
#[unsafe(no_mangle)]
static BIT_TRANSPARENT: Known = known();
#[unsafe(no_mangle)]
static BIT_NO_PORT: Known = known();
#[unsafe(no_mangle)]
static BIT_REUSE: Known = known();
#[unsafe(no_mangle)]
static BIT_REUSEPORT: Known = known();

pub const AF_INET: u16 = 2;
pub const AF_INET6: u16 = 10;

// net/tcp_states.h: what is only the beginning or the rest of a socket lacks most of its fields.
const TIME_WAIT: u16 = 6;
const NEW_SYN_RECV: u16 = 12;

/// The socket behind a descriptor of the task that runs, which must be a socket's.
#[inline(always)]
pub fn of_descriptor(fd: u32) -> *const u8 {
    field(field(file::of_descriptor(fd), &FILE_PRIVATE), &SOCKET_SOCK)
}

/// Whether a family of addresses is one of the two of the internet, and wanted.
#[inline(always)]
pub fn wanted_family(family: u16) -> bool {
    let asked = switches() & (IPV4 | IPV6);
    family == AF_INET && asked != IPV6 || family == AF_INET6 && asked != IPV4
}

/// SOCK_STREAM and its like.
#[inline(always)]
pub fn kind(socket: *const u8) -> u16 {
    field(socket, &SOCK_TYPE)
}

/// The interface that it is bound to; 0: none.
#[inline(always)]
pub fn interface(socket: *const u8) -> u32 {
    field(socket, &SOCK_INTERFACE)
}

/// The number of its network namespace.
#[inline(always)]
pub fn namespace(socket: *const u8) -> u32 {
    field(field(socket, &SOCK_NET), &NET_NUMBER)
}

/// What it is set to, of what matters when it is bound.
#[inline(always)]
pub fn options(socket: *const u8) -> u32 {
    let option = |place: &Known, option: u32| if bit(socket, place) { option } else { 0 };
    option(&BIT_FREEBIND, FREEBIND)
        | option(&BIT_TRANSPARENT, TRANSPARENT)
        | option(&BIT_NO_PORT, NO_PORT)
        | option(&BIT_REUSE, REUSE_ADDRESS)
        | option(&BIT_REUSEPORT, REUSE_PORT)
}

/// Whether it has a socket's fields.
#[inline(always)]
pub fn is_full(socket: *const u8, state: u16) -> bool {
    !socket.is_null() && state != TIME_WAIT && state != NEW_SYN_RECV
}

/// Who runs, but with the user and the control group that a full socket is of; `None` where it is not one of the
/// wanted.
#[inline(always)]
pub fn wanted_owner(socket: *const u8) -> Option<Task> {
    let filter = filter();
    let (uid, cgroup): (u32, *const u8) = (field(socket, &SOCK_UID), cgroup(socket));
    if filter.by & BY_UID != 0 && uid != filter.uid
        || filter.by & BY_CGROUP != 0 && above(cgroup, filter.level) != filter.cgroup
    {
        return None;
    }
    Some(Task { uid, cgroup: id(cgroup), ..task() })
}

/// Whether what has no socket to say whose it is may be told.
#[inline(always)]
pub fn is_anybody_wanted() -> bool {
    filter().by & (BY_UID | BY_CGROUP) == 0
}

#[inline(always)]
fn cgroup(socket: *const u8) -> *const u8 {
    let value: u64 = field(socket, &SOCK_CGROUP);
    // The lowest bit says that it is something else.
    if value & 1 == 0 { (value & !3) as *const u8 } else { core::ptr::null() }
}
