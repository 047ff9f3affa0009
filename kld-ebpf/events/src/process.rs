//! Events of processes.

use crate::{Plain, Task};

/// A file was opened, or was not; its path follows, without the NUL.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Open {
    /// Who.
    pub task: Task,
    /// The flags of open(2).
    pub flags: u64,
    /// The mode of open(2), where a file is made.
    pub mode: u32,
    /// The descriptor, or a negative error number.
    pub result: i32,
}

// SAFETY: repr(C), integers only, no gap between them.
unsafe impl Plain for Open {}

/// A program was started, or was not. Its arguments follow, each with its NUL; where it was not started, the
/// program's path.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Exec {
    /// Who, by its new name.
    pub task: Task,
    /// The parent process.
    pub parent: u32,
    /// 0, or a negative error number.
    pub result: i32,
    /// How many bytes the arguments have; more than follow where they were cut.
    pub length: u64,
}

/// The most bytes of arguments that are told.
pub const ARGS: usize = 4096;

/// A thread has ended.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Exit {
    /// Who.
    pub task: Task,
    /// When it began, by the monotonic clock.
    pub began: u64,
    /// The parent process.
    pub parent: u32,
    /// Its status, as wait(2) has it.
    pub status: u32,
}

/// A signal was sent by a system call, or was not.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Kill {
    /// Who.
    pub task: Task,
    /// To whom: as the call has it, so that 0 and negative numbers are groups.
    pub target: i32,
    /// The signal.
    pub signal: i32,
    /// 0, or a negative error number.
    pub result: i32,
    /// Nothing.
    pub pad: u32,
}

/// A thread was made.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Thread {
    /// By whom.
    pub task: Task,
    /// The new thread.
    pub tid: u32,
    /// Nothing.
    pub pad: u32,
}

/// The kernel has looked whether a task has a capability.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Capable {
    /// Who.
    pub task: Task,
    /// The capability, as in linux/capability.h.
    pub capability: u32,
    /// The number of the user namespace that it is needed in.
    pub namespace: u32,
    /// 0, or a negative error number.
    pub result: i32,
    /// Nothing.
    pub pad: u32,
}

// SAFETY: repr(C), integers only, no gap between them.
unsafe impl Plain for Exec {}
// SAFETY: as above.
unsafe impl Plain for Exit {}
// SAFETY: as above.
unsafe impl Plain for Kill {}
// SAFETY: as above.
unsafe impl Plain for Thread {}
// SAFETY: as above.
unsafe impl Plain for Capable {}

/// The switch for system calls by process, where else they are counted by number.
pub const CALLS_BY_PROCESS: u32 = 1;
/// The switch for how long system calls take.
pub const CALLS_TIMED: u32 = 2;
/// The switch for system calls that have failed only.
pub const CALLS_FAILED: u32 = 4;
/// What is added to a system call's number where a 32-bit program made it.
pub const CALL_32: u64 = 1 << 32;
