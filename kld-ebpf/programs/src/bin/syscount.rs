//! syscount: system calls, by number or by process, at the end of the call.
#![no_std]
#![no_main]

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::HashMap;
use aya_ebpf::programs::RawTracePointContext;
use kld_ebpf_events::process::{CALL_32, CALLS_BY_PROCESS, CALLS_FAILED, CALLS_TIMED};
use kld_ebpf_events::table::Total;
use kld_ebpf_programs::current::{now, switches, wanted};
use kld_ebpf_programs::output::lose;
use kld_ebpf_programs::read::{Known, field, known, present};
use kld_ebpf_programs::syscall::Ended;
use kld_ebpf_programs::table::{Table, add_total};

/// The only error whose calls are wanted.
#[unsafe(no_mangle)]
static ONLY_ERROR: Known = known();
/// The only call that is wanted.
#[unsafe(no_mangle)]
static ONLY_CALL: Known = known();
#[unsafe(no_mangle)]
static TASK_PID: Known = known();

#[map]
static TABLE: Table<u64, Total> = Table::with_max_entries(1, 0);

/// Since when each thread is in its call.
#[map]
static SINCE: HashMap<u32, u64> = HashMap::with_max_entries(32768, 0);

/// Loaded only where times are wanted: sys_enter(regs, number)
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn begun(ctx: RawTracePointContext) -> i32 {
    let only = !present(&ONLY_CALL) || ctx.arg::<u64>(1) as u32 == ONLY_CALL.load();
    if only && wanted() && SINCE.insert(&ctx.pid(), &now(), u64::from(BPF_ANY)).is_err() {
        lose();
    }
    0
}

#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn ended(ctx: RawTracePointContext) -> i32 {
    let call = Ended::of(&ctx);
    let switches = switches();
    let failed = call.result < 0 && call.result > -4096;
    if present(&ONLY_CALL) && call.number != ONLY_CALL.load()
        || switches & CALLS_FAILED != 0 && !failed
        || present(&ONLY_ERROR) && call.result != -i64::from(ONLY_ERROR.load())
        || !wanted()
    {
        return 0;
    }
    let mut time = 0;
    if switches & CALLS_TIMED != 0 {
        let thread = ctx.pid();
        // SAFETY: the value is copied at once.
        let Some(since) = (unsafe { SINCE.get(&thread) }).copied() else { return 0 };
        let _ = SINCE.remove(&thread);
        time = now().saturating_sub(since);
    }
    let key = if switches & CALLS_BY_PROCESS != 0 {
        ctx.tgid().into()
    } else {
        u64::from(call.number) + if call.is_native() { 0 } else { CALL_32 }
    };
    add_total(&TABLE, key, 0, time);
    0
}

/// Who ends in a call does not come back from it: sched_process_free(task).
#[raw_tracepoint(tracepoint = "sched_process_free")]
pub fn gone(ctx: RawTracePointContext) -> i32 {
    let thread: u32 = field(ctx.arg(0), &TASK_PID);
    let _ = SINCE.remove(&thread);
    0
}
