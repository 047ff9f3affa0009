//! Requests to block devices.

use crate::{COMM, Plain, Task};

/// The switch for a distribution of how long requests take, where else each is told.
pub const LATENCY: u32 = 1;
/// The switch for a distribution of how large they are, by who made them.
pub const SIZE: u32 = 2;
/// The switch for totals by who made them.
pub const WHO: u32 = 4;
/// The switch for totals by whether a request follows the one before.
pub const PATTERN: u32 = 8;
/// The switch for times that begin when the request is made, not when the device gets it.
pub const QUEUED: u32 = 16;
/// The switch for a distribution for each disk.
pub const BY_DISK: u32 = 32;
/// The switch for a distribution for each kind of request.
pub const BY_FLAGS: u32 = 64;
/// The switch for disks that pass on what they get, as ZFS volumes do, besides those that take requests.
pub const PASSED_ON: u32 = 128;

/// The most bytes of a disk's name, its NUL included.
pub const DISK: usize = 32;

/// What a request does is in the lowest byte of its flags (enum req_op).
pub const OPERATION: u32 = 0xff;
/// An operation that writes is odd.
pub const WRITES: u32 = 1;
/// The operation of a flush.
pub const FLUSH: u32 = 2;
/// The flag of what flushes first (REQ_PREFLUSH).
pub const PREFLUSH: u32 = 1 << 18;

/// A request has ended.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// Who made it, and when.
    pub task: Task,
    /// When the device got it.
    pub issued: u64,
    /// When it ended.
    pub ended: u64,
    /// The first sector, of 512 bytes.
    pub sector: u64,
    /// How many bytes.
    pub bytes: u32,
    /// What it does, as in linux/blk_types.h.
    pub flags: u32,
    /// The disk's name, up to its first NUL.
    pub disk: [u8; DISK],
}

/// What distributions are kept by; zeros where not.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    /// The disk's name, or that of who made the request.
    pub name: [u8; DISK],
    /// What the request does.
    pub flags: u64,
}

/// What totals are kept by; zeros where not.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Of {
    /// The disk's name.
    pub disk: [u8; DISK],
    /// The disk's number: the major one shifted by 20 bits, and the minor one.
    pub device: u32,
    /// Who made the request.
    pub pid: u32,
    /// Whether it writes, or whether it follows the one before.
    pub which: u64,
    /// The name of who made it.
    pub comm: [u8; COMM],
}

// SAFETY: repr(C), integers only, no gap between them.
unsafe impl Plain for Block {}
// SAFETY: as above.
unsafe impl Plain for Kind {}
// SAFETY: as above.
unsafe impl Plain for Of {}
