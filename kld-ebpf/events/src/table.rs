//! Tables: what the kernel side counts by a key, and the reader takes away from time to time.

use crate::Plain;

/// A key with the reader's interval that it is counted in: the reader begins a new one, and takes the old one's
/// entries when nobody counts in them any more. So nothing is counted twice, or not at all.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Keyed<K> {
    /// The interval's number.
    pub interval: u64,
    /// What is counted by.
    pub key: K,
}

impl<K: Plain> Keyed<K> {
    /// A key of an interval. A key that would leave a gap does not compile.
    #[inline(always)]
    pub const fn new(interval: u64, key: K) -> Self {
        const { assert!(size_of::<K>().is_multiple_of(8) && align_of::<K>() <= 8) };
        Keyed { interval, key }
    }
}

// SAFETY: repr(C), and no gap, as `new` has checked: a key is plain data.
unsafe impl<K: Plain> Plain for Keyed<K> {}

/// What is counted for a key.
pub trait Tally: Plain {
    /// Nothing yet.
    const ZERO: &'static Self;
    /// Adds what another processor or interval has counted.
    fn merge(&mut self, other: &Self);
    /// How often something was counted.
    fn count(&self) -> u64;
}

/// How often, how much, and how long.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// How often.
    pub count: u64,
    /// How much, in what the probe says: bytes, for one.
    pub amount: u64,
    /// How long all together, in nanoseconds.
    pub time: u64,
}

// SAFETY: repr(C), integers only, no gap between them.
unsafe impl Plain for Total {}

impl Tally for Total {
    const ZERO: &'static Total = &Total { count: 0, amount: 0, time: 0 };

    fn merge(&mut self, other: &Total) {
        self.count += other.count;
        self.amount += other.amount;
        self.time += other.time;
    }

    fn count(&self) -> u64 {
        self.count
    }
}

/// How often, how long, and how long at most.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spell {
    /// How often.
    pub count: u64,
    /// How long all together, in nanoseconds.
    pub time: u64,
    /// How long the longest one, in nanoseconds.
    pub longest: u64,
}

// SAFETY: repr(C), integers only, no gap between them.
unsafe impl Plain for Spell {}

impl Tally for Spell {
    const ZERO: &'static Spell = &Spell { count: 0, time: 0, longest: 0 };

    fn merge(&mut self, other: &Spell) {
        self.count += other.count;
        self.time += other.time;
        self.longest = self.longest.max(other.longest);
    }

    fn count(&self) -> u64 {
        self.count
    }
}

// SAFETY: an integer has no padding, and every pattern of bits is one.
unsafe impl Plain for u64 {}
