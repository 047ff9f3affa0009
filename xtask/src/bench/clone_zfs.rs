//! Clones of a machine with a ZFS volume of 10 GiB, in a lab. A script in it takes the time of all sides, so that
//! getting a command there is nobody's cost.

use std::collections::BTreeMap;

use kld_build::appliance::{Network, Pipes};
use kld_build::{Agent, Cache};
use kld_core::ui::Ui;
use kld_core::{Error, Result};
use kld_lab::{Parts, tools};

use super::clone::add_phases;
use super::{Row, median};
use crate::build;

const SCRIPT: &str = include_str!("clone_zfs.sh");
const TIMES: &str = "10";
/// A guest boots in half a minute where its processor is translated.
const BOOTS: &str = "3";

/// A comparison: the case, its unit, the script's words for our samples and for the peer's, the peer, the goal.
type Case = (&'static str, &'static str, [&'static str; 2], [&'static str; 2], &'static str, &'static str);

const SHELL: &str = "zfs snapshot && zfs clone && virsh dumpxml | sed | virsh define";

const CASES: &[Case] = &[
    ("one clone", "ms", ["one", "kld"], ["one", "shell"], SHELL, "<=0.6"),
    // The shell's clone has no seed, which is a file to write here, and for its guest a drive to find.
    ("one clone without a seed", "ms", ["one", "bare"], ["one", "shell"], SHELL, "<=0.6"),
    (
        "one clone, of a disk that the peer is given",
        "ms",
        ["one", "kld"],
        ["one", "virt-clone"],
        "virt-clone --preserve-data",
        "<=0.15",
    ),
    (
        "one clone, of an empty machine by the peer",
        "ms",
        ["one", "kld"],
        ["one", "incus"],
        "incus copy",
        "<=1",
    ),
    ("ten clones in one call", "ms", ["ten", "kld"], ["one", "kld"], "one clone", "<=4"),
    (
        "to the guest's first words",
        "ms",
        ["boot", "kld"],
        ["boot", "shell"],
        "the shell and virsh start",
        "<=1",
    ),
    (
        "to the guest's first words, without a seed",
        "ms",
        ["boot", "bare"],
        ["boot", "shell"],
        "the shell and virsh start",
        "<=1",
    ),
    ("pool taken by each of ten", "KiB", ["space", "kld"], ["", ""], "", "<=1024"),
    ("pool not freed when ten are gone", "KiB", ["left", "kld"], ["left", "zfs"], "zfs alone", "<=1"),
];

/// The tools' phases, by what they wait for. They overlap.
const PARTS: &[(&str, &[&str])] = &[
    ("ZFS", &["snapshot", "state: create", "volumes"]),
    ("libvirt", &["look up", "define"]),
    ("seed and state", &["state: mount", "files", "records"]),
    ("journal", &["journal"]),
    ("whole", &["plan", "stage files", "commit", "all"]),
];

pub fn run(ui: &Ui) -> Result<Vec<Row>> {
    let built = build::release()?;
    let parts = Parts::ensure(&Cache::of_user(), ui)?;
    let network = Network::new()?;
    let lab = parts.start("bench", 1, &[network.plug()])?;
    tools::bring(&lab.agent(), &built)?;
    let said = drive(&lab.agent())?;
    for note in said.lines().filter_map(|line| line.strip_prefix("note ")) {
        ui.note(note);
    }
    let samples = read(&said);
    if !ui.json {
        show_parts(ui, &said, &samples)?;
    }
    Ok(CASES.iter().filter_map(|case| row(case, &samples)).collect())
}

fn drive(agent: &Agent) -> Result<String> {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let pipes = Pipes { stdin: Box::new(SCRIPT.as_bytes()), stdout: &mut stdout, stderr: &mut stderr };
    // What runs in it may read, and must not read the script.
    let command =
        ["bash", "-c", "cat >/tmp/bench && exec bash /tmp/bench \"$@\" </dev/null", "bench", TIMES, BOOTS];
    match agent.stream(&command, pipes)? {
        0 => Ok(String::from_utf8_lossy(&stdout).into_owned()),
        _ => {
            let said = String::from_utf8_lossy(&stderr);
            let last: Vec<&str> = said.lines().rev().take(3).collect();
            Err(Error::failed(
                "the bench failed in the lab",
                last.into_iter().rev().collect::<Vec<_>>().join("; "),
            ))
        }
    }
}

type Samples = BTreeMap<(String, String), Vec<f64>>;

/// Reads the lines `sample CASE SIDE NUMBER`.
fn read(said: &str) -> Samples {
    let mut samples = Samples::new();
    for line in said.lines().filter_map(|line| line.strip_prefix("sample ")) {
        let words: Vec<&str> = line.split(' ').collect();
        if let [case, side, number] = words[..]
            && let Ok(number) = number.parse()
        {
            samples.entry((case.to_string(), side.to_string())).or_default().push(number);
        }
    }
    samples
}

/// A comparison, where both sides were measured.
fn row(&(case, unit, ours, peer, peer_name, goal): &Case, samples: &Samples) -> Option<Row> {
    let of = |[case, side]: [&str; 2]| samples.get(&(case.to_string(), side.to_string())).cloned();
    let ours = of(ours)?;
    let peer = if peer_name.is_empty() { Vec::new() } else { of(peer)? };
    Some(Row::new(("clone-zfs", case), unit, ours, (peer_name, peer), goal))
}

fn show_parts(ui: &Ui, said: &str, samples: &Samples) -> Result<()> {
    let mut phases = Vec::new();
    add_phases(&mut phases, said);
    ui.line("where the time of one clone goes (medians; what is on one line or another happens at the same time):")?;
    for (part, names) in PARTS {
        let of_it = names.iter().filter_map(|name| phases.iter().find(|(known, _)| known == name));
        let figures: Vec<String> =
            of_it.map(|(name, samples)| format!("{name} {:.1} ms", median(samples))).collect();
        ui.line(format!("  {part:<16} {}", figures.join(", ")))?;
    }
    match samples.get(&("node".to_string(), "kld".to_string())) {
        Some(node) => ui.line(format!("  {:<16} {:.1} ms after the clone", "node", median(node))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_by_case_and_side() {
        let samples =
            read("note a\nsample one kld 1.500\ntiming: all 3 ms\nsample one kld 2\nsample one x\n");
        assert_eq!(samples[&("one".to_string(), "kld".to_string())], [1.5, 2.0]);
        assert_eq!(samples.len(), 1);
    }

    #[test]
    fn a_comparison_needs_both_sides() {
        let samples = read("sample one kld 1\nsample one shell 2\nsample space kld 30\n");
        let rows: Vec<String> =
            CASES.iter().filter_map(|case| row(case, &samples)).map(|row| row.case).collect();
        assert_eq!(rows, ["one clone", "pool taken by each of ten"]);
    }
}
