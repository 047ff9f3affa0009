//! Distributions: eight slots for each power of two, so that a quantile is right to an eighth.

use crate::Plain;

/// How many slots there are: enough for any number of 64 bits.
pub const SLOTS: usize = 496;

/// What was counted.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Histogram {
    /// The sum of all values.
    pub sum: u64,
    /// How many values fell into each slot.
    pub slots: [u64; SLOTS],
}

// SAFETY: repr(C), integers only, no gap between them.
unsafe impl Plain for Histogram {}

/// The slot that a value falls into.
#[inline(always)]
pub const fn slot(value: u64) -> usize {
    if value < 8 {
        return value as usize;
    }
    let power = value.ilog2() as usize;
    (power - 2) * 8 + (value >> (power - 3) & 7) as usize
}

/// The smallest value that falls into a slot.
pub const fn least(slot: usize) -> u64 {
    if slot < 8 {
        return slot as u64;
    }
    let power = slot / 8 + 2;
    (8 + slot as u64 % 8) << (power - 3)
}
