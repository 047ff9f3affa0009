//! The task that runs, and whether its events are wanted.

use aya_ebpf::helpers::{
    bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
    generated::{bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_ktime_get_ns},
};
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::HashMap;
use aya_ebpf::programs::RawTracePointContext;
use aya_ebpf::{EbpfContext, Global};
use kld_ebpf_events::Task;
use kld_ebpf_events::filter::{BY_CGROUP, BY_COMM, BY_PID, BY_UID, Filter};

use crate::cgroup::{above, keeps_ids, of};
use crate::task::{current, process};

#[unsafe(no_mangle)]
static FILTER: Global<Filter> =
    Global::new(Filter { cgroup: 0, argument: 0, level: 0, by: 0, uid: 0, switches: 0, comm: [0; 16] });

/// The wanted processes, and those that they have started since.
#[map]
static PIDS: HashMap<u32, u8> = HashMap::with_max_entries(8192, 0);

/// What is wanted.
#[inline(always)]
pub fn filter() -> Filter {
    FILTER.load()
}

/// The program's own switches.
#[inline(always)]
pub fn switches() -> u32 {
    FILTER.load().switches
}

/// The program's own number; 0 where none was given.
#[inline(always)]
pub fn argument() -> u64 {
    FILTER.load().argument
}

/// Whether everybody's events are wanted.
#[inline(always)]
pub fn is_unfiltered() -> bool {
    FILTER.load().by == 0
}

/// Whether the events of the task that runs are wanted.
#[inline(always)]
pub fn wanted() -> bool {
    let filter = FILTER.load();
    if filter.by & BY_PID != 0 && !wanted_pid((bpf_get_current_pid_tgid() >> 32) as u32) {
        return false;
    }
    if filter.by & BY_UID != 0 && bpf_get_current_uid_gid() as u32 != filter.uid {
        return false;
    }
    if filter.by & BY_COMM != 0 && !same(&bpf_get_current_comm().unwrap_or_default(), &filter.comm) {
        return false;
    }
    filter.by & BY_CGROUP == 0 || ancestor_cgroup(filter.level) == filter.cgroup
}

/// The control group that is so many levels below the root and in which, or below which, the task is; 0 for none.
#[inline(always)]
fn ancestor_cgroup(level: u32) -> u64 {
    if keeps_ids() {
        // Kernels before 5.11 do not let these programs call the helper.
        return above(of(current()), level);
    }
    // SAFETY: the helper takes any level.
    unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) }
}

/// Whether a process is one of the wanted.
#[inline(always)]
pub fn wanted_pid(pid: u32) -> bool {
    // SAFETY: the value is not read.
    unsafe { PIDS.get(&pid).is_some() }
}

/// Both halves at once: a loop over the bytes would be unrolled.
#[inline(always)]
pub(crate) fn same(a: &[u8; 16], b: &[u8; 16]) -> bool {
    u128::from_ne_bytes(*a) == u128::from_ne_bytes(*b)
}

/// Who runs, and when it is.
#[inline(always)]
pub fn task() -> Task {
    let (ids, owner) = (bpf_get_current_pid_tgid(), bpf_get_current_uid_gid());
    Task {
        time: now(),
        // SAFETY: these helpers take nothing.
        cgroup: unsafe { bpf_get_current_cgroup_id() },
        pid: (ids >> 32) as u32,
        tid: ids as u32,
        uid: owner as u32,
        gid: (owner >> 32) as u32,
        comm: bpf_get_current_comm().unwrap_or_default(),
    }
}

/// Nanoseconds of the monotonic clock.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helper takes nothing.
    unsafe { bpf_ktime_get_ns() }
}

/// Children of wanted processes are wanted: on sched_process_fork(parent, child). Loaded with [`BY_PID`] only.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn follow(ctx: RawTracePointContext) -> i32 {
    let child = process(ctx.arg(1));
    if wanted_pid(ctx.tgid()) {
        let _ = PIDS.insert(child, 1, 0);
    }
    0
}
