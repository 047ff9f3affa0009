//! threadsnoop: threads that are made, on task_newtask(task, clone's flags).
#![no_std]
#![no_main]

use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use kld_ebpf_events::process::Thread;
use kld_ebpf_programs::current::{task, wanted};
use kld_ebpf_programs::output::send;
use kld_ebpf_programs::read::{Known, field, known};

#[unsafe(no_mangle)]
static TASK_TID: Known = known();

/// CLONE_THREAD, in linux/sched.h.
const THREAD: u64 = 0x10000;

#[raw_tracepoint(tracepoint = "task_newtask")]
pub fn made(ctx: RawTracePointContext) -> i32 {
    if ctx.arg::<u64>(1) & THREAD == 0 || !wanted() {
        return 0;
    }
    let tid = field(ctx.arg(0), &TASK_TID);
    // SAFETY: the ring gives room for the event.
    send(|event: *mut Thread| unsafe { event.write(Thread { task: task(), tid, pad: 0 }) });
    0
}
