//! Events of a program that tests alone load: far more of them than system calls can make.

use crate::{Plain, Task};

/// One of the many that a call of getppid(2) makes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Numbered {
    /// Who made the call.
    pub task: Task,
    /// The call, by the argument that it was given and has no use for.
    pub call: u64,
    /// Which of the call's events it is, from 0.
    pub number: u64,
}

// SAFETY: repr(C), integers only, no gap between them.
unsafe impl Plain for Numbered {}
