//! Flows that leave the host.

use crate::{Plain, Task, tcp};

/// What tells one flow from another. Its [ends](tcp::Flow) bear no state.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Key {
    /// The two ends, as the packet has them.
    pub ends: tcp::Flow,
    /// The interface that it leaves through, by its index.
    pub interface: u32,
    /// IPPROTO_TCP or IPPROTO_UDP.
    pub protocol: u32,
}

/// The first packet of a flow is about to leave.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Who connected or sent, where that was seen; zeros otherwise.
    pub owner: Task,
    /// Nanoseconds of the monotonic clock.
    pub time: u64,
    /// The number of the socket's inode, which its holders have open; 0 where nobody can hold it yet, or any more.
    pub inode: u64,
    /// The id of the socket's cgroup in the second hierarchy.
    pub cgroup: u64,
    /// The flow.
    pub key: Key,
}

// SAFETY: repr(C), integers only, no gap between them.
unsafe impl Plain for Key {}
// SAFETY: as above.
unsafe impl Plain for Sent {}
