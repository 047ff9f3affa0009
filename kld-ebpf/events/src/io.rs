//! Reads and writes of files.

use crate::table::Tally;
use crate::{COMM, Plain, Task};

/// The switch for files of every kind, where else only regular ones are looked at.
pub const ALL: u32 = 1;

/// The most bytes of a file's name that totals are kept by, its NUL included.
pub const NAME: usize = 64;

/// What a file is: `S_IFMT` of its mode (inode(7)).
pub const KIND: u32 = 0o170_000;

/// A read or write has ended; the file's name follows, without the NUL.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Io {
    /// Who, and when it ended.
    pub task: Task,
    /// How long it took, in nanoseconds.
    pub taken: u64,
    /// How many bytes, or a negative error number.
    pub result: i64,
    /// The file's number within its file system.
    pub inode: u64,
    /// The number of the file system, as the kernel has it: the major one shifted by 20 bits, and the minor one.
    pub device: u32,
    /// What the file is, as in [`KIND`].
    pub kind: u32,
    /// Whether it writes.
    pub writes: u64,
}

/// What totals are kept by.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Of {
    /// The file's number within its file system.
    pub inode: u64,
    /// The number of the file system.
    pub device: u32,
    /// What the file is.
    pub kind: u32,
    /// The process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// The thread's name.
    pub comm: [u8; COMM],
    /// The beginning of the file's name, up to its first NUL.
    pub name: [u8; NAME],
}

/// How often and how much was read and written.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accesses {
    /// How often something was read.
    pub reads: u64,
    /// How often something was written.
    pub writes: u64,
    /// Bytes that were read.
    pub read: u64,
    /// Bytes that were written.
    pub written: u64,
}

impl Tally for Accesses {
    const ZERO: &'static Accesses = &Accesses { reads: 0, writes: 0, read: 0, written: 0 };

    fn merge(&mut self, other: &Accesses) {
        self.reads += other.reads;
        self.writes += other.writes;
        self.read += other.read;
        self.written += other.written;
    }

    fn count(&self) -> u64 {
        self.reads + self.writes
    }
}

/// What is counted of the kernel's work for files: its key in the table.
pub mod work {
    /// A read.
    pub const READ: u64 = 0;
    /// A write.
    pub const WRITE: u64 = 1;
    /// A file is brought to its disk.
    pub const FSYNC: u64 = 2;
    /// A file is opened.
    pub const OPEN: u64 = 3;
    /// A file is made.
    pub const CREATE: u64 = 4;
    /// A name is taken away.
    pub const UNLINK: u64 = 5;
    /// A folder is made.
    pub const MKDIR: u64 = 6;
    /// A folder is taken away.
    pub const RMDIR: u64 = 7;
}

/// What is counted of the page cache: its key in the table; the amount is in pages.
pub mod cache {
    /// Pages are wanted.
    pub const WANTED: u64 = 0;
    /// Pages are added.
    pub const ADDED: u64 = 1;
    /// Pages become dirty.
    pub const DIRTIED: u64 = 2;
    /// Buffers become dirty.
    pub const BUFFER_DIRTIED: u64 = 3;
}

// SAFETY: repr(C), integers only, no gap between them.
unsafe impl Plain for Io {}
// SAFETY: as above.
unsafe impl Plain for Of {}
// SAFETY: as above.
unsafe impl Plain for Accesses {}
