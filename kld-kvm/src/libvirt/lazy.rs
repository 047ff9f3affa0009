//! libvirt at run time: the library is loaded by [`load`], not by the dynamic linker when the program starts.
//!
//! `virt-sys` asks the linker for libvirt.so.0. Linked so, every kvm tool would load libvirt and the fifty
//! libraries behind it before it could print its help, and would not start at all on a host without libvirt.
//! Therefore each function that `virt-sys` declares is defined here, as a trampoline: it jumps to the address
//! in its slot and leaves arguments, stack and return address as the caller made them. The linker finds the
//! trampolines before it comes to libvirt.so.0, and rustc's `--as-needed` drops a library that nothing needs.
//! The trampolines are hidden: libvirt's own libraries never see them.
//!
//! Variables cannot be made so. The only one, `virConnectAuthPtrDefault`, is not used by the `virt` crate and is
//! not to be used in kld: it would bring the hard link back (`tests/lazy.rs` sees that).
//!
//! On processors other than x86-64 and AArch64 nothing is defined here and the hard link stays.
//!
//! The technique is that of [Implib.so](https://github.com/yugr/Implib.so).

use kld_core::Result;

/// Loads libvirt if it is not loaded yet. To be called before the first use of the `virt` crate: a call into
/// libvirt before that ends the program.
///
/// # Errors
///
/// libvirt is not installed, or cannot be loaded. The answer stays the same for the life of the process.
pub fn load() -> Result<()> {
    slots::load()
}

