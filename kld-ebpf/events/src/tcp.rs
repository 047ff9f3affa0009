//! Events of TCP connections.

use crate::table::Tally;
use crate::{COMM, Plain, Task};

/// The switch for the beginnings of outgoing connections only.
pub const CONNECTS: u32 = 1;
/// The switch for the ends of connections only.
pub const ENDS: u32 = 2;

/// The switch for how long outgoing connections wait for an answer.
pub const LATENCIES: u32 = 4;
/// The switch for tail loss probes too, where else only segments that are taken for lost are told.
pub const PROBES: u32 = 8;

/// The two ends of a connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
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

/// A segment was sent again.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Retransmit {
    /// Who ran when it was, with the user and the control group that the socket is of.
    pub task: Task,
    /// The ends and the state.
    pub flow: Flow,
    /// The first byte's number.
    pub sequence: u32,
    /// Whether it is a tail loss probe.
    pub probe: u32,
}

/// A packet of TCP was dropped.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Drop {
    /// Who ran when it was, with the user and the control group that the socket is of where there is one.
    pub task: Task,
    /// From where to where: the local end is the packet's source. The state is the socket's, 0 where there is none.
    pub flow: Flow,
    /// Why, as `enum skb_drop_reason` has it; [`UNKNOWN`] where the kernel does not tell.
    pub reason: u32,
    /// The flags of its header.
    pub flags: u32,
}

/// No reason was told.
pub const UNKNOWN: u32 = u32::MAX;

// SAFETY: repr(C), integers only, no gap between them.
unsafe impl Plain for Flow {}
// SAFETY: as above.
unsafe impl Plain for State {}
// SAFETY: as above.
unsafe impl Plain for Retransmit {}
// SAFETY: as above.
unsafe impl Plain for Drop {}

/// The switch for a distribution for each local address.
pub const BY_LOCAL: u32 = 1;
/// The switch for a distribution for each remote address.
pub const BY_REMOTE: u32 = 2;

/// An address; zeros where all are one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// AF_INET or AF_INET6.
    pub family: u64,
    /// The address; of one of version 4 the first four bytes.
    pub bytes: [u8; 16],
}

// SAFETY: repr(C), integers only, no gap between them.
unsafe impl Plain for Address {}

/// A process's connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Of {
    /// The process.
    pub pid: u64,
    /// The ends; they bear no state.
    pub flow: Flow,
    /// The name of the thread.
    pub comm: [u8; COMM],
}

/// What a connection has carried.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// How often something was sent or received.
    pub count: u64,
    /// Bytes that were sent.
    pub sent: u64,
    /// Bytes that were received.
    pub received: u64,
}

impl Tally for Traffic {
    const ZERO: &'static Traffic = &Traffic { count: 0, sent: 0, received: 0 };

    fn merge(&mut self, other: &Traffic) {
        self.count += other.count;
        self.sent += other.sent;
        self.received += other.received;
    }

    fn count(&self) -> u64 {
        self.count
    }
}

// SAFETY: repr(C), integers only, no gap between them.
unsafe impl Plain for Of {}
// SAFETY: as above.
unsafe impl Plain for Traffic {}
