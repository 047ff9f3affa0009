//! What kld's BPF programs write and their readers read: plain data in C's layout, without padding, so that every
//! byte of it is known.
#![no_std]
#![deny(missing_docs)]

pub mod block;
pub mod file;
pub mod filter;
pub mod flood;
pub mod flow;
pub mod guest;
pub mod histogram;
pub mod io;
pub mod irq;
pub mod memory;
pub mod process;
pub mod sched;
pub mod socket;
pub mod stack;
pub mod table;
pub mod tcp;
pub mod user;
pub mod zfs;

/// The most bytes of a task's name that the kernel keeps, its NUL included.
pub const COMM: usize = 16;

/// Plain data: it may be read from any bytes of its size.
///
/// # Safety
/// The type is `repr(C)`, has no padding, and every pattern of bits is a value of it.
pub unsafe trait Plain: Copy + 'static {
    /// The value at the beginning of these bytes, and the bytes that follow it.
    fn split(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (head, rest) = bytes.split_at_checked(size_of::<Self>())?;
        // SAFETY: the head has the type's size, and the trait says that any bytes are a value.
        Some((unsafe { head.as_ptr().cast::<Self>().read_unaligned() }, rest))
    }

    /// Its bytes.
    fn bytes(&self) -> &[u8] {
        // SAFETY: the trait says that there is no padding, so every byte is initialised.
        unsafe { core::slice::from_raw_parts(core::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }
}

/// Who did it, and when: the beginning of every event that a task causes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Task {
    /// Nanoseconds of the monotonic clock.
    pub time: u64,
    /// The id of its cgroup in the second hierarchy.
    pub cgroup: u64,
    /// The process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// The real user.
    pub uid: u32,
    /// The real group.
    pub gid: u32,
    /// The thread's name, up to its first NUL.
    pub comm: [u8; COMM],
}

impl Task {
    /// The thread's name; what is no UTF-8 of it is left out.
    pub fn name(&self) -> &str {
        text(&self.comm)
    }
}

/// The text up to the first NUL; what is no UTF-8 is left out with all that follows.
pub fn text(bytes: &[u8]) -> &str {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    text.utf8_chunks().next().map_or("", |chunk| chunk.valid())
}

/// What a processor has counted.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events that passed the filter.
    pub seen: u64,
    /// Those of them that found the ring full.
    pub lost: u64,
}

// SAFETY: repr(C), integers only, no gap between them.
unsafe impl Plain for Task {}
// SAFETY: as above.
unsafe impl Plain for Counts {}
