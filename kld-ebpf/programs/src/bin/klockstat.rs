//! klockstat: how long the kernel's locks are waited for, by where that is.
#![no_std]
#![no_main]

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::{HashMap, StackTrace};
use aya_ebpf::programs::RawTracePointContext;
use kld_ebpf_events::stack::Contention;
use kld_ebpf_events::table::Spell;
use kld_ebpf_programs::current::{now, wanted};
use kld_ebpf_programs::output::lose;
use kld_ebpf_programs::stack::{Kept, wanted_time};
use kld_ebpf_programs::table::{Table, add_spell};

#[map]
static TABLE: Table<Contention, Spell> = Table::with_max_entries(1, 0);

#[map]
static STACKS: StackTrace = StackTrace::with_max_entries(1, 0);

#[map]
static SECOND_STACKS: StackTrace = StackTrace::with_max_entries(1, 0);

const KEPT: Kept = Kept { first: &STACKS, second: &SECOND_STACKS };

/// Who waits for which lock: a wait may have another one within, as for the spinlock of a mutex.
#[derive(Clone, Copy)]
#[repr(C)]
struct Waiter {
    lock: u64,
    thread: u64,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Wait {
    since: u64,
    of: Contention,
}

#[map]
static WAITING: HashMap<Waiter, Wait> = HashMap::with_max_entries(32768, 0);

/// Each processor has an idle task of its own, all of number 0.
#[inline(always)]
fn waiter(ctx: &RawTracePointContext) -> Waiter {
    let thread = match ctx.pid() {
        // SAFETY: the helper takes nothing.
        0 => 1 << 32 | u64::from(unsafe { bpf_get_smp_processor_id() }),
        thread => thread.into(),
    };
    Waiter { lock: ctx.arg(0), thread }
}

/// contention_begin(lock, flags). A mutex is first spun for, then slept for, and each is told: the wait began with the
/// first.
#[raw_tracepoint(tracepoint = "contention_begin")]
pub fn begun(ctx: RawTracePointContext) -> i32 {
    let waiter = waiter(&ctx);
    // SAFETY: the value is not read.
    if !wanted() || unsafe { WAITING.get(&waiter) }.is_some() {
        return 0;
    }
    let of = Contention { stack: KEPT.ids(&ctx), kind: u64::from(ctx.arg::<u64>(1) as u32) };
    if WAITING.insert(&waiter, &Wait { since: now(), of }, u64::from(BPF_NOEXIST)).is_err() {
        lose();
    }
    0
}

/// contention_end(lock, result)
#[raw_tracepoint(tracepoint = "contention_end")]
pub fn ended(ctx: RawTracePointContext) -> i32 {
    let waiter = waiter(&ctx);
    // SAFETY: the value is copied at once.
    let Some(wait) = (unsafe { WAITING.get(&waiter) }).copied() else { return 0 };
    let _ = WAITING.remove(&waiter);
    let waited = now().saturating_sub(wait.since);
    if wanted_time(waited) {
        add_spell(&TABLE, wait.of, waited);
    }
    0
}
