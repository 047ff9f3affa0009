//! Stacks of calls: programs keep them in maps of their own, and tell their numbers.

use crate::{COMM, Plain};

/// The switch for no calls of the program itself.
pub const NO_USER: u32 = 1;
/// The switch for no calls in the kernel.
pub const NO_KERNEL: u32 = 2;
/// The switch for no threads of the kernel.
pub const ONLY_USER_THREADS: u32 = 4;
/// The switch for threads of the kernel only.
pub const ONLY_KERNEL_THREADS: u32 = 8;
/// The switch for processors that have nothing to do too.
pub const IDLE: u32 = 16;

/// What stands for a stack that there is not: of a thread of the kernel, the program's own calls (-EFAULT).
pub const NONE: i32 = -14;
/// There was another stack where this one belongs (-EEXIST).
pub const TAKEN: i32 = -17;
/// There was no room for this one (-ENOMEM).
pub const FULL: i32 = -12;
/// The bit of those that were kept in the second map, since their place in the first one was taken.
pub const SECOND: i32 = 1 << 30;

/// The numbers of a task's two stacks, as bpf_get_stackid has them: negative where there is none.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ids {
    /// That of its calls in the kernel.
    pub kernel: i32,
    /// That of the program's own.
    pub user: i32,
}

/// Whose stacks.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Of {
    /// The stacks.
    pub stack: Ids,
    /// The process.
    pub pid: u32,
    /// Nothing.
    pub pad: u32,
    /// The thread's name.
    pub comm: [u8; COMM],
}

/// Who has woken whom, and where that was.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wakeup {
    /// The stacks of who has woken.
    pub stack: Ids,
    /// The process that has woken.
    pub waker: u32,
    /// The process that was woken.
    pub woken: u32,
    /// The name of the thread that has woken.
    pub waker_comm: [u8; COMM],
    /// The name of the thread that was woken.
    pub woken_comm: [u8; COMM],
}

/// Where a lock is waited for.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Contention {
    /// The stacks of who waits.
    pub stack: Ids,
    /// The kind of lock: `LCB_F_SPIN` and its like, as in trace/events/lock.h.
    pub kind: u64,
}

// SAFETY: repr(C), integers only, no gap between them.
unsafe impl Plain for Ids {}
// SAFETY: as above.
unsafe impl Plain for Of {}
// SAFETY: as above.
unsafe impl Plain for Wakeup {}
// SAFETY: as above.
unsafe impl Plain for Contention {}
