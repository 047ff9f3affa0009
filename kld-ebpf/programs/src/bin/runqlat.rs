//! runqlat and runqslower: how long tasks that could run waited for a processor. A wait begins when a task is woken, or
//! loses the processor while it could go on, and ends when it gets one.
#![no_std]
#![no_main]

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::HashMap;
use aya_ebpf::programs::RawTracePointContext;
use kld_ebpf_events::histogram::Histogram;
use kld_ebpf_events::sched::{BY_PROCESS, BY_THREAD, EACH, Wait};
use kld_ebpf_programs::current::{now, switches, task, wanted};
use kld_ebpf_programs::output::{lose, send};
use kld_ebpf_programs::read::{Known, field, known};
use kld_ebpf_programs::table::{Table, add_time};
use kld_ebpf_programs::task::process;
use kld_ebpf_programs::whose::{name, wanted_task};

#[unsafe(no_mangle)]
static TASK_PID: Known = known();
#[unsafe(no_mangle)]
static TASK_STATE: Known = known();
/// Of waits that are told one by one, those shorter than so many microseconds are left out.
#[unsafe(no_mangle)]
static SHORTEST: Known = known();

#[map]
static TABLE: Table<u64, Histogram> = Table::with_max_entries(1, 0);

/// Since when each thread has waited.
#[map]
static WAITING: HashMap<u32, u64> = HashMap::with_max_entries(32768, 0);

#[raw_tracepoint(tracepoint = "sched_wakeup")]
pub fn woken(ctx: RawTracePointContext) -> i32 {
    wait(ctx.arg(0))
}

#[raw_tracepoint(tracepoint = "sched_wakeup_new")]
pub fn born(ctx: RawTracePointContext) -> i32 {
    wait(ctx.arg(0))
}

#[inline(always)]
fn wait(task: *const u8) -> i32 {
    if wanted_task(task) {
        begin(field(task, &TASK_PID), now());
    }
    0
}

#[inline(always)]
fn begin(thread: u32, time: u64) {
    if WAITING.insert(&thread, &time, u64::from(BPF_ANY)).is_err() {
        lose();
    }
}

/// sched_switch(preempted, previous, next)
#[raw_tracepoint(tracepoint = "sched_switch")]
pub fn switched(ctx: RawTracePointContext) -> i32 {
    let (previous, next): (*const u8, *const u8) = (ctx.arg(1), ctx.arg(2));
    // Of its 64 bits only the lower byte is the argument's.
    let preempted = ctx.arg::<u64>(0) as u8 != 0;
    let (thread, time) = (ctx.pid(), now());
    // The idle task, of number 0, never waits.
    if thread != 0 && (preempted || field::<u32>(previous, &TASK_STATE) == 0) && wanted() {
        begin(thread, time);
    }
    let thread: u32 = field(next, &TASK_PID);
    // SAFETY: the value is copied at once.
    let Some(since) = (unsafe { WAITING.get(&thread) }).copied() else { return 0 };
    let _ = WAITING.remove(&thread);
    let waited = time.saturating_sub(since);
    if switches() & EACH != 0 {
        if waited >= u64::from(SHORTEST.load()) * 1000 {
            let (pid, comm) = (process(next), name(next));
            // SAFETY: the ring gives room for the event.
            send(|event: *mut Wait| unsafe {
                event.write(Wait { before: task(), waited, pid, tid: thread, comm });
            });
        }
        return 0;
    }
    let key = match switches() & (BY_PROCESS | BY_THREAD) {
        0 => 0,
        BY_PROCESS => process(next),
        _ => thread,
    };
    add_time(&TABLE, u64::from(key), waited);
    0
}
