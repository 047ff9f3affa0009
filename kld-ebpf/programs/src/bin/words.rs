//! words: a program that speaks, for the tests of that. It says which signals a wanted process sends.
#![no_std]
#![no_main]

use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use aya_log_ebpf::{debug, info};
use kld_ebpf_programs::current::wanted;
use kld_ebpf_programs::output::lose;
use kld_ebpf_programs::read::{Known, known};
use kld_ebpf_programs::syscall::{Ended, is};

#[unsafe(no_mangle)]
static SYS_KILL: Known = known();

#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn ended(ctx: RawTracePointContext) -> i32 {
    let call = Ended::of(&ctx);
    if !is(call.number, &SYS_KILL) || !call.is_native() || !wanted() {
        return 0;
    }
    info!(&ctx, "signal {} to {}", call.arg1() as i32, call.arg0() as i32);
    debug!(&ctx, "it ended with {}", call.result);
    lose();
    0
}
