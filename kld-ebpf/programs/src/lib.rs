//! What the programs share. Each program is a file of `bin/`, and becomes an object of its own.
#![no_std]

pub mod cgroup;
pub mod current;
pub mod file;
pub mod function;
pub mod output;
pub mod packet;
pub mod read;
pub mod socket;
pub mod stack;
pub mod syscall;
pub mod table;
pub mod task;
pub mod tcp;
pub mod text;
pub mod whose;

/// The helpers that programs call are the kernel's under the GPL; our code is under either licence of kld's.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
