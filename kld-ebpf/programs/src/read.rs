//! Reading the kernel's structures, whose layout the loader looks up in the running kernel.

use aya_ebpf::helpers::bpf_probe_read_kernel;

/// A number that the loader writes before the program is loaded: a field's offset, or a system call's number.
pub type Known = aya_ebpf::Global<u32>;

/// What [`Known`] is where this kernel lacks the field or the call.
pub const ABSENT: u32 = u32::MAX;

/// A number yet to be written.
pub const fn known() -> Known {
    Known::new(ABSENT)
}

/// The field at an offset of a structure; zeros where it cannot be read.
#[inline(always)]
pub fn field<T: Copy>(base: *const u8, offset: &Known) -> T {
    let at = base.wrapping_add(offset.load() as usize);
    // SAFETY: the helper checks the address; a T is plain data, as zeros are too.
    unsafe { bpf_probe_read_kernel(at.cast::<T>()).unwrap_or_else(|_| core::mem::zeroed()) }
}

/// Whether the bit at a place of a structure is set, counted in bits; false where this kernel lacks it.
#[inline(always)]
pub fn bit(base: *const u8, place: &Known) -> bool {
    let at = place.load();
    if at == ABSENT {
        return false;
    }
    let byte = base.wrapping_add((at / 8) as usize);
    // SAFETY: the helper checks the address.
    let byte: u8 = unsafe { bpf_probe_read_kernel(byte) }.unwrap_or(0);
    byte >> (at % 8) & 1 == 1
}

/// Whether this kernel has it.
#[inline(always)]
pub fn present(known: &Known) -> bool {
    known.load() != ABSENT
}
