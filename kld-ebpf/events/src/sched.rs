//! What the scheduler does.

use crate::{COMM, Plain, Task};

/// The switch for a histogram by process.
pub const BY_PROCESS: u32 = 1;
/// The switch for a histogram by thread.
pub const BY_THREAD: u32 = 2;
/// The switch for an event for each wait, where else they are counted.
pub const EACH: u32 = 4;
/// The switch for the times off the processor, where else those on it are counted.
pub const OFF: u32 = 8;

/// A task has waited for a processor.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    /// Who ran before it; the time is when the wait ended.
    pub before: Task,
    /// How long it waited, in nanoseconds.
    pub waited: u64,
    /// The process that waited.
    pub pid: u32,
    /// The thread that waited.
    pub tid: u32,
    /// Its name.
    pub comm: [u8; COMM],
}

// SAFETY: repr(C), integers only, no gap between them.
unsafe impl Plain for Wait {}

/// How many tasks could run on a processor when it was looked at, beside the one that ran.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Queue {
    /// The processor.
    pub cpu: u32,
    /// How many waited.
    pub length: u32,
}

// SAFETY: as above.
unsafe impl Plain for Queue {}
