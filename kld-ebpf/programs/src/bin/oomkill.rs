//! oomkill: processes that are killed for want of memory, on mark_victim(victim, its user), or mark_victim(its number)
//! before 6.8.
#![no_std]
#![no_main]

use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use kld_ebpf_events::memory::Oom;
use kld_ebpf_programs::cgroup::{id, of};
use kld_ebpf_programs::current::{task, wanted};
use kld_ebpf_programs::output::send;
use kld_ebpf_programs::read::{Known, field, known};
use kld_ebpf_programs::task::process;
use kld_ebpf_programs::whose::name;

#[unsafe(no_mangle)]
static TASK_MM: Known = known();
#[unsafe(no_mangle)]
static MM_TOTAL: Known = known();
#[unsafe(no_mangle)]
static TASK_SIGNAL: Known = known();
#[unsafe(no_mangle)]
static SIGNAL_ADJUSTED: Known = known();

#[raw_tracepoint(tracepoint = "mark_victim")]
pub fn marked(ctx: RawTracePointContext) -> i32 {
    if !wanted() {
        return 0;
    }
    let victim: *const u8 = ctx.arg(0);
    let uid: u32 = ctx.arg(1);
    // SAFETY: the ring gives room for the event.
    send(|event: *mut Oom| unsafe {
        (*event).task = task();
        (*event).cgroup = id(of(victim));
        (*event).pages = field(field(victim, &TASK_MM), &MM_TOTAL);
        (*event).pid = process(victim);
        (*event).uid = uid;
        (*event).adjusted = i32::from(field::<i16>(field(victim, &TASK_SIGNAL), &SIGNAL_ADJUSTED));
        (*event).told = 1;
        (*event).comm = name(victim);
    });
    0
}

/// Kernels before 6.8.
#[raw_tracepoint(tracepoint = "mark_victim")]
pub fn marked_5_8(ctx: RawTracePointContext) -> i32 {
    if !wanted() {
        return 0;
    }
    let pid = ctx.arg(0);
    // SAFETY: the ring gives room for the event.
    send(|event: *mut Oom| unsafe {
        event.write(Oom {
            task: task(),
            cgroup: 0,
            pages: 0,
            pid,
            uid: 0,
            adjusted: 0,
            told: 0,
            comm: [0; 16],
        });
    });
    0
}
