//! What interrupts tasks.

use crate::Plain;

/// The switch for distributions, where else the time is summed up.
pub const DISTRIBUTION: u32 = 1;

/// The most bytes of a handler's name that are kept, its NUL included.
pub const HANDLER: usize = 32;

/// A handler's name, up to its first NUL.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Handler {
    /// Zeros behind the name too.
    pub name: [u8; HANDLER],
}

// SAFETY: repr(C), integers only, no gap between them.
unsafe impl Plain for Handler {}
