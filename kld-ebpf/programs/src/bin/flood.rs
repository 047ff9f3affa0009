//! flood: many events for each getppid(2). Tests alone load it, to fill the ring faster than system calls can.
#![no_std]
#![no_main]

use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use kld_ebpf_events::flood::Numbered;
use kld_ebpf_programs::current::{argument, task, wanted};
use kld_ebpf_programs::output::send;
use kld_ebpf_programs::read::{Known, known};
use kld_ebpf_programs::syscall::{Ended, is};

#[unsafe(no_mangle)]
static SYS_GETPPID: Known = known();

/// The filter's number says how many.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn ended(ctx: RawTracePointContext) -> i32 {
    let ended = Ended::of(&ctx);
    if !is(ended.number, &SYS_GETPPID) || !ended.is_native() || !wanted() {
        return 0;
    }
    let (task, call, mut number) = (task(), ended.arg0(), 0);
    while number < argument() {
        // SAFETY: the ring gives room for the event.
        send(|event: *mut Numbered| unsafe { event.write(Numbered { task, call, number }) });
        number += 1;
    }
    0
}
