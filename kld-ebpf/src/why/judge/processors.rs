//! The processors, and the control groups that may use a part of them only.

use std::collections::BTreeMap;

use super::super::evidence::{Evidence, Process, RunQueue, Throttled};
use super::{Finding, Kind, corroboration, named, part, weight};

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

pub fn cpu(evidence: &Evidence, queue: &RunQueue) -> Finding {
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

pub fn throttle(evidence: &Evidence, group: &Throttled) -> Finding {
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
