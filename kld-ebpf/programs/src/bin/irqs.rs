//! hardirqs and softirqs: how often and how long tasks are interrupted, by handler.
#![no_std]
#![no_main]

use aya_ebpf::helpers::bpf_probe_read_kernel_str_bytes;
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::RawTracePointContext;
use kld_ebpf_events::histogram::Histogram;
use kld_ebpf_events::irq::{DISTRIBUTION, HANDLER, Handler};
use kld_ebpf_events::table::Total;
use kld_ebpf_programs::current::{now, switches, wanted};
use kld_ebpf_programs::read::{Known, field, known};
use kld_ebpf_programs::table::{Table, add_time, add_total};

#[unsafe(no_mangle)]
static ACTION_NAME: Known = known();

#[map]
static TABLE: Table<Handler, Histogram> = Table::with_max_entries(1, 0);

#[map]
static TOTALS: Table<Handler, Total> = Table::with_max_entries(1, 0);

/// Since when this processor handles an interrupt: neither kind is interrupted by its own.
#[map]
static SINCE: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
fn begin() -> i32 {
    if let Some(since) = SINCE.get_ptr_mut(0) {
        // SAFETY: the entry is this processor's.
        unsafe { *since = if wanted() { now() } else { 0 } };
    }
    0
}

#[inline(always)]
fn end(handler: impl FnOnce() -> Handler) -> i32 {
    let Some(since) = SINCE.get_ptr_mut(0) else { return 0 };
    // SAFETY: as above.
    let began = unsafe { core::mem::take(&mut *since) };
    if began == 0 {
        return 0;
    }
    let taken = now().saturating_sub(began);
    if switches() & DISTRIBUTION != 0 {
        add_time(&TABLE, handler(), taken);
    } else {
        add_total(&TOTALS, handler(), 0, taken);
    }
    0
}

/// irq_handler_entry(number, action)
#[raw_tracepoint(tracepoint = "irq_handler_entry")]
pub fn hard_begun(_: RawTracePointContext) -> i32 {
    begin()
}

/// irq_handler_exit(number, action, result)
#[raw_tracepoint(tracepoint = "irq_handler_exit")]
pub fn hard_ended(ctx: RawTracePointContext) -> i32 {
    end(|| {
        let mut handler = Handler { name: [0; HANDLER] };
        let at: *const u8 = field(ctx.arg(1), &ACTION_NAME);
        // SAFETY: the helper checks the address. Without a name it is the one without a name.
        let _ = unsafe { bpf_probe_read_kernel_str_bytes(at, &mut handler.name) };
        handler
    })
}

/// softirq_entry(vector)
#[raw_tracepoint(tracepoint = "softirq_entry")]
pub fn soft_begun(_: RawTracePointContext) -> i32 {
    begin()
}

/// softirq_exit(vector): the vector stands for its name.
#[raw_tracepoint(tracepoint = "softirq_exit")]
pub fn soft_ended(ctx: RawTracePointContext) -> i32 {
    end(|| {
        let mut handler = Handler { name: [0; HANDLER] };
        handler.name[0] = ctx.arg::<u32>(0) as u8;
        handler
    })
}
