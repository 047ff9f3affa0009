//! bashreadline: the lines that people give to shells, at the end of readline(3).
#![no_std]
#![no_main]

use aya_ebpf::macros::uretprobe;
use aya_ebpf::programs::RetProbeContext;
use kld_ebpf_programs::current::{task, wanted};
use kld_ebpf_programs::function::result;
use kld_ebpf_programs::text::send_with_text;

#[uretprobe]
pub fn has_read(ctx: RetProbeContext) -> i32 {
    let line: u64 = result(&ctx);
    // At the end of the input there is no line.
    if line != 0 && wanted() {
        send_with_text(task(), line);
    }
    0
}
