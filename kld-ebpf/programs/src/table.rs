//! What is counted here and read when it is wanted: a table by a key, with values for each processor of its own.

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuHashMap};
use kld_ebpf_events::Plain;
use kld_ebpf_events::histogram::{Histogram, MILLISECONDS, NANOSECONDS, SLOTS, slot};
use kld_ebpf_events::table::{Keyed, Spell, Tally, Total};

use crate::current::switches;
use crate::output::lose;

/// A table. The program names it `TABLE`; the loader sets its size.
pub type Table<K, V> = PerCpuHashMap<Keyed<K>, V>;

/// The number of the reader's interval.
#[map]
static INTERVAL: Array<u64> = Array::with_max_entries(1, 0);

/// This processor's value for a key. Where the table is full, that is counted as lost.
#[inline(always)]
pub fn value<K: Plain, V: Tally>(table: &Table<K, V>, key: K) -> Option<*mut V> {
    value_of(table, &mut Keyed::new(0, key))
}

/// The same for a key that is too large for the stack; its interval is written here.
#[inline(always)]
pub fn value_of<K: Plain, V: Tally>(table: &Table<K, V>, key: &mut Keyed<K>) -> Option<*mut V> {
    key.interval = *INTERVAL.get(0)?;
    let key = &*key;
    if let Some(value) = table.get_ptr_mut(key) {
        return Some(value);
    }
    // Another processor may have been first.
    let _ = table.insert(key, V::ZERO, u64::from(BPF_NOEXIST));
    let value = table.get_ptr_mut(key);
    if value.is_none() {
        lose();
    }
    value
}

/// Counts a time, in nanoseconds, in the unit that the switches say.
#[inline(always)]
pub fn add_time<K: Plain>(table: &Table<K, Histogram>, key: K, time: u64) {
    let unit = match switches() & (NANOSECONDS | MILLISECONDS) {
        NANOSECONDS => 1,
        MILLISECONDS => 1_000_000,
        _ => 1000,
    };
    if let Some(histogram) = value(table, key) {
        add(histogram, time, time / unit);
    }
}

/// Counts a value that is no time.
#[inline(always)]
pub fn add_value<K: Plain>(table: &Table<K, Histogram>, key: K, amount: u64) {
    if let Some(histogram) = value(table, key) {
        add(histogram, amount, amount);
    }
}

#[inline(always)]
fn add(histogram: *mut Histogram, raw: u64, value: u64) {
    // The kernel wants to see that the slot is one of its; the compiler, which knows, would leave the test out.
    let slot = core::hint::black_box(slot(value));
    if slot < SLOTS {
        // SAFETY: the entry is this processor's, and nothing else runs on it now.
        unsafe {
            (*histogram).sum += raw;
            if (*histogram).max < raw {
                (*histogram).max = raw;
            }
            *(&raw mut (*histogram).slots).cast::<u64>().add(slot) += 1;
        }
    }
}

/// Counts something, how much it was and how long it took.
#[inline(always)]
pub fn add_total<K: Plain>(table: &Table<K, Total>, key: K, amount: u64, time: u64) {
    if let Some(total) = value(table, key) {
        // SAFETY: the entry is this processor's, and nothing else runs on it now.
        unsafe {
            (*total).count += 1;
            (*total).amount += amount;
            (*total).time += time;
        }
    }
}

/// Counts something that took so long.
#[inline(always)]
pub fn add_spell<K: Plain>(table: &Table<K, Spell>, key: K, time: u64) {
    if let Some(spell) = value(table, key) {
        // SAFETY: the entry is this processor's, and nothing else runs on it now.
        unsafe {
            (*spell).count += 1;
            (*spell).time += time;
            if (*spell).longest < time {
                (*spell).longest = time;
            }
        }
    }
}
