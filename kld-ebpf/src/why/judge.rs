//! From evidence to ranked findings: a pure function.
//!
//! A score is the part of the time that somebody wanted to go on and could not, from 0 to 1, weighed by how unusual
//! that is. Two notions make it up:
//!
//! * the *time waited*, as a part of the watch and at most 1: by Little's law what waits of all kinds add up to, divided
//!   by the watch, is how many waited at any moment in the mean;
//! * a *weight* `x / (x + half)`, which is a half where `x` is `half`: a disk that is always busy is no trouble while it
//!   answers at once.
//!
//! | finding | score |
//! |---|---|
//! | processors | `min(1, W/T, R/T) * W/(W + R)`: W what tasks waited, less what a control group's limit explains, R what processors worked, T the watch: nobody waits for a processor that nobody uses, but for a host that does not run its guest |
//! | limit of a control group | `min(1, H/T) * H/(H + Q)`: H how long it was held, Q what it might have run |
//! | disk | `min(1, A/T) * m/(m + 5 ms) * (1 - a/2)`: A what awaited requests took, m their mean, a the part of what is read from all disks that had been in memory |
//! | loss of packets | `S/T * p/(p + 1 %)`: S how long at least one connection waited to send again, at most; p the part of the segments |
//! | connections | `S/T * m/(m + 200 ms)`: S how long at least one waited for its answer, m their mean |
//! | memory | `min(1, D/T + a * d)`: D what tasks spent to free memory before they got some, d the worst disk's score without its last factor: memory that is short makes disks busy |
//! | kills | 1 |
//! | ZFS's cache | `u * (1 - size/most) * r/(r + 100/s)`: u the part that was missed, r how often; where it was cut down |
//! | pressure | the kernel's own share of the time, of a resource whose probe does not run here |
//!
//! Time off the processors by reason is to have a line of its own here.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::evidence::{Connects, Disk, Evidence, Process, Retransmits, RunQueue, Share, Throttled};

/// What is below this is not told as wrong.
pub const THRESHOLD: f64 = 0.05;

/// Half the weight of a disk's mean latency, in milliseconds: a good disk takes much less, a bad one more.
const SLOW_DISK_MS: f64 = 5.0;
/// Half the weight of the part of the segments that are sent again.
const LOSSY: f64 = 0.01;
/// Half the weight of how long a connection waits for its answer in the mean, in milliseconds: around the world.
const FAR_MS: f64 = 200.0;
/// Half the weight of what ZFS's cache misses in a second.
const MISSES: f64 = 100.0;

/// What may be wrong with a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A process was killed for want of memory.
    Kill,
    /// Tasks wait for a processor.
    Cpu,
    /// A control group has used up its share of the processors.
    Throttle,
    /// A disk is slow.
    Disk,
    /// Tasks must free memory before they get some.
    Memory,
    /// Packets are lost.
    Loss,
    /// Connections wait long for their answer.
    Connect,
    /// ZFS's cache is too small for what is asked of it.
    Arc,
    /// The kernel's own figures say so, where no probe can.
    Pressure,
}

impl Kind {
    /// Its name for programs.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Kill => "kill",
            Kind::Cpu => "cpu",
            Kind::Throttle => "throttle",
            Kind::Disk => "disk",
            Kind::Memory => "memory",
            Kind::Loss => "loss",
            Kind::Connect => "connect",
            Kind::Arc => "arc",
            Kind::Pressure => "pressure",
        }
    }
}

/// What is wrong, and what shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// What it is.
    pub kind: Kind,
    /// With what: the process that runs, the disk, the control group, the connection; empty where that is not known.
    pub subject: String,
    /// From 0 to 1.
    pub score: f64,
    /// It in a sentence.
    pub title: String,
    /// What shows it, a line each.
    pub evidence: Vec<String>,
}

/// What is wrong with a host, the worst first; nothing below the [`THRESHOLD`].
pub fn judge(evidence: &Evidence) -> Vec<Finding> {
    let mut all = Vec::new();
    all.extend(kills(evidence));
    all.extend(evidence.run_queue.as_ref().map(|queue| cpu(evidence, queue)));
    all.extend(evidence.throttled.iter().flatten().map(|group| throttle(evidence, group)));
    all.extend(evidence.disks.iter().flatten().map(|disk| self::disk(evidence, disk)));
    all.extend(memory(evidence));
    all.extend(evidence.retransmits.as_ref().map(|segments| loss(evidence, segments)));
    all.extend(evidence.connects.as_ref().map(|connects| connect(evidence, connects)));
    all.extend(arc(evidence));
    all.extend(stand_ins(evidence));
    all.retain(|finding| finding.score >= THRESHOLD);
    all.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.kind.cmp(&b.kind)));
    all
}

