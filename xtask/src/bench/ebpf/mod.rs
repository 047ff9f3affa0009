//! kld's probes beside those of libbpf-tools, bpftrace and bcc: the same tools upon the same loads.
//!
//! Four things are measured of each: the time until the first event is on a terminal, the most memory, what each
//! operation of a load takes longer while the tool looks on, and the events that it neither shows nor says it lost.
#![allow(clippy::disallowed_types, reason = "the loads are timed and watched")]

pub mod load;
mod peers;
mod side;
mod watched;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use kld_core::error::Trying;
use kld_core::ui::Ui;
use kld_core::{Error, Result};
use kld_test_support::tool;
use load::Load;
use side::{PEERS, Side, Sides};
use tempfile::TempDir;
use watched::{Watched, first_words};

use super::{Row, median};
use crate::build;

pub use peers::run as who_starts;

const BENCH: &str = "ebpf";
const ROUNDS: usize = 5;

/// One tool and what it is measured upon.
pub struct Case {
    tool: &'static str,
    /// For all but bpftrace, whose tools have no such flags.
    args: &'static [&'static str],
    load: Load,
    sort: Sort,
}

enum Sort {
    /// A line an event: so many for each operation, where that is known, and the goal beside libbpf-tools' where that is
    /// another one than beside the best peer's.
    Events { each: Option<u64>, libbpf: Option<&'static str> },
    /// A histogram that is kept in the kernel.
    Histogram,
}

const fn events(tool: &'static str, load: Load, each: Option<u64>) -> Case {
    Case { tool, args: &[], load, sort: Sort::Events { each, libbpf: None } }
}

const fn histogram(tool: &'static str, load: Load) -> Case {
    Case { tool, args: &[], load, sort: Sort::Histogram }
}

pub const OPENS: &[Case] = &[
    // The same fields on all sides: path, result, process, name, flags.
    Case {
        tool: "opensnoop",
        args: &["-e"],
        load: Load::Open,
        sort: Sort::Events { each: Some(1), libbpf: Some("<=0.1") },
    },
    histogram("syscount", Load::Open),
];
pub const EXECS: &[Case] =
    &[events("execsnoop", Load::Exec, Some(1)), events("exitsnoop", Load::Exec, Some(1))];
pub const CONNECTS: &[Case] = &[
    events("tcpconnect", Load::Connect, Some(1)),
    events("tcplife", Load::Connect, None),
    events("tcpstates", Load::Connect, None),
];
pub const SWITCHES: &[Case] = &[histogram("runqlat", Load::Switch), histogram("cpudist", Load::Switch)];
pub const READS: &[Case] = &[
    events("biosnoop", Load::Read, Some(1)),
    histogram("biolatency", Load::Read),
    histogram("bitesize", Load::Read),
];

/// Measures some tools beside their peers.
pub fn compare(cases: &[Case], ui: &Ui) -> Result<Vec<Row>> {
    let bench = Bench::prepare(ui)?;
    let mut rows = Vec::new();
    for case in cases {
        rows.extend(bench.measure(case, ui)?);
    }
    Ok(rows)
}

/// The sides, and what the loads need.
struct Bench {
    sides: Sides,
    tools: PathBuf,
    folder: TempDir,
    port: u16,
}

/// What was measured of one side.
#[derive(Default)]
struct Samples {
    first: Vec<f64>,
    added: Vec<f64>,
    memory: Vec<f64>,
    lines: Vec<f64>,
    lost: Vec<f64>,
}

impl Bench {
    fn prepare(ui: &Ui) -> Result<Bench> {
        let tools = build::release()?;
        // On a disk, since reads of it are measured.
        let beside = tools.parent().map(|target| target.join("tmp")).unwrap_or_default();
        std::fs::create_dir_all(&beside).trying(|| format!("cannot make {}", beside.display()))?;
        let folder = tempfile::tempdir_in(&beside).trying(|| "cannot make a folder".to_string())?;
        // Below those that a connection may be given for its own end.
        let port = (20_000..30_000).find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
        let port = port.ok_or_else(|| Error::message("no port is free"))?;
        Ok(Bench { sides: Sides::prepare(&tools, ui)?, tools, folder, port })
    }

