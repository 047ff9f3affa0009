//! TCP: segments that are sent again, and connections that wait for their answer.

use std::fmt::Write;

use super::super::evidence::{Connects, Evidence, Process, Retransmits, SlowConnect, TroubledFlow};
use super::{Finding, Kind, part, weight};

/// Half the weight of the part of the segments that are sent again.
const LOSSY: f64 = 0.01;
/// Half the weight of how long a connection waits for its answer in the mean, in milliseconds: around the world.
const FAR_MS: f64 = 200.0;

pub fn loss(evidence: &Evidence, segments: &Retransmits) -> Finding {
    // What was sent again is not among what was sent.
    let sent = segments.sent.map(|sent| sent + segments.segments);
    let share = sent.map_or(1.0, |sent| segments.segments as f64 / sent.max(1) as f64);
    let flow = |flow: &TroubledFlow| format!("{} to {} {}", flow.local, flow.remote, flow.segments);
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

pub fn connect(evidence: &Evidence, connects: &Connects) -> Finding {
    let slow = |slow: &SlowConnect| {
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
