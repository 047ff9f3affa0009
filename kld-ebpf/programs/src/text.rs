//! An event and the text that follows it, gathered where there is room: a program's stack is small.

use aya_ebpf::helpers::{bpf_probe_read_kernel_str_bytes, bpf_probe_read_user_str_bytes};
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use kld_ebpf_events::Plain;
use kld_ebpf_events::file::PATH;

use crate::output::send_bytes;

/// The longest event that a text may follow.
const EVENT: usize = 256;

#[repr(C, align(8))]
struct Room([u8; EVENT + PATH]);

#[map]
static TEXT: PerCpuArray<Room> = PerCpuArray::with_max_entries(1, 0);

/// Hands out an event, and behind it the text at an address of the program that runs.
#[inline(always)]
pub fn send_with_text<T: Plain>(event: T, at: u64) {
    send_with(event, |text| {
        // SAFETY: the helper checks the text's address.
        unsafe { bpf_probe_read_user_str_bytes(at as *const u8, text) }.map_or(0, <[u8]>::len)
    });
}

/// Hands out an event, and behind it the text at an address of the kernel's.
#[inline(always)]
pub fn send_with_name<T: Plain>(event: T, at: *const u8) {
    send_with(event, |text| {
        // SAFETY: the helper checks the text's address.
        unsafe { bpf_probe_read_kernel_str_bytes(at, text) }.map_or(0, <[u8]>::len)
    });
}

#[inline(always)]
fn send_with<T: Plain>(event: T, read: impl FnOnce(&mut [u8; PATH]) -> usize) {
    const { assert!(size_of::<T>() <= EVENT) };
    let Some(room) = TEXT.get_ptr_mut(0) else { return };
    // SAFETY: the room is this processor's, nothing else runs on it now, and it is large enough for both.
    unsafe {
        room.cast::<T>().write(event);
        let text = room.cast::<u8>().add(size_of::<T>()).cast::<[u8; PATH]>();
        let length = read(&mut *text);
        // The kernel wants to see that the length is bounded.
        send_bytes(room.cast(), size_of::<T>() + length.min(PATH));
    }
}
