//! cpudist: how long tasks run before they leave the processor, or how long they are away from it.
#![no_std]
#![no_main]

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::HashMap;
use aya_ebpf::programs::RawTracePointContext;
use kld_ebpf_events::histogram::Histogram;
use kld_ebpf_events::sched::{BY_PROCESS, BY_THREAD, OFF};
use kld_ebpf_programs::current::{now, switches, wanted};
use kld_ebpf_programs::output::lose;
use kld_ebpf_programs::read::{Known, field, known};
use kld_ebpf_programs::table::{Table, add_time};
use kld_ebpf_programs::task::process;
use kld_ebpf_programs::whose::wanted_task;

#[unsafe(no_mangle)]
static TASK_PID: Known = known();

#[map]
static TABLE: Table<u64, Histogram> = Table::with_max_entries(1, 0);

/// Since when each thread is on the processor, or off it.
#[map]
static SINCE: HashMap<u32, u64> = HashMap::with_max_entries(32768, 0);

/// sched_switch(preempted, previous, next)
#[raw_tracepoint(tracepoint = "sched_switch")]
pub fn switched(ctx: RawTracePointContext) -> i32 {
    let (previous, next): (*const u8, *const u8) = (ctx.arg(1), ctx.arg(2));
    let (leaves, enters, time) = (ctx.pid(), field::<u32>(next, &TASK_PID), now());
    if switches() & OFF != 0 {
        begin(leaves, time, wanted);
        end(enters, next, time);
    } else {
        end(leaves, previous, time);
        begin(enters, time, || wanted_task(next));
    }
    0
}

/// The idle task, of number 0, is nobody's.
#[inline(always)]
fn begin(thread: u32, time: u64, wanted: impl FnOnce() -> bool) {
    if thread != 0 && wanted() && SINCE.insert(&thread, &time, u64::from(BPF_ANY)).is_err() {
        lose();
    }
}

#[inline(always)]
fn end(thread: u32, task: *const u8, time: u64) {
    // SAFETY: the value is copied at once.
    let Some(since) = (unsafe { SINCE.get(&thread) }).copied() else { return };
    let _ = SINCE.remove(&thread);
    let key = match switches() & (BY_PROCESS | BY_THREAD) {
        0 => 0,
        BY_PROCESS => process(task),
        _ => thread,
    };
    add_time(&TABLE, u64::from(key), time.saturating_sub(since));
}

/// Who has ended does not come back: sched_process_free(task).
#[raw_tracepoint(tracepoint = "sched_process_free")]
pub fn gone(ctx: RawTracePointContext) -> i32 {
    let thread: u32 = field(ctx.arg(0), &TASK_PID);
    let _ = SINCE.remove(&thread);
    0
}
