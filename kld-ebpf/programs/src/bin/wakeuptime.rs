//! wakeuptime: how long tasks sleep, by who wakes them and where that is.
#![no_std]
#![no_main]

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::bpf_get_current_comm;
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::{HashMap, StackTrace};
use aya_ebpf::programs::RawTracePointContext;
use kld_ebpf_events::stack::Wakeup;
use kld_ebpf_events::table::Total;
use kld_ebpf_programs::current::{now, wanted};
use kld_ebpf_programs::output::lose;
use kld_ebpf_programs::read::{Known, field, known};
use kld_ebpf_programs::stack::{Kept, wanted_kind, wanted_time};
use kld_ebpf_programs::table::{Table, add_total};
use kld_ebpf_programs::task::process;
use kld_ebpf_programs::whose::name;

#[unsafe(no_mangle)]
static TASK_PID: Known = known();
#[unsafe(no_mangle)]
static TASK_STATE: Known = known();

#[map]
static TABLE: Table<Wakeup, Total> = Table::with_max_entries(1, 0);

#[map]
static STACKS: StackTrace = StackTrace::with_max_entries(1, 0);

#[map]
static SECOND_STACKS: StackTrace = StackTrace::with_max_entries(1, 0);

const KEPT: Kept = Kept { first: &STACKS, second: &SECOND_STACKS };

/// Since when each thread sleeps.
#[map]
static ASLEEP: HashMap<u32, u64> = HashMap::with_max_entries(32768, 0);

/// sched_switch(preempted, previous, next)
#[raw_tracepoint(tracepoint = "sched_switch")]
pub fn switched(ctx: RawTracePointContext) -> i32 {
    let (thread, task) = (ctx.pid(), ctx.arg(1));
    // Of its 64 bits only the lower byte is the argument's.
    let preempted = ctx.arg::<u64>(0) as u8 != 0;
    let sleeps = !preempted && field::<u32>(task, &TASK_STATE) != 0;
    if thread != 0
        && sleeps
        && wanted()
        && wanted_kind(task)
        && ASLEEP.insert(&thread, &now(), u64::from(BPF_ANY)).is_err()
    {
        lose();
    }
    0
}

/// sched_waking(task): who wakes it runs now, which at sched_wakeup need not be so.
#[raw_tracepoint(tracepoint = "sched_waking")]
pub fn waking(ctx: RawTracePointContext) -> i32 {
    let task: *const u8 = ctx.arg(0);
    let thread: u32 = field(task, &TASK_PID);
    // SAFETY: the value is copied at once.
    let Some(since) = (unsafe { ASLEEP.get(&thread) }).copied() else { return 0 };
    let _ = ASLEEP.remove(&thread);
    let slept = now().saturating_sub(since);
    if wanted_time(slept) {
        let key = Wakeup {
            stack: KEPT.ids(&ctx),
            waker: ctx.tgid(),
            woken: process(task),
            waker_comm: bpf_get_current_comm().unwrap_or_default(),
            woken_comm: name(task),
        };
        add_total(&TABLE, key, 0, slept);
    }
    0
}

/// Who has ended is not woken: sched_process_free(task).
#[raw_tracepoint(tracepoint = "sched_process_free")]
pub fn gone(ctx: RawTracePointContext) -> i32 {
    let thread: u32 = field(ctx.arg(0), &TASK_PID);
    let _ = ASLEEP.remove(&thread);
    0
}
