//! killsnoop: signals that system calls send, at the end of the call.
#![no_std]
#![no_main]

use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use kld_ebpf_events::process::Kill;
use kld_ebpf_programs::current::{switches, task, wanted};
use kld_ebpf_programs::output::send;
use kld_ebpf_programs::read::{Known, known};
use kld_ebpf_programs::syscall::{Ended, is};

#[unsafe(no_mangle)]
static SYS_KILL: Known = known();
#[unsafe(no_mangle)]
static SYS_TKILL: Known = known();
#[unsafe(no_mangle)]
static SYS_TGKILL: Known = known();

/// The switch for failures only.
const FAILED: u32 = 1;

#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn ended(ctx: RawTracePointContext) -> i32 {
    let call = Ended::of(&ctx);
    let (target, signal) = if is(call.number, &SYS_KILL) || is(call.number, &SYS_TKILL) {
        (call.arg0(), call.arg1())
    } else if is(call.number, &SYS_TGKILL) {
        (call.arg1(), call.arg2())
    } else {
        return 0;
    };
    if !call.is_native() || !wanted() || switches() & FAILED != 0 && call.result >= 0 {
        return 0;
    }
    let (target, signal, result) = (target as i32, signal as i32, call.result as i32);
    // SAFETY: the ring gives room for the event.
    send(|event: *mut Kill| unsafe { event.write(Kill { task: task(), target, signal, result, pad: 0 }) });
    0
}
