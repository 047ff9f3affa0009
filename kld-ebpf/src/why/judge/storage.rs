//! Disks and memory: what memory cannot hold is read again.

use super::super::evidence::{Disk, Evidence, Kill};
use super::{Finding, Kind, corroboration, first, named, part, percent, weight};

/// Half the weight of a disk's mean latency, in milliseconds: a good disk takes much less, a bad one more.
const SLOW_DISK_MS: f64 = 5.0;
/// Half the weight of what ZFS's cache misses in a second.
const MISSES: f64 = 100.0;

/// A disk's part in what is slow, whatever makes it busy.
fn slowness(evidence: &Evidence, disk: &Disk) -> f64 {
    part(evidence, disk.awaited_s) * weight(disk.mean_ms(), SLOW_DISK_MS)
}

/// The part of what is read from disks that had been in memory.
fn again(evidence: &Evidence) -> f64 {
    evidence.reads.map_or(0.0, |reads| reads.again())
}

pub fn disk(evidence: &Evidence, disk: &Disk) -> Finding {
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

pub fn memory(evidence: &Evidence) -> Option<Finding> {
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

pub fn kills(evidence: &Evidence) -> Option<Finding> {
    let kills = evidence.kills.as_deref().filter(|kills| !kills.is_empty())?;
    let name = |kill: &Kill| kill.comm.clone().unwrap_or_else(|| format!("process {}", kill.pid));
    let line =
        |kill: &Kill| format!("{} (pid {}), since {} asked for memory", name(kill), kill.pid, kill.asked);
    let subject = name(&kills[0]);
    let title = match kills.len() {
        1 => format!("{subject} was killed for want of memory"),
        count => format!("{count} processes were killed for want of memory, {subject} the first"),
    };
    let evidence = kills.iter().take(5).map(line).collect();
    Some(Finding { kind: Kind::Kill, subject, score: 1.0, title, evidence })
}

pub fn arc(evidence: &Evidence) -> Option<Finding> {
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
