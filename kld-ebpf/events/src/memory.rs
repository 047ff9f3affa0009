//! Events of memory that has run short.

use crate::{COMM, Plain, Task};

/// A process is to be killed for want of memory.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Oom {
    /// Who asked for memory.
    pub task: Task,
    /// The victim's control group in the second hierarchy; 0 where the kernel does not tell.
    pub cgroup: u64,
    /// The victim's address space in pages; 0 where the kernel does not tell.
    pub pages: u64,
    /// The victim.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// What was added to its score.
    pub adjusted: i32,
    /// Whether the kernel tells more than the process.
    pub told: u32,
    /// Its name.
    pub comm: [u8; COMM],
}

/// A task had to free memory before it got some.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Reclaim {
    /// Who.
    pub task: Task,
    /// How long that took, in nanoseconds.
    pub lasted: u64,
    /// How many pages were freed.
    pub pages: u64,
    /// It asked for two to the power of this many pages.
    pub order: u32,
    /// Whether it had reached a control group's limit, not the host's.
    pub group: u32,
}

/// The switch for control groups' limits too.
pub const GROUPS: u32 = 1;

// SAFETY: repr(C), integers only, no gap between them.
unsafe impl Plain for Oom {}
// SAFETY: as above.
unsafe impl Plain for Reclaim {}

/// The most bytes of a cache's name that are kept, its NUL included.
pub const CACHE: usize = 32;

/// One of the kernel's caches of objects, by its name up to its first NUL.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cache {
    /// Zeros behind the name too.
    pub name: [u8; CACHE],
}

// SAFETY: as above.
unsafe impl Plain for Cache {}
