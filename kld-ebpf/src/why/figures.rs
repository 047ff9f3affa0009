//! What was seen in a few words, also where nothing is wrong.

use super::evidence::{Evidence, Share};

/// A line for each thing that was looked at: its name, and what was seen of it.
pub fn figures(evidence: &Evidence) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    if let Some(queue) = &evidence.run_queue {
        lines.push((
            "run queue",
            format!(
                "{} waits, {:.3} s in all, 99 of 100 not above {} us, the longest {} us",
                queue.waits, queue.waited_s, queue.p99_us, queue.max_us
            ),
        ));
    }
    if let Some(disks) = &evidence.disks {
        let disk = |disk: &super::Disk| {
            format!("{} {} requests, {:.2} ms", disk.name, disk.requests, disk.mean_ms())
        };
        lines.push(("disks", listed(disks.iter().take(4).map(disk), "no requests")));
    }
    if let Some(reclaim) = &evidence.reclaim {
        lines.push((
            "memory",
            format!("{} times freed in a hurry, {:.3} s in all", reclaim.times, reclaim.seconds),
        ));
    }
    if let Some(kills) = &evidence.kills {
        lines.push(("kills", format!("{} for want of memory", kills.len())));
    }
    if let Some(segments) = &evidence.retransmits {
        let of = segments.sent.map_or(String::new(), |sent| format!(", {sent} sent"));
        lines.push(("network", format!("{} segments sent again{of}", segments.segments)));
    }
    if let Some(connects) = &evidence.connects {
        let mean = connects.mean_ms();
        lines
            .push(("connections", format!("{} answered, after {mean:.1} ms in the mean", connects.answered)));
    }
    if let Some(drops) = &evidence.drops {
        let reasons = drops.reasons.iter().map(|(reason, count)| format!("{reason} {count}"));
        let reasons = listed(reasons, "");
        let reasons = if reasons.is_empty() { reasons } else { format!(" ({reasons})") };
        lines.push(("drops", format!("{} packets of TCP{reasons}", drops.packets)));
    }
    if let Some(groups) = &evidence.throttled {
        let group = |group: &super::Throttled| format!("{} {:.2} s", group.group, group.seconds);
        lines.push(("limits", listed(groups.iter().take(4).map(group), "no control group was held")));
    }
    if let Some(arc) = &evidence.arc {
        let (size, most) = (arc.size >> 20, arc.most >> 20);
        lines.push(("ARC", format!("{} hits, {} misses, {size} of {most} MiB", arc.hits, arc.misses)));
    }
    if let Some(pressure) = &evidence.pressure {
        let some = |share: Share| format!("{:.1} %", share.some * 100.0);
        let of = [("cpu", pressure.cpu), ("io", pressure.io), ("memory", pressure.memory)];
        lines.push((
            "pressure",
            listed(of.iter().map(|(name, share)| format!("{name} {}", some(*share))), ""),
        ));
    }
    lines
}

fn listed(parts: impl Iterator<Item = String>, none: &str) -> String {
    let parts: Vec<String> = parts.collect();
    if parts.is_empty() { none.to_string() } else { parts.join("; ") }
}
