//! From what the programs have told to evidence.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use kld_core::Result;
use kld_ebpf_events::histogram::Histogram;
use kld_ebpf_events::table::Tally;
use kld_ebpf_events::{block, text};

use super::evidence::{
    Connects, Disk, Drops, Kill, Process, Reclaim, Retransmits, RunQueue, SlowConnect, TroubledFlow,
};
use super::host::Hierarchy;
use super::stall::covered;
use crate::Table;
use crate::names::Cgroups;
use crate::probe::{
    BioLatency, BioTop, DropReasons, OomKill, Reclaim as Reclaiming, RunqLat, RunqSlower, TcpLatency,
    TcpRetransmit,
};

/// So many of each are told by name.
const MOST: usize = 5;
/// A connection waits this long at least before it sends again without being told to (TCP_RTO_MIN), and so long for the
/// answer to its first segment (TCP_TIMEOUT_INIT).
const TIMEOUT: u64 = 200_000_000;
const FIRST_TIMEOUT: u64 = 1_000_000_000;

/// What events have told so far.
#[derive(Debug, Default)]
pub struct Seen {
    hierarchy: Option<Hierarchy>,
    /// When the watch began, by the monotonic clock.
    began: u64,
    /// What long waits had lasted before it did, in seconds.
    before: f64,
    group_of: HashMap<u32, Option<String>>,
    waiters: Times,
    runners: Times,
    by_group: BTreeMap<String, f64>,
    pub retransmits: Vec<TcpRetransmit>,
    pub connects: Vec<TcpLatency>,
    pub drops: HashMap<Option<u32>, u64>,
    pub reclaim: Vec<Reclaiming>,
    pub kills: Vec<OomKill>,
}

impl Seen {
    /// Nothing yet; the tasks' groups are looked up in this hierarchy.
    pub fn nothing(hierarchy: Option<Hierarchy>) -> Seen {
        Seen { hierarchy, ..Seen::default() }
    }

    /// What was seen before this moment does not count.
    pub fn begin(&mut self, began: u64) {
        *self = Seen { began, ..Seen::nothing(self.hierarchy.take()) };
    }

    pub fn long_wait(&mut self, wait: &RunqSlower) {
        // A wait may have begun long before the watch.
        let within = Duration::from_nanos(wait.before.time.saturating_sub(self.began));
        let seconds = wait.waited.min(within).as_secs_f64();
        self.before += wait.waited.as_secs_f64() - seconds;
        self.waiters.add(wait.pid, text(&wait.comm), seconds);
        // The idle task keeps nobody waiting.
        if wait.before.pid != 0 {
            self.runners.add(wait.before.pid, wait.before.name(), seconds);
        }
        let hierarchy = self.hierarchy.as_ref();
        let look = || hierarchy.and_then(|hierarchy| hierarchy.of(wait.pid));
        if let Some(group) = self.group_of.entry(wait.pid).or_insert_with(look) {
            *self.by_group.entry(group.clone()).or_default() += seconds;
        }
    }

    pub fn run_queue(&self, table: &mut Table<RunqLat>) -> Result<RunQueue> {
        let all = merged(table.take()?.values());
        Ok(RunQueue {
            waits: all.count(),
            waited_s: (all.sum as f64 / 1e9 - self.before).max(0.0),
            p50_us: all.quantile(500),
            p99_us: all.quantile(990),
            max_us: all.max / 1000,
            waiters: self.waiters.longest(),
            runners: self.runners.longest(),
            by_group: self.by_group.clone(),
        })
    }
}

/// Seconds by process.
#[derive(Debug, Default)]
struct Times(HashMap<u32, (String, f64)>);

impl Times {
    fn add(&mut self, pid: u32, comm: &str, seconds: f64) {
        let one = self.0.entry(pid).or_insert_with(|| (comm.to_string(), 0.0));
        one.1 += seconds;
    }

    fn longest(&self) -> Vec<Process> {
        let one = |(pid, (comm, seconds)): (&u32, &(String, f64))| Process {
            pid: *pid,
            comm: comm.clone(),
            seconds: *seconds,
        };
        longest(self.0.iter().map(one).collect(), |process| process.seconds)
    }
}

/// The greatest few.
fn longest<T>(mut all: Vec<T>, by: impl Fn(&T) -> f64) -> Vec<T> {
    all.sort_by(|a, b| by(b).total_cmp(&by(a)));
    all.truncate(MOST);
    all
}

fn merged<'a>(all: impl Iterator<Item = &'a Histogram>) -> Histogram {
    let mut sum = *Histogram::ZERO;
    all.for_each(|one| sum.merge(one));
    sum
}

/// Whether somebody waits for a request: for reads, also those ahead of the reader, and for writes that are to be on the
/// disk at once. What is written in the background, and what is given up, nobody waits for.
fn is_awaited(flags: u32) -> bool {
    /// linux/blk_types.h: REQ_OP_READ, REQ_OP_DISCARD, REQ_OP_SECURE_ERASE and REQ_SYNC.
    const READ: u32 = 0;
    const GIVEN_UP: [u32; 2] = [3, 5];
    const SYNC: u32 = 1 << 11;
    /// REQ_OP_FLUSH.
    const FLUSH: u32 = 2;
    match flags & block::OPERATION {
        READ | FLUSH => true,
        operation => !GIVEN_UP.contains(&operation) && flags & SYNC != 0,
    }
}

