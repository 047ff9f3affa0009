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

mod network;
mod processors;
mod storage;

use serde::{Deserialize, Serialize};

use super::evidence::{Evidence, Pressure, Process, Share};
use network::{connect, loss};
use processors::{cpu, throttle};
use storage::{arc, kills, memory};

/// What is below this is not told as wrong.
pub const THRESHOLD: f64 = 0.05;

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
    all.extend(evidence.disks.iter().flatten().map(|disk| storage::disk(evidence, disk)));
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
fn corroboration(evidence: &Evidence, what: &str, share: impl Fn(&Pressure) -> Share) -> Option<String> {
    let share = share(evidence.pressure.as_ref()?);
    Some(format!(
        "the kernel's own figure (PSI): {} of the time somebody waited for {what}",
        percent(share.some)
    ))
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
