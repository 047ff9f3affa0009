//! What the scheduler does: how long tasks wait for a processor, and how long they run.

use std::time::Duration;

use kld_ebpf_events::histogram::Histogram;
use kld_ebpf_events::sched::Queue;
use kld_ebpf_events::table::Total;
use kld_ebpf_events::{COMM, Plain, Task, sched};

use super::{Hook, Known, Probe};
use crate::table::Summary;

/// What a program must know of tasks that do not run themselves.
pub const TASKS: &[Known] = &[
    Known::field("TASK_PID", &["task_struct.pid"]),
    // Renamed in 5.14.
    Known::field("TASK_STATE", &["task_struct.__state", "task_struct.state"]),
    Known::field("TASK_CRED", &["task_struct.real_cred"]),
    Known::field("CRED_UID", &["cred.uid"]),
    Known::field("TASK_COMM", &["task_struct.comm"]),
    // Beside what every program's filter must know.
    Known::optional("CGROUP_ANCESTORS", &["cgroup.ancestors"]),
    Known::optional("CGROUP_NODE", &["cgroup.kn"]),
    Known::optional("NODE_ID", &["kernfs_node.id"]),
];

const HOOKS: &[Hook] = &[
    Hook::new("woken", "sched_wakeup"),
    Hook::new("born", "sched_wakeup_new"),
    Hook::new("switched", "sched_switch"),
];

/// So many processes or threads have their distributions in an interval.
const MOST: u32 = 1024;

/// How long tasks that could run waited for a processor, as distributions; the key is the process, the thread, or 0.
#[derive(Debug, Clone, Copy)]
pub struct RunqLat;

impl RunqLat {
    /// The switch for a distribution for each process, in [`Filter::switches`](crate::Filter).
    pub const BY_PROCESS: u32 = sched::BY_PROCESS;
    /// The switch for a distribution for each thread.
    pub const BY_THREAD: u32 = sched::BY_THREAD;
}

impl Summary for RunqLat {
    type Key = u64;
    type Value = Histogram;
    const NAME: &'static str = "runqlat";
    const OBJECT: &'static [u8] = include_bytes!("../../objects/runqlat.o");
    const HOOKS: &'static [Hook] = HOOKS;
    const KNOWN: &'static [&'static [Known]] = &[TASKS];
    const KEYS: u32 = MOST;
    const KEYED: Option<u32> = Some(sched::BY_PROCESS | sched::BY_THREAD);
}

/// A task that could run has waited for a processor.
#[derive(Debug, Clone)]
pub struct RunqSlower {
    /// The process that waited.
    pub pid: u32,
    /// The thread that waited.
    pub tid: u32,
    /// Its name, up to its first NUL.
    pub comm: [u8; COMM],
    /// How long it waited.
    pub waited: Duration,
    /// Who ran before it; the time is when the wait ended.
    pub before: Task,
}

impl RunqSlower {
    /// Shorter waits are left out: microseconds, in [`Filter::numbers`](crate::Filter).
    pub const SHORTEST: &'static str = "SHORTEST";
}

impl Probe for RunqSlower {
    type Event = RunqSlower;
    const NAME: &'static str = "runqslower";
    const OBJECT: &'static [u8] = RunqLat::OBJECT;
    const HOOKS: &'static [Hook] = HOOKS;
    const KNOWN: &'static [&'static [Known]] = &[TASKS];
    const SWITCHES: u32 = sched::EACH;

    fn decode(bytes: &[u8]) -> Option<RunqSlower> {
        let (wait, _) = sched::Wait::split(bytes)?;
        let (pid, tid, comm, before) = (wait.pid, wait.tid, wait.comm, wait.before);
        Some(RunqSlower { pid, tid, comm, waited: Duration::from_nanos(wait.waited), before })
    }
}

/// How long tasks run before they leave the processor, as distributions; the key is the process, the thread, or 0.
#[derive(Debug, Clone, Copy)]
pub struct CpuDist;

impl CpuDist {
    /// The switch for a distribution for each process, in [`Filter::switches`](crate::Filter).
    pub const BY_PROCESS: u32 = sched::BY_PROCESS;
    /// The switch for a distribution for each thread.
    pub const BY_THREAD: u32 = sched::BY_THREAD;
    /// The switch for how long tasks are away from the processor instead.
    pub const OFF: u32 = sched::OFF;
}

impl Summary for CpuDist {
    type Key = u64;
    type Value = Histogram;
    const NAME: &'static str = "cpudist";
    const OBJECT: &'static [u8] = include_bytes!("../../objects/cpudist.o");
    const HOOKS: &'static [Hook] =
        &[Hook::new("switched", "sched_switch"), Hook::new("gone", "sched_process_free").when(sched::OFF)];
    const KNOWN: &'static [&'static [Known]] = &[TASKS];
    const KEYS: u32 = MOST;
    const KEYED: Option<u32> = Some(sched::BY_PROCESS | sched::BY_THREAD);
}

/// How many tasks wait for each processor, looked at [so many times a second](crate::Filter::frequency). Whose they are
/// is not asked.
#[derive(Debug, Clone, Copy)]
pub struct RunqLen;

impl Summary for RunqLen {
    type Key = Queue;
    type Value = Total;
    const NAME: &'static str = "runqlen";
    const OBJECT: &'static [u8] = include_bytes!("../../objects/runqlen.o");
    const HOOKS: &'static [Hook] = &[Hook::sample("sampled")];
    const KNOWN: &'static [&'static [Known]] = &[&[
        Known::field("TASK_CFS", &["task_struct.se.cfs_rq"]),
        Known::field("CFS_RUNQUEUE", &["cfs_rq.rq"]),
        Known::field("RUNQUEUE_LENGTH", &["rq.nr_running"]),
    ]];
    const KEYS: u32 = 16384;
}