pub fn disks(latency: &mut Table<BioLatency>, users: Option<&mut Table<BioTop>>) -> Result<Vec<Disk>> {
    let users = users.map(Table::take).transpose()?.unwrap_or_default();
    let mut by_disk: BTreeMap<String, (u64, Vec<Histogram>)> = BTreeMap::new();
    for (kind, histogram) in latency.take()? {
        let disk = by_disk.entry(text(&kind.name).to_string()).or_default();
        disk.0 += histogram.count();
        if is_awaited(kind.flags as u32) {
            disk.1.push(histogram);
        }
    }
    let one = |(name, (requests, awaited)): (String, (u64, Vec<Histogram>))| {
        let mut times = Times::default();
        for (of, total) in users.iter().filter(|(of, _)| text(&of.disk) == name) {
            times.add(of.pid, text(&of.comm), total.time as f64 / 1e9);
        }
        let awaited = merged(awaited.iter());
        Disk {
            name,
            requests,
            awaited: awaited.count(),
            awaited_s: awaited.sum as f64 / 1e9,
            p99_us: awaited.quantile(990).min(awaited.max / 1000),
            max_us: awaited.max / 1000,
            users: times.longest(),
        }
    };
    let mut all: Vec<Disk> = by_disk.into_iter().map(one).collect();
    all.sort_by(|a, b| b.awaited_s.total_cmp(&a.awaited_s));
    Ok(all)
}

/// What is sent again was waited for since it was sent the last time, where that was seen, or for the timeout at most:
/// less where the other end has said that it lacks it.
fn stretches(segments: &[TcpRetransmit]) -> Vec<(u64, u64)> {
    let mut last = HashMap::new();
    let mut stretch = |segment: &TcpRetransmit| {
        let is_first = matches!(segment.state, "SYN_SENT" | "NEW_SYN_RECV" | "SYN_RECV");
        let timeout = if is_first { FIRST_TIMEOUT } else { TIMEOUT };
        let time = segment.task.time;
        let before = last.insert((segment.local, segment.remote, segment.sequence), time);
        (before.unwrap_or(time.saturating_sub(timeout)), time)
    };
    segments.iter().map(&mut stretch).collect()
}

pub fn retransmits(segments: &[TcpRetransmit], sent: Option<u64>, window: (u64, u64)) -> Retransmits {
    let mut flows: BTreeMap<(String, String), u64> = BTreeMap::new();
    for segment in segments {
        *flows.entry((segment.local.to_string(), segment.remote.to_string())).or_default() += 1;
    }
    let flow = |((local, remote), segments)| TroubledFlow { local, remote, segments };
    Retransmits {
        segments: segments.len() as u64,
        sent,
        stalled_s: covered(stretches(segments), window) as f64 / 1e9,
        flows: longest(flows.into_iter().map(flow).collect(), |flow| flow.segments as f64),
    }
}

pub fn connects(answers: &[TcpLatency], window: (u64, u64)) -> Connects {
    let nanoseconds = |answer: &TcpLatency| answer.lasted.as_nanos() as u64;
    let stretch =
        |answer: &TcpLatency| (answer.task.time.saturating_sub(nanoseconds(answer)), answer.task.time);
    let slow = |answer: &TcpLatency| SlowConnect {
        process: Process {
            pid: answer.task.pid,
            comm: answer.task.name().to_string(),
            seconds: answer.lasted.as_secs_f64(),
        },
        remote: answer.remote.to_string(),
    };
    Connects {
        answered: answers.len() as u64,
        refused: answers.iter().filter(|answer| answer.refused).count() as u64,
        waited_s: answers.iter().map(|answer| answer.lasted).sum::<Duration>().as_secs_f64(),
        stalled_s: covered(answers.iter().map(stretch).collect(), window) as f64 / 1e9,
        slowest: longest(answers.iter().map(slow).collect(), |slow| slow.process.seconds),
    }
}

pub fn drops(counted: &HashMap<Option<u32>, u64>, reasons: &DropReasons) -> Drops {
    let named = counted.iter().filter_map(|(reason, count)| Some((reasons.name((*reason)?), *count)));
    Drops { packets: counted.values().sum(), reasons: named.collect() }
}

pub fn reclaim(all: &[Reclaiming], groups: &mut Cgroups) -> Reclaim {
    let mut told = Reclaim { times: all.len() as u64, ..Reclaim::default() };
    let mut tasks = Times::default();
    for one in all {
        let seconds = one.lasted.as_secs_f64();
        told.of_groups += u64::from(one.group);
        told.seconds += seconds;
        told.pages += one.pages;
        tasks.add(one.task.pid, one.task.name(), seconds);
        let path = groups.path(one.task.cgroup).filter(|path| !path.as_os_str().is_empty());
        if let Some(path) = path.filter(|_| one.group) {
            *told.by_group.entry(format!("/{}", path.display())).or_default() += seconds;
        }
    }
    told.tasks = tasks.longest();
    told
}

pub fn kill(kill: &OomKill) -> Kill {
    let comm = kill.victim.as_ref().map(|victim| victim.comm.clone());
    Kill { pid: kill.pid, comm, asked: kill.task.name().to_string() }
}

#[cfg(test)]
mod tests;
