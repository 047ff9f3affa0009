//! profile: what runs on each processor, looked at so many times a second, by its stacks.
#![no_std]
#![no_main]

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::bpf_get_current_comm;
use aya_ebpf::macros::{map, perf_event};
use aya_ebpf::maps::StackTrace;
use aya_ebpf::programs::PerfEventContext;
use kld_ebpf_events::stack::{IDLE, Of};
use kld_ebpf_events::table::Total;
use kld_ebpf_programs::current::{switches, wanted};
use kld_ebpf_programs::stack::{Kept, wanted_kind};
use kld_ebpf_programs::table::{Table, add_total};
use kld_ebpf_programs::task::current;

#[map]
static TABLE: Table<Of, Total> = Table::with_max_entries(1, 0);

#[map]
static STACKS: StackTrace = StackTrace::with_max_entries(1, 0);

#[map]
static SECOND_STACKS: StackTrace = StackTrace::with_max_entries(1, 0);

const KEPT: Kept = Kept { first: &STACKS, second: &SECOND_STACKS };

#[perf_event]
pub fn sampled(ctx: PerfEventContext) -> u32 {
    // The idle task has the number 0.
    let idle = ctx.pid() == 0 && switches() & IDLE == 0;
    if !idle && wanted() && wanted_kind(current()) {
        let comm = bpf_get_current_comm().unwrap_or_default();
        add_total(&TABLE, Of { stack: KEPT.ids(&ctx), pid: ctx.tgid(), pad: 0, comm }, 0, 0);
    }
    0
}
