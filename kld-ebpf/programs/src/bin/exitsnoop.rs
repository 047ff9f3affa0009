//! exitsnoop: threads and processes that end, on sched_process_exit(task).
#![no_std]
#![no_main]

use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use kld_ebpf_events::process::Exit;
use kld_ebpf_programs::current::{switches, task, wanted};
use kld_ebpf_programs::output::send;
use kld_ebpf_programs::read::{Known, field, known};
use kld_ebpf_programs::task::parent;

#[unsafe(no_mangle)]
static TASK_EXIT_CODE: Known = known();
#[unsafe(no_mangle)]
static TASK_START_TIME: Known = known();

/// The switch for threads too, where else only processes are told.
const THREADS: u32 = 1;
/// The switch for those only that have not ended well.
const FAILED: u32 = 2;

#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn ended(ctx: RawTracePointContext) -> i32 {
    let ending: *const u8 = ctx.arg(0);
    let task = task();
    let status: u32 = field(ending, &TASK_EXIT_CODE);
    if switches() & THREADS == 0 && task.pid != task.tid
        || switches() & FAILED != 0 && status == 0
        || !wanted()
    {
        return 0;
    }
    let began = field(ending, &TASK_START_TIME);
    // SAFETY: the ring gives room for the event.
    send(|event: *mut Exit| unsafe { event.write(Exit { task, began, parent: parent(ending), status }) });
    0
}
