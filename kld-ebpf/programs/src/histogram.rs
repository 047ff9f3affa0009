//! A distribution that is counted in the kernel and read when it is wanted.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use kld_ebpf_events::histogram::{Histogram, SLOTS, slot};

#[map]
static HISTOGRAM: PerCpuArray<Histogram> = PerCpuArray::with_max_entries(1, 0);

/// Counts a value.
#[inline(always)]
pub fn add(value: u64) {
    let Some(histogram) = HISTOGRAM.get_ptr_mut(0) else { return };
    let slot = slot(value);
    if slot < SLOTS {
        // SAFETY: the entry is this processor's, and the slot is one of its.
        unsafe {
            (*histogram).sum += value;
            *(&raw mut (*histogram).slots).cast::<u64>().add(slot) += 1;
        }
    }
}
