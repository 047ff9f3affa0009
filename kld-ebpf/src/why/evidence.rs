//! What was seen, as plain data: what is judged, printed for programs, and recorded for tests.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What was seen of a host for a while. What is `None` was not looked at; [`blind`](Self::blind) says why.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// How long it was watched, in seconds.
    pub seconds: f64,
    /// How many processors there are.
    pub cpus: u32,
    /// How long they have worked, all together, in seconds.
    pub busy_s: f64,
    /// Tasks that waited for a processor.
    pub run_queue: Option<RunQueue>,
    /// The disks that there were requests to, the longest waited for first.
    pub disks: Option<Vec<Disk>>,
    /// Segments of TCP that were sent again.
    pub retransmits: Option<Retransmits>,
    /// TCP connections that were begun here and answered.
    pub connects: Option<Connects>,
    /// Packets of TCP that were dropped here.
    pub drops: Option<Drops>,
    /// Tasks that had to free memory before they got some.
    pub reclaim: Option<Reclaim>,
    /// Processes that were killed for want of memory.
    pub kills: Option<Vec<Kill>>,
    /// Control groups that have used up their share of the processors; `None` where none can be.
    pub throttled: Option<Vec<Throttled>>,
    /// What was read from disks.
    pub reads: Option<Reads>,
    /// ZFS's cache, where there is one.
    pub arc: Option<Arc>,
    /// The kernel's own pressure figures, where it keeps them.
    pub pressure: Option<Pressure>,
    /// What could not be looked at.
    pub blind: Vec<Blind>,
    /// How many events came faster than they were read.
    pub lost: u64,
}

/// A process and what it had a part in, in seconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its name, or that of one of its threads.
    pub comm: String,
    /// How long.
    pub seconds: f64,
}

/// Tasks that could run and waited for a processor.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunQueue {
    /// How often.
    pub waits: u64,
    /// How long, all together, in seconds.
    pub waited_s: f64,
    /// Half of the waits were not longer, in microseconds, at most an eighth too great.
    pub p50_us: u64,
    /// So were 99 of a hundred.
    pub p99_us: u64,
    /// The longest wait, in microseconds.
    pub max_us: u64,
    /// Who waited longest, of waits of a millisecond and more.
    pub waiters: Vec<Process>,
    /// Who ran before such waits ended, and for how long they had lasted.
    pub runners: Vec<Process>,
    /// How long such waits were by control group, in seconds.
    pub by_group: BTreeMap<String, f64>,
}

/// A disk and its requests.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Disk {
    /// Its name.
    pub name: String,
    /// How many requests have ended.
    pub requests: u64,
    /// How many of them somebody waits for: all but writes in the background and what is given up.
    pub awaited: u64,
    /// How long these took, all together, in seconds.
    pub awaited_s: f64,
    /// 99 of a hundred of these took no longer, in microseconds, at most an eighth too great.
    pub p99_us: u64,
    /// The longest of these, in microseconds.
    pub max_us: u64,
    /// Whose requests took longest.
    pub users: Vec<Process>,
}

impl Disk {
    /// How long a request took that somebody waits for, in milliseconds, in the mean.
    pub fn mean_ms(&self) -> f64 {
        self.awaited_s * 1000.0 / self.awaited.max(1) as f64
    }
}

/// What was read from disks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Reads {
    /// How much, in KiB.
    pub kib: u64,
    /// How much of it had been in memory not long ago, in KiB.
    pub again_kib: u64,
}

impl Reads {
    /// The part that had been in memory.
    pub fn again(&self) -> f64 {
        (self.again_kib as f64 / self.kib.max(1) as f64).min(1.0)
    }
}

/// Segments of TCP that were sent again, tail loss probes among them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Retransmits {
    /// How many.
    pub segments: u64,
    /// How many were sent in all, in every network namespace; `None` where that is not known.
    pub sent: Option<u64>,
    /// How long at least one connection waited for such a segment, in seconds, at most.
    pub stalled_s: f64,
    /// The connections that were troubled most.
    pub flows: Vec<TroubledFlow>,
}

/// A connection that had segments sent again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TroubledFlow {
    /// This end.
    pub local: String,
    /// The other end.
    pub remote: String,
    /// How many segments.
    pub segments: u64,
}

/// TCP connections that were begun here.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Connects {
    /// How many were answered.
    pub answered: u64,
    /// How many of them were refused.
    pub refused: u64,
    /// How long they waited, all together, in seconds.
    pub waited_s: f64,
    /// How long at least one of them waited, in seconds.
    pub stalled_s: f64,
    /// Those that waited longest.
    pub slowest: Vec<SlowConnect>,
}

impl Connects {
    /// How long one waited in the mean, in milliseconds.
    pub fn mean_ms(&self) -> f64 {
        self.waited_s * 1000.0 / self.answered.max(1) as f64
    }
}

/// A connection that waited long for its answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SlowConnect {
    /// Who connected, and for how long it waited.
    pub process: Process,
    /// Where to.
    pub remote: String,
}

/// Packets of TCP that were dropped here.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Drops {
    /// How many.
    pub packets: u64,
    /// How many by reason, with the kernel's names; none where it tells no reasons.
    pub reasons: BTreeMap<String, u64>,
}

/// Tasks that had to free memory before they got some.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Reclaim {
    /// How often.
    pub times: u64,
    /// How often because of a control group's limit, not the host's.
    pub of_groups: u64,
    /// How long, all together, in seconds.
    pub seconds: f64,
    /// How many pages they have freed.
    pub pages: u64,
    /// Who did so longest.
    pub tasks: Vec<Process>,
    /// How long by control group, where it is known, in seconds.
    pub by_group: BTreeMap<String, f64>,
}

/// A process that was killed for want of memory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Kill {
    /// Its number.
    pub pid: u32,
    /// Its name, where the kernel tells it.
    pub comm: Option<String>,
    /// Who had asked for memory.
    pub asked: String,
}

/// A control group that has used up its share of the processors.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Throttled {
    /// Its path below the hierarchy's root.
    pub group: String,
    /// How many periods it has run in.
    pub periods: u64,
    /// In how many of them its share was used up.
    pub used_up: u64,
    /// How long it was kept from running, summed over processors, in seconds.
    pub seconds: f64,
    /// How long it may run in a period, in seconds, where that is known.
    pub quota_s: Option<f64>,
}

/// ZFS's cache.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Arc {
    /// How often what was asked for was there.
    pub hits: u64,
    /// How often not.
    pub misses: u64,
    /// Its size in bytes.
    pub size: u64,
    /// The size that it aims at.
    pub target: u64,
    /// The greatest that it may have.
    pub most: u64,
    /// How often writers were held up since memory was short.
    pub held_up: u64,
}

/// The kernel's own pressure figures (PSI, Documentation/accounting/psi.rst).
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Pressure {
    /// Of the processors.
    pub cpu: Share,
    /// Of disks.
    pub io: Share,
    /// Of memory.
    pub memory: Share,
}

/// Parts of the time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// In which at least one task waited, from 0 to 1.
    pub some: f64,
    /// In which all did that were not idle.
    pub full: f64,
}

/// What could not be looked at.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Blind {
    /// The probes.
    pub probes: Vec<String>,
    /// Why.
    pub why: String,
}
