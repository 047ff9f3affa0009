//! The way out: a ring without wake-ups, which the reader looks into every few milliseconds, and what was counted.

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::helpers::generated::bpf_ringbuf_output;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{PerCpuArray, RingBuf};
use kld_ebpf_events::{Counts, Plain};

/// The loader sets its size.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(4096, 0);

#[map]
static COUNTS: PerCpuArray<Counts> = PerCpuArray::with_max_entries(1, 0);

/// Counts an event that passed the filter.
#[inline(always)]
fn count(lost: bool) {
    if let Some(counts) = COUNTS.get_ptr_mut(0) {
        // SAFETY: the entry is this processor's, and nothing else runs on it now.
        unsafe {
            (*counts).seen += 1;
            (*counts).lost += u64::from(lost);
        }
    }
}

/// Counts what passed the filter and found no room.
#[inline(always)]
pub fn lose() {
    count(true);
}

/// Hands out an event of a fixed size, written where the reader finds it: a program's stack is small.
///
/// The room is looked at once: verifiers of 5.10 to 6.1 lose sight of one that is, and take it for never given back.
#[inline(always)]
pub fn send<T: Plain>(write: impl FnOnce(*mut T)) {
    let lost = match EVENTS.reserve::<T>(0) {
        Some(mut room) => {
            write(room.as_mut_ptr());
            room.submit(u64::from(BPF_RB_NO_WAKEUP));
            false
        }
        None => true,
    };
    count(lost);
}

/// Hands out an event and what follows it.
///
/// # Safety
/// So many bytes may be read there.
#[inline(always)]
pub unsafe fn send_bytes(at: *const u8, length: usize) {
    let ring = core::ptr::addr_of!(EVENTS).cast_mut().cast();
    let flags = u64::from(BPF_RB_NO_WAKEUP);
    // SAFETY: the caller vouches for the bytes; the verifier checks it.
    let outcome = unsafe { bpf_ringbuf_output(ring, at.cast_mut().cast(), length as u64, flags) };
    count(outcome != 0);
}