/// Whether libvirt is loaded and has the function `name`; a call of one that it lacks ends the program. To be
/// asked for what is younger than libvirt 6.0, the oldest that `virt-sys` builds with.
pub fn has(name: &str) -> bool {
    slots::has(name)
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod symbols;

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod slots {
    use std::arch::global_asm;
    use std::ffi::{CStr, c_int, c_void};
    use std::ptr::NonNull;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicPtr, Ordering};

    use kld_core::{Error, Result};
    use nix::libc;

    use super::symbols::every_function;

    type Slot = AtomicPtr<c_void>;

    /// The macro `kld_trampoline NAME` defines the function NAME and, in the next place of the table, its slot.
    /// A slot is zero until it is filled: so it lies in .bss, and costs neither relocations nor start-up time.
    /// Only registers that the ABI gives to linkers between caller and callee are used (r11; x16). Where the
    /// slot is empty, `unloaded` gets its address.
    macro_rules! define {
        ($($name:ident)*) => {
            /// Every name, each with a NUL at its end: one string, because an array of strings would have to be
            /// relocated at each start.
            pub(super) const NAMES: &str = concat!($(stringify!($name), "\0"),*);

            #[cfg(target_arch = "x86_64")]
            global_asm!(
                ".macro kld_trampoline name",
                ".pushsection .bss.kld_libvirt_slots,\"aw\",@nobits",
                ".Lkld_slot_\\name: .zero 8",
                ".popsection",
                ".globl \\name",
                ".hidden \\name",
                ".type \\name,@function",
                ".p2align 4",
                "\\name:",
                "movq .Lkld_slot_\\name(%rip), %r11",
                "testq %r11, %r11",
                "jz .Lkld_unloaded_\\name",
                "jmpq *%r11",
                ".Lkld_unloaded_\\name:",
                "leaq .Lkld_slot_\\name(%rip), %rdi",
                "jmp {unloaded}",
                ".size \\name, . - \\name",
                ".endm",
                ".pushsection .bss.kld_libvirt_slots,\"aw\",@nobits",
                ".p2align 3",
                ".globl kld_libvirt_slots",
                ".hidden kld_libvirt_slots",
                ".type kld_libvirt_slots,@object",
                "kld_libvirt_slots:",
                ".popsection",
                ".pushsection .text.kld_libvirt,\"ax\",@progbits",
                $(concat!("kld_trampoline ", stringify!($name)),)*
                ".popsection",
                ".purgem kld_trampoline",
                unloaded = sym unloaded,
                options(att_syntax),
            );

            #[cfg(target_arch = "aarch64")]
            global_asm!(
                ".macro kld_trampoline name",
                ".pushsection .bss.kld_libvirt_slots,\"aw\",@nobits",
                ".Lkld_slot_\\name: .zero 8",
                ".popsection",
                ".globl \\name",
                ".hidden \\name",
                ".type \\name,@function",
                ".p2align 4",
                "\\name:",
                "adrp x16, .Lkld_slot_\\name",
                "ldr x16, [x16, :lo12:.Lkld_slot_\\name]",
                "cbz x16, .Lkld_unloaded_\\name",
                "br x16",
                ".Lkld_unloaded_\\name:",
                "adrp x0, .Lkld_slot_\\name",
                "add x0, x0, :lo12:.Lkld_slot_\\name",
                "b {unloaded}",
                ".size \\name, . - \\name",
                ".endm",
                ".pushsection .bss.kld_libvirt_slots,\"aw\",@nobits",
                ".p2align 3",
                ".globl kld_libvirt_slots",
                ".hidden kld_libvirt_slots",
                ".type kld_libvirt_slots,@object",
                "kld_libvirt_slots:",
                ".popsection",
                ".pushsection .text.kld_libvirt,\"ax\",@progbits",
                $(concat!("kld_trampoline ", stringify!($name)),)*
                ".popsection",
                ".purgem kld_trampoline",
                unloaded = sym unloaded,
            );
        };
    }

    every_function!(define);

    const COUNT: usize = {
        let (mut count, mut at) = (0, 0);
        while at < NAMES.len() {
            count += (NAMES.as_bytes()[at] == 0) as usize;
            at += 1;
        }
        count
    };

    unsafe extern "C" {
        #[link_name = "kld_libvirt_slots"]
        static SLOTS: [Slot; COUNT];
    }

    /// Brings the trampolines into every program that links this crate, used or not: a linker that goes through
    /// archives once, in order, would else come from here to `virt` and find its functions in libvirt.so.0.
    #[used]
    // SAFETY: the assembly defines it; only its address is taken.
    static PRESENT: &[Slot; COUNT] = unsafe { &SLOTS };

    pub(super) fn load() -> Result<()> {
        static LOADED: OnceLock<std::result::Result<(), String>> = OnceLock::new();
        LOADED.get_or_init(fill).as_ref().copied().map_err(|cause| absent(cause))
    }

    pub(super) fn absent(cause: &str) -> Error {
        Error::failed("libvirt is not installed", cause)
            .with_hint("install libvirt0 (Debian/Ubuntu) or libvirt-libs (Fedora)")
    }

    pub(super) fn has(name: &str) -> bool {
        let place = NAMES.split_terminator('\0').position(|known| known == name);
        place.is_some_and(|place| !slots()[place].load(Ordering::Acquire).is_null())
    }

    fn fill() -> std::result::Result<(), String> {
        let libraries = [open(c"libvirt.so.0")?, open(c"libvirt-qemu.so.0")?];
        let names = NAMES.as_bytes().split_inclusive(|byte| *byte == 0);
        for (name, slot) in names.flat_map(CStr::from_bytes_with_nul).zip(slots()) {
            // SAFETY: the handle is of a library that is never closed, the name ends with a NUL.
            let found =
                libraries.iter().map(|library| unsafe { libc::dlsym(library.as_ptr(), name.as_ptr()) });
            if let Some(address) = found.into_iter().find(|address| !address.is_null()) {
                slot.store(address, Ordering::Release);
            }
        }
        Ok(())
    }

    /// A library that stays loaded to the end of the process. The cause of a failure is in dlerror's words.
    pub(super) fn open(library: &CStr) -> std::result::Result<NonNull<c_void>, String> {
        const HOW: c_int = libc::RTLD_NOW | libc::RTLD_LOCAL;
        // SAFETY: the name ends with a NUL; libvirt's and its dependencies' initialisers have no preconditions.
        NonNull::new(unsafe { libc::dlopen(library.as_ptr(), HOW) }).ok_or_else(|| {
            // SAFETY: dlerror has no preconditions.
            let message = unsafe { libc::dlerror() };
            if message.is_null() {
                return format!("{} cannot be loaded", library.to_string_lossy());
            }
            // SAFETY: a message that is not null is a C string, this thread's until its next call of dl functions.
            unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned()
        })
    }

    fn slots() -> &'static [Slot; COUNT] {
        // SAFETY: the assembly reserves a zeroed slot, aligned, for each of the names.
        unsafe { &SLOTS }
    }

    /// Where a trampoline goes that has nowhere to go. Its caller expects an answer from libvirt, and there is
    /// none: a panic that leaves an `extern "C"` function ends the program.
    extern "C" fn unloaded(slot: &'static Slot) {
        let place = slots().iter().position(|other| std::ptr::eq(other, slot)).unwrap_or(COUNT);
        let name = NAMES.split('\0').nth(place).unwrap_or_default();
        if slots().iter().all(|slot| slot.load(Ordering::Acquire).is_null()) {
            panic!("{name} was called before libvirt was loaded");
        }
        panic!("{name} was called, which the installed libvirt does not have");
    }
}

#[cfg(all(test, any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tests {
    use super::slots;

    #[test]
    fn a_library_that_is_absent_is_named_with_advice() {
        let error = slots::absent(&slots::open(c"libvirt-absent.so.0").unwrap_err());

        assert_eq!(
            error.to_string(),
            "libvirt is not installed: libvirt-absent.so.0: cannot open shared object file: \
             No such file or directory"
        );
        assert!(error.hint().is_some_and(|hint| hint.contains("libvirt0")));
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod slots {
    use kld_core::Result;

    /// The dynamic linker has loaded it.
    pub(super) fn load() -> Result<()> {
        Ok(())
    }

    /// The dynamic linker has found all that this program refers to.
    pub(super) fn has(_name: &str) -> bool {
        true
    }
}
