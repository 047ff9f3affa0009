//! Events of system calls upon sockets.

use crate::tcp::Flow;
use crate::{Plain, Task};

/// The switch for addresses of version 4 only.
pub const IPV4: u32 = 1 << 16;
/// The switch for addresses of version 6 only.
pub const IPV6: u32 = 1 << 17;
/// The switch for calls too that have failed.
pub const FAILED: u32 = 1 << 18;

/// IP_FREEBIND, in [`Bind::options`].
pub const FREEBIND: u32 = 1;
/// IP_TRANSPARENT.
pub const TRANSPARENT: u32 = 2;
/// IP_BIND_ADDRESS_NO_PORT.
pub const NO_PORT: u32 = 4;
/// SO_REUSEADDR.
pub const REUSE_ADDRESS: u32 = 8;
/// SO_REUSEPORT.
pub const REUSE_PORT: u32 = 16;

/// A socket was bound to an address, or was not.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Bind {
    /// Who.
    pub task: Task,
    /// The address: what was asked for where it has failed.
    pub flow: Flow,
    /// What the socket is set to.
    pub options: u32,
    /// The interface that it is bound to; 0: none.
    pub interface: u32,
    /// SOCK_STREAM and its like.
    pub kind: u16,
    /// IPPROTO_TCP and its like.
    pub protocol: u16,
    /// 0, or a negative error number.
    pub result: i32,
}

/// A socket listens, or does not.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Listen {
    /// Who.
    pub task: Task,
    /// Where.
    pub flow: Flow,
    /// How many connections may wait, as the call has it.
    pub backlog: i32,
    /// The number of the network namespace.
    pub namespace: u32,
    /// IPPROTO_TCP and its like.
    pub protocol: u32,
    /// 0, or a negative error number.
    pub result: i32,
}

/// A TCP connection was taken.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Accept {
    /// Who.
    pub task: Task,
    /// Its ends.
    pub flow: Flow,
}

// SAFETY: repr(C), integers only, no gap between them.
unsafe impl Plain for Bind {}
// SAFETY: as above.
unsafe impl Plain for Listen {}
// SAFETY: as above.
unsafe impl Plain for Accept {}