    fn load(&self, load: Load) -> Command {
        let name = clap::ValueEnum::to_possible_value(&load);
        let mut command = tool::command(&self.tools.join("xtask"));
        command.arg("bench-load").arg(name.as_ref().map_or("", |value| value.get_name()));
        command.arg(load.count().to_string()).arg(self.folder.path()).arg(self.port.to_string());
        command
    }

    /// What one operation takes, in microseconds.
    fn time(&self, load: Load) -> Result<f64> {
        (0..Load::PARTS).try_fold(f64::INFINITY, |least, _| Ok(least.min(self.time_once(load)?)))
    }

    fn time_once(&self, load: Load) -> Result<f64> {
        let said = self.load(load).output().trying(|| "cannot start the load".to_string())?;
        let printed = String::from_utf8_lossy(&said.stdout);
        match printed.trim().parse::<f64>() {
            Ok(nanoseconds) => Ok(nanoseconds / 1e3),
            Err(_) => Err(Error::failed("the load failed", String::from_utf8_lossy(&said.stderr).trim())),
        }
    }

    fn measure(&self, case: &Case, ui: &Ui) -> Result<Vec<Row>> {
        let mut all: BTreeMap<Side, Samples> = BTreeMap::new();
        for side in [Side::Kld].into_iter().chain(PEERS) {
            match self.starts(case, side) {
                Ok(true) => drop(all.insert(side, Samples::default())),
                Ok(false) => {}
                Err(error) if side == Side::Kld => return Err(error),
                Err(error) => ui.note(format!("{}: {} does not start: {error}", case.tool, side.package())),
            }
        }
        for _ in 0..ROUNDS {
            for (side, samples) in &mut all {
                self.round(case, *side, samples)?;
            }
        }
        if matches!(case.sort, Sort::Events { .. }) {
            self.first_events(case, &mut all, ui)?;
        }
        if !ui.json {
            self.tell(case, &all, ui)?;
        }
        Ok(rows(case, &all))
    }

    /// Whether the side has the tool, and it starts.
    fn starts(&self, case: &Case, side: Side) -> Result<bool> {
        let Some(command) = self.sides.command(side, case.tool, case.args) else { return Ok(false) };
        let mut tool = Watched::start(command)?;
        tool.settle(settling(side))?;
        tool.stop().map(|_| true)
    }

    /// The load alone, and the load while the tool looks on.
    fn round(&self, case: &Case, side: Side, samples: &mut Samples) -> Result<()> {
        let alone = self.time(case.load)?;
        let Some(command) = self.sides.command(side, case.tool, case.args) else { return Ok(()) };
        let mut tool = Watched::start(command)?;
        tool.settle(settling(side))?;
        let watched = self.time(case.load)?;
        tool.settle(Duration::from_millis(500))?;
        let memory = tool.memory();
        let said = tool.stop()?;
        let mark = case.load.mark(self.port);
        samples.added.push(watched - alone);
        samples.memory.push(memory as f64 / 1e6);
        samples.lines.push(said.stdout.lines().filter(|line| line.contains(&mark)).count() as f64);
        samples.lost.push(lost(&said.stderr) as f64);
        Ok(())
    }

    fn first_events(&self, case: &Case, all: &mut BTreeMap<Side, Samples>, ui: &Ui) -> Result<()> {
        let mut paced = self.load(case.load);
        paced.args(["--pace", "2"]);
        let paced = Watched::start(paced)?;
        for _ in 0..ROUNDS {
            for (side, samples) in all.iter_mut() {
                let Some(command) = self.sides.command(*side, case.tool, case.args) else { continue };
                match first_words(command, &case.load.mark(self.port)) {
                    Ok(time) => samples.first.push(time),
                    Err(error) => ui.note(format!("{}: {}: {error}", case.tool, side.package())),
                }
            }
        }
        drop(paced);
        Ok(())
    }

