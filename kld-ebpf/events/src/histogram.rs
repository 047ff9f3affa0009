//! Distributions: eight slots for each power of two, so that a quantile is right to an eighth, and a table in powers
//! of two is exact.

use crate::Plain;
use crate::table::Tally;

/// How many slots there are: from 2^42 on all values share the last one.
pub const SLOTS: usize = 320;

/// The switch for times in nanoseconds, which else are in microseconds.
pub const NANOSECONDS: u32 = 1 << 31;
/// The switch for times in milliseconds.
pub const MILLISECONDS: u32 = 1 << 30;

/// What was counted.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Histogram {
    /// The sum of all values; of times in nanoseconds, whatever the unit.
    pub sum: u64,
    /// The greatest value; of times in nanoseconds, whatever the unit.
    pub max: u64,
    /// How many values fell into each slot, in the unit.
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
    let slot = (power - 2) * 8 + (value >> (power - 3) & 7) as usize;
    if slot < SLOTS { slot } else { SLOTS - 1 }
}

/// The smallest value that falls into a slot.
pub const fn least(slot: usize) -> u64 {
    if slot < 8 {
        return slot as u64;
    }
    let power = slot / 8 + 2;
    (8 + slot as u64 % 8) << (power - 3)
}

/// The row of a table in powers of two that a slot belongs to: row 0 is 0 and 1, row n the values from 2^n on.
pub const fn row(slot: usize) -> usize {
    match slot {
        0 | 1 => 0,
        2..8 => slot.ilog2() as usize,
        _ => slot / 8 + 2,
    }
}

/// How many rows such a table has at most.
pub const ROWS: usize = row(SLOTS - 1) + 1;

impl Histogram {
    /// How many values fell into each power of two; see [`row`].
    pub fn rows(&self) -> [u64; ROWS] {
        let mut rows = [0; ROWS];
        for (slot, count) in self.slots.iter().enumerate() {
            rows[row(slot)] += count;
        }
        rows
    }

    /// The value, in the unit, that so many of a thousand are not above, at most an eighth too great; 0 where nothing
    /// was counted.
    pub fn quantile(&self, of_thousand: u64) -> u64 {
        let rank = (self.count() * of_thousand).div_ceil(1000).max(1);
        let mut below = 0;
        let reaches = |count: &u64| {
            below += count;
            below >= rank
        };
        self.slots.iter().position(reaches).map_or(0, |slot| least(slot + 1) - 1)
    }

    /// The mean of all values, as the sum has them; 0 where nothing was counted.
    pub fn mean(&self) -> f64 {
        self.sum as f64 / self.count().max(1) as f64
    }
}

impl Tally for Histogram {
    const ZERO: &'static Histogram = &Histogram { sum: 0, max: 0, slots: [0; SLOTS] };

    fn merge(&mut self, other: &Histogram) {
        self.sum += other.sum;
        self.max = self.max.max(other.max);
        for (own, count) in self.slots.iter_mut().zip(&other.slots) {
            *own += count;
        }
    }

    fn count(&self) -> u64 {
        self.slots.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    fn of(values: &[u64]) -> Histogram {
        let mut histogram = *Histogram::ZERO;
        for value in values {
            histogram.slots[slot(*value)] += 1;
            histogram.sum += value;
            histogram.max = histogram.max.max(*value);
        }
        histogram
    }

    #[test]
    fn a_slot_holds_the_values_from_its_least_to_the_next_slot_s() {
        assert_eq!([0, 1, 7, 8, 15, 16, 17, 18].map(slot), [0, 1, 7, 8, 15, 16, 16, 17]);
        for at in 0..SLOTS - 1 {
            assert_eq!((slot(least(at)), slot(least(at + 1) - 1)), (at, at));
            assert!(least(at + 1) - least(at) <= least(at) / 8 + 1, "slot {at} is an eighth wide at most");
        }
        assert_eq!((slot(1 << 42), slot(u64::MAX)), (SLOTS - 1, SLOTS - 1));
    }

    #[test]
    fn a_row_is_a_power_of_two() {
        for value in [0, 1, 2, 3, 4, 7, 8, 1023, 1024, 1 << 41] {
            let power = u64::max(value, 1).ilog2() as usize;
            assert_eq!(row(slot(value)), power, "{value}");
        }
        assert_eq!(ROWS, 42);
        let rows = of(&[0, 1, 1, 5, 1000, 1023]).rows();
        assert_eq!((rows[0], rows[2], rows[9], rows.iter().sum::<u64>()), (3, 1, 2, 6));
    }

    #[test]
    fn quantiles_are_right_to_an_eighth_above() {
        let all: std::vec::Vec<u64> = (1..=1000).collect();
        for exact in [1, 500, 900, 990, 1000] {
            let told = of(&all).quantile(exact);
            assert!((exact..=exact + exact / 8).contains(&told), "{told} for {exact}");
        }
        assert_eq!((of(&[]).quantile(500), of(&[3]).quantile(990), of(&[3]).mean()), (0, 3, 3.0));
    }

    #[test]
    fn what_two_processors_have_counted_is_added() {
        let mut sum = of(&[1, 500]);
        sum.merge(&of(&[1, 20]));
        assert_eq!((sum.count(), sum.sum, sum.max, sum.slots[1]), (4, 522, 500, 2));
    }
}