/// A part of the watch, at most all of it.
fn part(evidence: &Evidence, seconds: f64) -> f64 {
    if evidence.seconds > 0.0 { (seconds / evidence.seconds).min(1.0) } else { 0.0 }
}

/// A half where `x` is `half`, and near 1 where it is much more.
fn weight(x: f64, half: f64) -> f64 {
    if x > 0.0 { x / (x + half) } else { 0.0 }
}

fn percent(part: f64) -> String {
    format!("{:.0} %", part * 100.0)
}

/// `name (pid)` for each, with what it had a part in.
fn named(processes: &[Process]) -> String {
    let one = |process: &Process| format!("{} ({}) {:.2} s", process.comm, process.pid, process.seconds);
    processes.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn first(processes: &[Process]) -> String {
    processes.first().map(|process| process.comm.clone()).unwrap_or_default()
}

/// A line with the kernel's own figure beside ours.
fn corroboration(
    evidence: &Evidence,
    what: &str,
    share: impl Fn(&super::Pressure) -> Share,
) -> Option<String> {
    let share = share(evidence.pressure.as_ref()?);
    Some(format!(
        "the kernel's own figure (PSI): {} of the time somebody waited for {what}",
        percent(share.some)
    ))
}

/// What tasks waited for a processor that no control group's limit explains, in seconds: of a group that was held for
/// a part of the watch, that part of its tasks' waits, but at least as long as it was held.
fn unexplained(evidence: &Evidence, queue: &RunQueue) -> f64 {
    let of_limits = |group: &Throttled| {
        let is_below = |path: &&String| {
            path.strip_prefix(group.group.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let waited: f64 =
            queue.by_group.iter().filter(|(path, _)| is_below(path)).map(|(_, seconds)| seconds).sum();
        waited.min(group.seconds.max(waited * part(evidence, group.seconds)))
    };
    let limits: f64 = evidence.throttled.iter().flatten().map(of_limits).sum();
    (queue.waited_s - limits).max(0.0)
}

fn cpu(evidence: &Evidence, queue: &RunQueue) -> Finding {
    let waited = unexplained(evidence, queue);
    let hog = hog(&queue.runners);
    let meanwhile = hog.as_ref().map_or(String::new(), |(comm, pids)| match pids.as_slice() {
        [pid] => format!("; {comm} (pid {pid}) runs meanwhile"),
        pids => format!("; {} processes named {comm} run meanwhile, such as pid {}", pids.len(), pids[0]),
    });
    let at_once = waited / evidence.seconds.max(f64::MIN_POSITIVE);
    let mut lines = vec![
        format!(
            "{} waits of {:.2} s in all: half not above {} us, 99 of 100 not above {} us, the longest {} us",
            queue.waits, queue.waited_s, queue.p50_us, queue.p99_us, queue.max_us
        ),
        format!("{} processors worked {:.2} s in {:.2} s", evidence.cpus, evidence.busy_s, evidence.seconds),
    ];
    if !queue.waiters.is_empty() {
        lines.push(format!("who waited 1 ms and more: {}", named(&queue.waiters)));
    }
    if !queue.runners.is_empty() {
        lines.push(format!("who ran before that ended: {}", named(&queue.runners)));
    }
    lines.extend(corroboration(evidence, "a processor", |pressure| pressure.cpu));
    Finding {
        kind: Kind::Cpu,
        subject: hog.map(|(comm, _)| comm).unwrap_or_default(),
        score: part(evidence, waited.min(evidence.busy_s)) * weight(waited, evidence.busy_s),
        title: format!("tasks wait for a processor, {at_once:.1} at any moment in the mean{meanwhile}"),
        evidence: lines,
    }
}

/// The name under which most ran while others waited, and the processes of that name, the greatest first.
fn hog(runners: &[Process]) -> Option<(String, Vec<u32>)> {
    let mut by_name: BTreeMap<&str, (f64, Vec<u32>)> = BTreeMap::new();
    for process in runners {
        let (seconds, pids) = by_name.entry(&process.comm).or_default();
        *seconds += process.seconds;
        pids.push(process.pid);
    }
    let (comm, (_, pids)) = by_name.into_iter().max_by(|(_, a), (_, b)| a.0.total_cmp(&b.0))?;
    Some((comm.to_string(), pids))
}

fn throttle(evidence: &Evidence, group: &Throttled) -> Finding {
    // Where the limit is not known it is taken for a processor.
    let ran = group.quota_s.map_or(evidence.seconds, |quota| quota * group.periods as f64);
    let mut lines = vec![format!(
        "its share was used up in {} of {} periods, and it was held for {:.2} s",
        group.used_up, group.periods, group.seconds
    )];
    if let Some(quota) = group.quota_s {
        lines.push(format!("it may run {:.1} ms in a period", quota * 1000.0));
    }
    lines.extend(corroboration(evidence, "a processor", |pressure| pressure.cpu));
    Finding {
        kind: Kind::Throttle,
        subject: group.group.clone(),
        score: part(evidence, group.seconds) * weight(group.seconds, ran),
        title: format!("the control group {} uses up its share of the processors", group.group),
        evidence: lines,
    }
}

/// A disk's part in what is slow, whatever makes it busy.
fn slowness(evidence: &Evidence, disk: &Disk) -> f64 {
    part(evidence, disk.awaited_s) * weight(disk.mean_ms(), SLOW_DISK_MS)
}

/// The part of what is read from disks that had been in memory.
fn again(evidence: &Evidence) -> f64 {
    evidence.reads.map_or(0.0, |reads| reads.again())
}

fn disk(evidence: &Evidence, disk: &Disk) -> Finding {
    let mean = disk.mean_ms();
    let share = percent(part(evidence, disk.awaited_s));
    let mut lines = vec![format!(
        "{} requests, {} of them awaited: 99 of 100 not above {:.1} ms, the longest {:.1} ms",
        disk.requests,
        disk.awaited,
        disk.p99_us as f64 / 1000.0,
        disk.max_us as f64 / 1000.0
    )];
    if !disk.users.is_empty() {
        lines.push(format!("whose requests: {}", named(&disk.users)));
    }
    lines.extend(corroboration(evidence, "a disk", |pressure| pressure.io));
    Finding {
        kind: Kind::Disk,
        subject: disk.name.clone(),
        score: slowness(evidence, disk) * (1.0 - again(evidence) / 2.0),
        title: format!(
            "the disk {} takes {mean:.1} ms for a request in the mean; somebody waits {share} of the time",
            disk.name
        ),
        evidence: lines,
    }
}

fn memory(evidence: &Evidence) -> Option<Finding> {
    let reclaim = evidence.reclaim.as_ref()?;
    let group = reclaim.by_group.iter().max_by(|a, b| a.1.total_cmp(b.1)).map(|(path, _)| path.clone());
    let subject = group.clone().unwrap_or_else(|| first(&reclaim.tasks));
    let share = part(evidence, reclaim.seconds);
    let disks = evidence.disks.iter().flatten().map(|disk| slowness(evidence, disk)).fold(0.0, f64::max);
    let whose = match (&group, reclaim.of_groups > 0) {
        (Some(path), _) => format!("; most at the limit of the control group {path}"),
        (None, true) => "; some at a control group's limit".to_string(),
        (None, false) => "; the host has none to spare".to_string(),
    };
    let mut lines = vec![
        format!(
            "{} times, {} of them at a control group's limit, in all {:.2} s, for {} pages",
            reclaim.times, reclaim.of_groups, reclaim.seconds, reclaim.pages
        ),
        format!("who: {}", named(&reclaim.tasks)),
    ];
    if let Some(reads) = evidence.reads.filter(|reads| reads.kib > 0) {
        let (mib, again) = (reads.kib >> 10, percent(reads.again()));
        lines.push(format!("{mib} MiB were read from disks, {again} of it had been in memory before"));
    }
    lines.extend(corroboration(evidence, "memory", |pressure| pressure.memory));
    // Where nobody had to free any, memory is not short, whatever is read again.
    let score = if reclaim.times == 0 { 0.0 } else { (share + again(evidence) * disks).min(1.0) };
    let title = format!("tasks free memory before they get some, {} of the time{whose}", percent(share));
    Some(Finding { kind: Kind::Memory, subject, score, title, evidence: lines })
}

fn kills(evidence: &Evidence) -> Option<Finding> {
    let kills = evidence.kills.as_deref().filter(|kills| !kills.is_empty())?;
    let name = |kill: &super::Kill| kill.comm.clone().unwrap_or_else(|| format!("process {}", kill.pid));
    let line = |kill: &super::Kill| {
        format!("{} (pid {}), since {} asked for memory", name(kill), kill.pid, kill.asked)
    };
    let subject = name(&kills[0]);
    let title = match kills.len() {
        1 => format!("{subject} was killed for want of memory"),
        count => format!("{count} processes were killed for want of memory, {subject} the first"),
    };
    let evidence = kills.iter().take(5).map(line).collect();
    Some(Finding { kind: Kind::Kill, subject, score: 1.0, title, evidence })
}

fn loss(evidence: &Evidence, segments: &Retransmits) -> Finding {
    // What was sent again is not among what was sent.
    let sent = segments.sent.map(|sent| sent + segments.segments);
    let share = sent.map_or(1.0, |sent| segments.segments as f64 / sent.max(1) as f64);
    let flow = |flow: &super::TroubledFlow| format!("{} to {} {}", flow.local, flow.remote, flow.segments);
    let of = sent.map_or(String::new(), |sent| format!(" of {sent}"));
    let mut lines = vec![
        format!(
            "{}{of} segments were sent again; some connection waited for that {:.2} s at most",
            segments.segments, segments.stalled_s
        ),
        format!("by connection: {}", segments.flows.iter().map(flow).collect::<Vec<_>>().join(", ")),
    ];
    if let Some(drops) = evidence.drops.as_ref().filter(|drops| drops.packets > 0) {
        let mut line = format!("{} packets of TCP were dropped on this host", drops.packets);
        let reasons = drops.reasons.iter().map(|(reason, count)| format!("{reason} {count}"));
        let reasons = reasons.collect::<Vec<_>>().join(", ");
        if !reasons.is_empty() {
            let _ = write!(line, ": {reasons}");
        }
        lines.push(line);
    }
    let remote = segments.flows.first().map(|flow| flow.remote.clone()).unwrap_or_default();
    Finding {
        kind: Kind::Loss,
        score: part(evidence, segments.stalled_s) * weight(share, LOSSY),
        title: format!(
            "packets are lost: {:.1} % of TCP's segments are sent again, most to {remote}",
            share * 100.0
        ),
        subject: remote,
        evidence: lines,
    }
}

fn connect(evidence: &Evidence, connects: &Connects) -> Finding {
    let slow = |slow: &super::SlowConnect| {
        let Process { pid, comm, seconds } = &slow.process;
        format!("{comm} ({pid}) to {} {seconds:.2} s", slow.remote)
    };
    let mean = connects.mean_ms();
    Finding {
        kind: Kind::Connect,
        subject: connects.slowest.first().map(|slow| slow.remote.clone()).unwrap_or_default(),
        score: part(evidence, connects.stalled_s) * weight(mean, FAR_MS),
        title: format!("connections wait {mean:.0} ms for their answer in the mean"),
        evidence: vec![
            format!(
                "{} answered, {} of them refused; at least one waited for {:.2} s",
                connects.answered, connects.refused, connects.stalled_s
            ),
            format!("the slowest: {}", connects.slowest.iter().map(slow).collect::<Vec<_>>().join(", ")),
        ],
    }
}

fn arc(evidence: &Evidence) -> Option<Finding> {
    let arc = evidence.arc.as_ref()?;
    let missed = arc.misses as f64 / (arc.hits + arc.misses).max(1) as f64;
    let small = 1.0 - (arc.size as f64 / arc.most.max(1) as f64).min(1.0);
    let rate = arc.misses as f64 / evidence.seconds.max(f64::MIN_POSITIVE);
    // One that has not filled yet is no trouble: it grows as it is asked.
    let was_cut = arc.target < arc.most / 10 * 9;
    let mut lines = vec![
        format!("{} hits and {} misses; {:.0} misses a second", arc.hits, arc.misses, rate),
        format!(
            "it has {} MiB, aims at {} MiB, and might have {} MiB",
            arc.size >> 20,
            arc.target >> 20,
            arc.most >> 20
        ),
    ];
    if arc.held_up > 0 {
        lines.push(format!("writers were held up {} times since memory was short", arc.held_up));
    }
    Some(Finding {
        kind: Kind::Arc,
        subject: "ARC".into(),
        score: if was_cut { missed * small * weight(rate, MISSES) } else { 0.0 },
        title: format!("ZFS's cache was cut down, and misses {} of what is asked for", percent(missed)),
        evidence: lines,
    })
}

/// The kernel's own figures stand in for probes that do not run here.
fn stand_ins(evidence: &Evidence) -> Vec<Finding> {
    let Some(pressure) = &evidence.pressure else { return Vec::new() };
    let of = [
        ("a processor", evidence.run_queue.is_none(), pressure.cpu),
        ("a disk", evidence.disks.is_none(), pressure.io),
        ("memory", evidence.reclaim.is_none(), pressure.memory),
    ];
    let one = |(what, _, share): (&str, bool, Share)| Finding {
        kind: Kind::Pressure,
        subject: what.to_string(),
        score: share.some,
        title: format!("somebody waits for {what} {} of the time", percent(share.some)),
        evidence: vec![format!(
            "the kernel's own figure (PSI), since no probe runs here; for all that worked it was {}",
            percent(share.full)
        )],
    };
    of.into_iter().filter(|(_, is_blind, _)| *is_blind).map(one).collect()
}

#[cfg(test)]
mod tests;