    fn tell(&self, case: &Case, all: &BTreeMap<Side, Samples>, ui: &Ui) -> Result<()> {
        for (side, samples) in all {
            let of = case.load.made();
            ui.line(format!(
                "  {} of {} {}: {:+.3} us {}, {:.1} MB, first event {:.0} ms, {:.0} lines for {of}, {:.0} said to be lost",
                case.tool,
                side.package(),
                if *side == Side::Kld { env!("CARGO_PKG_VERSION").to_string() } else { self.sides.version(*side) },
                median(&samples.added),
                case.load.one(),
                median(&samples.memory),
                median(&samples.first),
                median(&samples.lines),
                median(&samples.lost),
            ))?;
        }
        Ok(())
    }
}

/// How long a side needs at most until it looks on.
fn settling(side: Side) -> Duration {
    Duration::from_millis(match side {
        Side::Kld | Side::Libbpf => 1000,
        Side::Bpftrace => 2500,
        Side::Bcc => 6000,
    })
}

/// The N of `N of M events were lost`, as kld's tools say it.
fn lost(stderr: &str) -> u64 {
    let before = stderr.split(" events were lost").next().filter(|before| before.len() < stderr.len());
    let words = before.and_then(|before| before.lines().last()).unwrap_or_default();
    words.split_whitespace().rev().nth(2).and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// The comparisons of one tool. The goal is held to the best of the peers.
fn rows(case: &Case, all: &BTreeMap<Side, Samples>) -> Vec<Row> {
    let Some(ours) = all.get(&Side::Kld) else { return Vec::new() };
    let tool = case.tool;
    let peers = || all.iter().filter(|(side, _)| **side != Side::Kld);
    let alone = |case: &str, unit, samples: &[f64], goal| {
        Row::new((BENCH, format!("{tool}: {case}")), unit, samples.to_vec(), ("", Vec::new()), goal)
    };
    let mut rows = Vec::new();
    let cost = peers().map(|(_, samples)| median(&samples.added)).fold(f64::INFINITY, f64::min);
    for (side, samples) in peers() {
        let goal = match case.sort {
            Sort::Events { libbpf: Some(goal), .. } if *side == Side::Libbpf => goal,
            _ if median(&samples.added) > cost => "-",
            Sort::Events { .. } => "<=0.5",
            Sort::Histogram => "<=1.0",
        };
        let what = format!("{tool}: added to {}", case.load.one());
        let peer = (side.package(), samples.added.clone());
        rows.push(Row::new((BENCH, what), "us", ours.added.clone(), peer, goal));
    }
    if let Sort::Events { each, .. } = case.sort {
        rows.push(alone("first event", "ms", &ours.first, "<=60"));
        for (side, samples) in peers().filter(|(_, samples)| !samples.first.is_empty()) {
            let peer = (side.package(), samples.first.clone());
            rows.push(Row::new(
                (BENCH, format!("{tool}: first event")),
                "ms",
                ours.first.clone(),
                peer,
                "<=1",
            ));
        }
        if let Some(each) = each {
            let made = (each * case.load.made()) as f64;
            let unsaid: Vec<f64> =
                ours.lines.iter().zip(&ours.lost).map(|(lines, lost)| made - lines - lost).collect();
            rows.push(alone("neither shown nor said to be lost", "events", &unsaid, "<=0"));
        }
    }
    rows.push(alone("peak memory", "MB", &ours.memory, "<=15"));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_read_as_the_tools_say_them() {
        assert_eq!(lost("note: 12 of 400 events were lost, since they came faster (CPU 0: 12)\n"), 12);
        assert_eq!(lost("note: 400 events seen, 0 lost\n"), 0);
        assert_eq!(lost(""), 0);
    }

    #[test]
    fn the_goal_is_held_to_the_best_peer() {
        let side = |added: f64| Samples { added: vec![added], first: vec![50.0], ..Samples::default() };
        let all = BTreeMap::from([(Side::Kld, side(1.0)), (Side::Libbpf, side(4.0)), (Side::Bcc, side(9.0))]);
        let rows = rows(&events("tcplife", Load::Connect, None), &all);
        let goals: Vec<_> = rows.iter().map(|row| (row.peer_name.as_str(), row.goal)).take(2).collect();
        assert_eq!(goals, [("libbpf-tools", "<=0.5"), ("bpfcc-tools", "-")]);
    }
}
