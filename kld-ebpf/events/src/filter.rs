//! Which tasks' events are wanted: written before the program is loaded, so that the kernel leaves out the tests
//! that are not asked for.

use crate::{COMM, Plain};

/// Only processes in the map `PIDS`.
pub const BY_PID: u32 = 1;
/// Only this real user.
pub const BY_UID: u32 = 2;
/// Only threads of exactly this name.
pub const BY_COMM: u32 = 4;
/// Only tasks of this cgroup and of those below it.
pub const BY_CGROUP: u32 = 8;

/// What is wanted; all zeros is everything.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter {
    /// The cgroup's id, with [`BY_CGROUP`].
    pub cgroup: u64,
    /// The program's own number, whatever it means to it; 0: none.
    pub argument: u64,
    /// How deep that cgroup lies; the root is 0.
    pub level: u32,
    /// Which of the tests count.
    pub by: u32,
    /// The user, with [`BY_UID`].
    pub uid: u32,
    /// The program's own switches, whatever they mean to it.
    pub switches: u32,
    /// The name padded with NULs, with [`BY_COMM`].
    pub comm: [u8; COMM],
}

// SAFETY: repr(C), integers only, no gap between them.
unsafe impl Plain for Filter {}
