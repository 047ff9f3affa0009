//! Events of TCP connections.

use crate::{Plain, Task};

/// The switch for the beginnings of outgoing connections only.
pub const CONNECTS: u32 = 1;
/// The switch for the ends of connections only.
pub const ENDS: u32 = 2;

/// The two ends of a connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Flow {
    /// The local address; of one of version 4 the first four bytes.
    pub local: [u8; 16],
    /// The remote address.
    pub remote: [u8; 16],
    /// AF_INET or AF_INET6.
    pub family: u16,
    /// The local port.
    pub local_port: u16,
    /// The remote port.
    pub remote_port: u16,
    /// The state, as in net/tcp_states.h.
    pub state: u16,
}

/// A connection has changed its state.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct State {
    /// Who ran when it did: often not whose connection it is.
    pub task: Task,
    /// Whose it is, where that is known; zeros otherwise.
    pub owner: Task,
    /// The socket's address in the kernel, which tells one from another.
    pub socket: u64,
    /// When it was first seen.
    pub began: u64,
    /// When its state changed before.
    pub changed: u64,
    /// Bytes that the other side has acknowledged.
    pub sent: u64,
    /// Bytes that were received.
    pub received: u64,
    /// The ends; the state is the old one.
    pub flow: Flow,
    /// The new state.
    pub new: u64,
}

// SAFETY: repr(C), integers only, no gap between them.
unsafe impl Plain for Flow {}
// SAFETY: as above.
unsafe impl Plain for State {}
