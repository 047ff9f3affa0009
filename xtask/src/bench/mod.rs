//! `cargo xtask bench NAME`: kld beside its peers, in one run.
//!
//! Each comparison is a [`Row`]: the samples of both sides, taken in turns so that both meet the same weather, the
//! ratio of their medians, and the goal.

mod clone;
mod clone_zfs;
pub mod ebpf;
mod measure;
mod start;

use kld_core::ui::Ui;
use kld_core::{Error, Result};
use serde::Serialize;

/// A bench: its name, what it measures, and how.
type Bench = (&'static str, &'static str, fn(&Ui) -> Result<Vec<Row>>);

/// Every bench.
const BENCHES: &[Bench] = &[
    ("clone", "kvm-clone beside virt-clone and beside qemu-img and virsh in a shell", clone::run),
    (
        "clone-zfs",
        "kvm-clone on ZFS beside zfs and virsh in a shell, virt-clone and incus, in a lab",
        clone_zfs::run,
    ),
    ("ebpf/open", "opensnoop and syscount beside libbpf-tools, bpftrace and bcc", |ui| {
        ebpf::compare(ebpf::OPENS, ui)
    }),
    ("ebpf/exec", "execsnoop and exitsnoop beside them", |ui| ebpf::compare(ebpf::EXECS, ui)),
    ("ebpf/tcp", "tcpconnect, tcplife and tcpstates beside them", |ui| ebpf::compare(ebpf::CONNECTS, ui)),
    ("ebpf/sched", "runqlat and cpudist beside them", |ui| ebpf::compare(ebpf::SWITCHES, ui)),
    ("ebpf/block", "biosnoop, biolatency and bitesize beside them", |ui| ebpf::compare(ebpf::READS, ui)),
    ("ebpf/peers", "which of the probes start on this kernel, kld's and the peers'", ebpf::who_starts),
    ("start", "how fast a tool starts, beside a program that has only one", start::run),
];

/// One comparison.
#[derive(Debug, Serialize)]
pub struct Row {
    bench: &'static str,
    case: String,
    unit: &'static str,
    ours_samples: Vec<f64>,
    peer_samples: Vec<f64>,
    peer_name: String,
    /// median(ours) / median(peer); the median itself where there is no peer.
    ratio: f64,
    goal: &'static str,
    met: bool,
}

impl Row {
    /// Compares samples with a peer's, or with a fixed goal where there is none. `goal` is `<=` or `>=` and a number,
    /// or `-` where the comparison is only told.
    pub fn new(
        (bench, case): (&'static str, impl Into<String>),
        unit: &'static str,
        ours: Vec<f64>,
        (peer_name, peer): (impl Into<String>, Vec<f64>),
        goal: &'static str,
    ) -> Row {
        let ratio = if peer.is_empty() { median(&ours) } else { median(&ours) / median(&peer) };
        let (met, case, peer_name) = (is_met(ratio, goal), case.into(), peer_name.into());
        Row { bench, case, unit, ours_samples: ours, peer_samples: peer, peer_name, ratio, goal, met }
    }
}

/// Measure kld beside its peers
#[derive(clap::Args)]
pub struct Args {
    /// What to measure: clone, clone-zfs, ebpf or a part of it such as ebpf/open, start; everything unless given
    names: Vec<String>,
    /// One JSON object a comparison and line
    #[arg(long)]
    json: bool,
}

/// Runs the named benches, or all.
pub fn run(Args { names, json }: &Args) -> Result<()> {
    let ui = &Ui { json: *json, quiet: false };
    for name in names {
        if !BENCHES.iter().any(|(known, ..)| is_of(known, name)) {
            let known: Vec<&str> = BENCHES.iter().map(|(name, ..)| *name).collect();
            return Err(Error::usage(format!("there is no bench '{name}'"))
                .with_hint(format!("there are {}", known.join(", "))));
        }
    }
    for (name, about, run) in
        BENCHES.iter().filter(|(bench, ..)| names.is_empty() || names.iter().any(|name| is_of(bench, name)))
    {
        if !ui.json {
            ui.line(format!("{name}: {about}"))?;
        }
        show(ui, &run(ui)?)?;
    }
    Ok(())
}

/// Whether a bench is the one of this name or a part of it.
fn is_of(bench: &str, name: &str) -> bool {
    bench.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn show(ui: &Ui, rows: &[Row]) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    if ui.json {
        return rows.iter().try_for_each(|row| {
            ui.line(serde_json::to_string(row).map_err(|cause| Error::failed("cannot write JSON", cause))?)
        });
    }
    let cells = |row: &Row| {
        let peer = if row.peer_samples.is_empty() {
            "-".into()
        } else {
            format!("{:.2}", median(&row.peer_samples))
        };
        [
            row.case.clone(),
            format!("{:.2}", median(&row.ours_samples)),
            peer,
            row.unit.to_string(),
            format!("{:.2}", row.ratio),
            row.goal.to_string(),
            match (row.goal, row.met) {
                ("-", _) => "",
                (_, true) => "met",
                (_, false) => "MISSED",
            }
            .to_string(),
            row.peer_name.clone(),
        ]
    };
    ui.table(
        ["CASE", "OURS", "PEER", "UNIT", "RATIO", "GOAL", "", "PEER"],
        &rows.iter().map(cells).collect::<Vec<_>>(),
    )?;
    for row in rows {
        for (who, samples) in [("ours", &row.ours_samples), ("peer", &row.peer_samples)] {
            if !samples.is_empty() {
                let samples: Vec<String> = samples.iter().map(|one| format!("{one:.2}")).collect();
                ui.line(format!("  {} {who}: {}", row.case, samples.join(" ")))?;
            }
        }
    }
    Ok(())
}

/// The middle of the samples; of an even number, the mean of the two in the middle.
fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => f64::NAN,
        (count, middle) if count % 2 == 1 => sorted[middle],
        (_, middle) => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

fn is_met(ratio: f64, goal: &str) -> bool {
    let number = |text: &str| text.parse::<f64>().unwrap_or(f64::NAN);
    match (goal.strip_prefix("<="), goal.strip_prefix(">=")) {
        (Some(most), _) => ratio <= number(most),
        (_, Some(least)) => ratio >= number(least),
        _ => goal == "-",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_that_of_the_medians() {
        let row =
            Row::new(("b", "c"), "ms", vec![1.0, 9.0, 2.0], ("peer", vec![4.0, 4.0, 100.0, 4.0]), "<=0.6");
        assert_eq!(row.ratio, 0.5);
        assert!(row.met);
    }

    #[test]
    fn without_a_peer_the_median_itself_is_held_to_the_goal() {
        let row = Row::new(("b", "c"), "MB", vec![30.0], ("", vec![]), "<=25");
        assert_eq!(row.ratio, 30.0);
        assert!(!row.met);
        assert!(is_met(1.0, ">=1") && !is_met(0.9, ">=1"));
    }
}
