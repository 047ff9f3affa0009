//! What is done with files on ZFS.

use crate::{Plain, Task};

/// The switch for each deed that takes long, where else there are distributions.
pub const EACH: u32 = 1;

/// A read.
pub const READ: u64 = 0;
/// A write.
pub const WRITE: u64 = 1;
/// An open.
pub const OPEN: u64 = 2;
/// A sync.
pub const FSYNC: u64 = 3;

/// A deed has ended; the file's name follows, without the NUL.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Did {
    /// Who, and when it ended.
    pub task: Task,
    /// How long it took, in nanoseconds.
    pub taken: u64,
    /// How many bytes, or a negative error number.
    pub result: i64,
    /// Where in the file it began, of reads and writes.
    pub place: u64,
    /// The file's number within its file system.
    pub inode: u64,
    /// The number of the file system, as the kernel has it: the major one shifted by 20 bits, and the minor one.
    pub device: u32,
    /// Which, one of the constants here.
    pub operation: u32,
}

// SAFETY: repr(C), integers only, no gap between them.
unsafe impl Plain for Did {}
