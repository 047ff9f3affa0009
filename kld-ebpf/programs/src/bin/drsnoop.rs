//! drsnoop: tasks that must free memory before they get some, from mm_vmscan_direct_reclaim_begin(order, flags) to
//! mm_vmscan_direct_reclaim_end(pages), and the same for control groups' limits.
#![no_std]
#![no_main]

use aya_ebpf::EbpfContext;
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::LruHashMap;
use aya_ebpf::programs::RawTracePointContext;
use kld_ebpf_events::memory::Reclaim;
use kld_ebpf_programs::current::{now, task, wanted};
use kld_ebpf_programs::output::send;

/// What is remembered of a reclaim that is under way.
#[derive(Clone, Copy)]
#[repr(C)]
struct Begun {
    time: u64,
    order: u32,
    pad: u32,
}

/// By thread, and whether it is for a control group: one may happen within the other.
#[map]
static BEGUN: LruHashMap<u64, Begun> = LruHashMap::with_max_entries(10240, 0);

#[inline(always)]
fn key(ctx: &RawTracePointContext, group: u32) -> u64 {
    u64::from(ctx.pid()) << 1 | u64::from(group)
}

#[inline(always)]
fn begin(ctx: &RawTracePointContext, group: u32) -> i32 {
    if wanted() {
        let begun = Begun { time: now(), order: ctx.arg(0), pad: 0 };
        let _ = BEGUN.insert(key(ctx, group), &begun, 0);
    }
    0
}

#[inline(always)]
fn end(ctx: &RawTracePointContext, group: u32) -> i32 {
    let key = key(ctx, group);
    // SAFETY: only this thread writes it.
    let Some(Begun { time, order, .. }) = (unsafe { BEGUN.get(&key) }).copied() else { return 0 };
    let _ = BEGUN.remove(&key);
    let task = task();
    let (lasted, pages) = (task.time - time, ctx.arg(0));
    // SAFETY: the ring gives room for the event.
    send(|event: *mut Reclaim| unsafe { event.write(Reclaim { task, lasted, pages, order, group }) });
    0
}

#[raw_tracepoint(tracepoint = "mm_vmscan_direct_reclaim_begin")]
pub fn host_begins(ctx: RawTracePointContext) -> i32 {
    begin(&ctx, 0)
}

#[raw_tracepoint(tracepoint = "mm_vmscan_direct_reclaim_end")]
pub fn host_ends(ctx: RawTracePointContext) -> i32 {
    end(&ctx, 0)
}

#[raw_tracepoint(tracepoint = "mm_vmscan_memcg_reclaim_begin")]
pub fn group_begins(ctx: RawTracePointContext) -> i32 {
    begin(&ctx, 1)
}

#[raw_tracepoint(tracepoint = "mm_vmscan_memcg_reclaim_end")]
pub fn group_ends(ctx: RawTracePointContext) -> i32 {
    end(&ctx, 1)
}
