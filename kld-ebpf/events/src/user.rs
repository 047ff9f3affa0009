//! What happens within programs: names that are looked up, lines that are read.

use crate::{Plain, Task};

/// getaddrinfo(3).
pub const GETADDRINFO: u32 = 0;
/// gethostbyname(3).
pub const GETHOSTBYNAME: u32 = 1;
/// gethostbyname2(3).
pub const GETHOSTBYNAME2: u32 = 2;

/// A host's name was looked up; it follows, without the NUL.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Lookup {
    /// Who, and when it ended.
    pub task: Task,
    /// How long it took, in nanoseconds.
    pub taken: u64,
    /// Which function, one of the constants here.
    pub call: u32,
    /// What getaddrinfo(3) returned; of the others 0, or 1 where they have found nothing.
    pub result: i32,
}

// SAFETY: repr(C), integers only, no gap between them.
unsafe impl Plain for Lookup {}
