//! offcputime: how long tasks are away from the processor, by the stacks with which they left it.
#![no_std]
#![no_main]

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::bpf_get_current_comm;
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::{HashMap, StackTrace};
use aya_ebpf::programs::RawTracePointContext;
use kld_ebpf_events::stack::Of;
use kld_ebpf_events::table::Total;
use kld_ebpf_programs::current::{now, wanted};
use kld_ebpf_programs::output::lose;
use kld_ebpf_programs::read::{Known, field, known, present};
use kld_ebpf_programs::stack::{Kept, wanted_kind, wanted_time};
use kld_ebpf_programs::table::{Table, add_total};

#[unsafe(no_mangle)]
static TASK_PID: Known = known();
#[unsafe(no_mangle)]
static TASK_STATE: Known = known();
/// The only state in which a task that leaves is wanted; 0: one that could go on.
#[unsafe(no_mangle)]
static ONLY_STATE: Known = known();

/// The bits of a state that stand for one; those above say more of it, as that it may be frozen.
const REPORTED: u32 = 0xff;

#[map]
static TABLE: Table<Of, Total> = Table::with_max_entries(1, 0);

#[map]
static STACKS: StackTrace = StackTrace::with_max_entries(1, 0);

#[map]
static SECOND_STACKS: StackTrace = StackTrace::with_max_entries(1, 0);

const KEPT: Kept = Kept { first: &STACKS, second: &SECOND_STACKS };

/// A thread that is away.
#[derive(Clone, Copy)]
#[repr(C)]
struct Away {
    since: u64,
    of: Of,
}

#[map]
static AWAY: HashMap<u32, Away> = HashMap::with_max_entries(32768, 0);

/// sched_switch(preempted, previous, next)
#[raw_tracepoint(tracepoint = "sched_switch")]
pub fn switched(ctx: RawTracePointContext) -> i32 {
    let time = now();
    leave(&ctx, time);
    come(field(ctx.arg(2), &TASK_PID), time);
    0
}

/// The idle task, of number 0, is nobody's.
#[inline(always)]
fn leave(ctx: &RawTracePointContext, since: u64) {
    let (thread, task) = (ctx.pid(), ctx.arg(1));
    if thread == 0 || !wanted_state(ctx) || !wanted() || !wanted_kind(task) {
        return;
    }
    let comm = bpf_get_current_comm().unwrap_or_default();
    let of = Of { stack: KEPT.ids(ctx), pid: ctx.tgid(), pad: 0, comm };
    if AWAY.insert(&thread, &Away { since, of }, u64::from(BPF_ANY)).is_err() {
        lose();
    }
}

#[inline(always)]
fn wanted_state(ctx: &RawTracePointContext) -> bool {
    if !present(&ONLY_STATE) {
        return true;
    }
    // Of its 64 bits only the lower byte is the argument's. A task that loses the processor may have set its state, and
    // could yet go on.
    let preempted = ctx.arg::<u64>(0) as u8 != 0;
    let state = if preempted { 0 } else { field::<u32>(ctx.arg(1), &TASK_STATE) };
    state & REPORTED == ONLY_STATE.load()
}

#[inline(always)]
fn come(thread: u32, time: u64) {
    // SAFETY: the value is copied at once.
    let Some(away) = (unsafe { AWAY.get(&thread) }).copied() else { return };
    let _ = AWAY.remove(&thread);
    let taken = time.saturating_sub(away.since);
    if wanted_time(taken) {
        add_total(&TABLE, away.of, 0, taken);
    }
}

/// Who has ended does not come back: sched_process_free(task).
#[raw_tracepoint(tracepoint = "sched_process_free")]
pub fn gone(ctx: RawTracePointContext) -> i32 {
    let thread: u32 = field(ctx.arg(0), &TASK_PID);
    let _ = AWAY.remove(&thread);
    0
}
