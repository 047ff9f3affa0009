//! Events of block devices.

use crate::{Plain, Task};

/// A request has ended.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// Who asked for it.
    pub task: Task,
    /// When it ended; `task.time` is when it began.
    pub ended: u64,
    /// When it was given to the device.
    pub issued: u64,
    /// The first sector, of 512 bytes.
    pub sector: u64,
    /// How many bytes.
    pub bytes: u32,
    /// What was asked for, as in enum req_op.
    pub operation: u32,
    /// The device's name, up to its first NUL.
    pub disk: [u8; 32],
}

// SAFETY: repr(C), integers only, no gap between them.
unsafe impl Plain for Block {}
