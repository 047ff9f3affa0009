//! runqlen: how many tasks wait for each processor, looked at so many times a second.
#![no_std]
#![no_main]

use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use aya_ebpf::macros::{map, perf_event};
use aya_ebpf::programs::PerfEventContext;
use kld_ebpf_events::sched::Queue;
use kld_ebpf_events::table::Total;
use kld_ebpf_programs::read::{Known, field, known};
use kld_ebpf_programs::table::{Table, add_total};
use kld_ebpf_programs::task::current;

#[unsafe(no_mangle)]
static TASK_CFS: Known = known();
#[unsafe(no_mangle)]
static CFS_RUNQUEUE: Known = known();
#[unsafe(no_mangle)]
static RUNQUEUE_LENGTH: Known = known();

#[map]
static TABLE: Table<Queue, Total> = Table::with_max_entries(1, 0);

#[perf_event]
pub fn sampled(_: PerfEventContext) -> u32 {
    // A task's own queue may be its control group's: the processor's is above it.
    let queue: *const u8 = field(field(current(), &TASK_CFS), &CFS_RUNQUEUE);
    let running: u32 = field(queue, &RUNQUEUE_LENGTH);
    // SAFETY: the helper takes nothing.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    add_total(&TABLE, Queue { cpu, length: running.saturating_sub(1) }, 0, 0);
    0
}
