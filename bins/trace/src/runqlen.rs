//! `runqlen`: how many tasks wait for the processors.

use std::collections::BTreeMap;

use clap::{ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_ebpf::events::histogram::{Histogram, slot};
use kld_ebpf::events::sched::Queue;
use kld_ebpf::events::table::Tally;
use kld_ebpf::probe::RunqLen;
use serde_json::{Map, Value};

use crate::args::{flag, frequency, frequency_of, wanted};
use crate::histogram::{TASKS, distribution, numbers, stars, table};
use crate::impossible::OF_QUEUES;
use crate::prometheus::{Kind, Metric, Sample};
use crate::stream::set_flags;
use crate::tables::{self, Rows, Tables, of_all, timestamp};
use crate::view::View;

pub const TOOL: Tool = Tool { name: "runqlen", about: kld_catalog::about("runqlen"), command, run };

const FLAGS: &[&str] = &["timestamp", "cpus", "runqocc", "log2"];

fn command() -> Command {
    OF_QUEUES
        .of(of_all(Command::new("runqlen")))
        .args([
            timestamp(),
            flag("cpus", 'C', "Each processor apart"),
            flag("runqocc", 'O', "How much of the time anybody waits, not how many").conflicts_with("log2"),
            clap::Arg::new("log2")
                .long("log2")
                .action(clap::ArgAction::SetTrue)
                .help("In powers of two, for long queues"),
            frequency("99"),
        ])
        .after_help(
            "Examples:\n  runqlen 1 10\n  runqlen -C -d 30\n  runqlen -O 1\n  runqlen --json 5\n\n\
             Who waits is counted, not who runs. All tasks of a processor are, whatever their control group or their \
             kind.",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    OF_QUEUES.refuse(matches)?;
    let mut wanted = wanted(matches)?;
    wanted.filter.frequency = frequency_of(matches)?;
    tables::run::<RunqLen>(context, matches, &wanted, set_flags(matches, FLAGS))
}

/// How often each length was found, by processor; of all together the processor is `None`.
type Lengths = BTreeMap<Option<u32>, BTreeMap<u32, u64>>;

fn lengths(rows: &Rows<RunqLen>, view: &View) -> Lengths {
    let mut lengths = Lengths::new();
    for (Queue { cpu, length }, total) in rows {
        let cpu = view.has("cpus").then_some(*cpu);
        *lengths.entry(cpu).or_default().entry(*length).or_default() += total.count;
    }
    lengths
}

/// The part of what was looked at in which anybody waited, from 0 to 1.
fn occupancy(lengths: &BTreeMap<u32, u64>) -> f64 {
    let all: u64 = lengths.values().sum();
    let none = lengths.get(&0).copied().unwrap_or(0);
    (all - none) as f64 / all.max(1) as f64
}

fn histogram(lengths: &BTreeMap<u32, u64>) -> Histogram {
    let mut histogram = *Histogram::ZERO;
    for (length, count) in lengths {
        let length = u64::from(*length);
        histogram.slots[slot(length)] += count;
        histogram.sum += length * count;
        histogram.max = histogram.max.max(length);
    }
    histogram
}

/// A row for each length up to the greatest, as bcc prints it.
fn linear(lengths: &BTreeMap<u32, u64>) -> String {
    let most = lengths.values().copied().max().unwrap_or(0);
    let last = lengths.keys().copied().max().unwrap_or(0);
    let mut text = format!("     {:<13} : count     distribution\n", TASKS.name);
    for length in 0..=last {
        let count = lengths.get(&length).copied().unwrap_or(0);
        text += &format!("        {length:<10} : {count:<8} {}\n", stars(count, most));
    }
    text
}

impl Tables for RunqLen {
    fn text(rows: &Rows<Self>, view: &View) -> String {
        let mut text = String::new();
        for (cpu, lengths) in lengths(rows, view) {
            let percent = occupancy(&lengths) * 100.0;
            text += &match (cpu, view.has("runqocc")) {
                (Some(cpu), true) => format!("runqocc, CPU {cpu:<3} {percent:>6.2}%\n"),
                (None, true) => format!("runqocc: {percent:.2}%\n"),
                (Some(cpu), false) => format!("\ncpu = {cpu}\n"),
                (None, false) => String::new(),
            };
            if !view.has("runqocc") {
                let log2 = view.has("log2");
                text += &if log2 { table(&histogram(&lengths), TASKS.name) } else { linear(&lengths) };
            }
        }
        text
    }

    fn json(rows: &Rows<Self>, view: &View) -> Map<String, Value> {
        let one = |(cpu, lengths): (Option<u32>, BTreeMap<u32, u64>)| {
            let mut object = Map::from_iter(cpu.map(|cpu| ("cpu".to_string(), cpu.into())));
            object.insert("occupancy".into(), occupancy(&lengths).into());
            object.extend(numbers(&histogram(&lengths), TASKS));
            Value::Object(object)
        };
        let all: Vec<Value> = lengths(rows, view).into_iter().map(one).collect();
        Map::from_iter([("unit".to_string(), TASKS.short.into()), ("distributions".to_string(), all.into())])
    }

    fn metrics(rows: &Rows<Self>, view: &View) -> Vec<Metric> {
        let sample = |(cpu, lengths): (Option<u32>, BTreeMap<u32, u64>)| {
            let labels = cpu.map(|cpu| ("cpu", cpu.into())).into_iter().collect();
            Sample::new(labels, distribution(&histogram(&lengths), TASKS))
        };
        vec![Metric {
            name: "runqueue_length_tasks".to_string(),
            help: "How many tasks waited for a processor when it was looked at.",
            kind: Kind::Histogram,
            samples: lengths(rows, view).into_iter().map(sample).collect(),
        }]
    }
}

#[cfg(test)]
mod tests {
    use kld_ebpf::events::table::Total;

    use super::*;

    fn rows() -> Rows<RunqLen> {
        let row = |(cpu, length, count)| (Queue { cpu, length }, Total { count, amount: 0, time: 0 });
        Rows::<RunqLen>::from_iter([(0, 0, 30), (1, 0, 10), (1, 1, 5), (1, 3, 5)].map(row))
    }

    fn text(flags: &[&'static str]) -> String {
        RunqLen::text(&rows(), &View::new(flags.to_vec(), false))
    }

    #[test]
    fn lengths_are_printed_as_bcc_prints_them() {
        insta::assert_snapshot!(text(&[]), @r"
         runqlen       : count     distribution
            0          : 40       |****************************************|
            1          : 5        |*****                                   |
            2          : 0        |                                        |
            3          : 5        |*****                                   |
        ");
        assert_eq!(text(&["runqocc"]), "runqocc: 20.00%\n");
        assert_eq!(text(&["runqocc", "cpus"]), "runqocc, CPU 0     0.00%\nrunqocc, CPU 1    50.00%\n");
        assert!(text(&["cpus"]).starts_with("\ncpu = 0\n     runqlen "));
        assert!(text(&["log2"]).contains("         2 -> 3          : 5        |****    "));
    }

    #[test]
    fn programs_get_the_occupancy_and_the_mean() {
        let object = RunqLen::json(&rows(), &View::new(vec!["cpus"], false));
        let second = &object["distributions"][1];
        assert_eq!(
            (&second["cpu"], &second["occupancy"], &second["mean"]),
            (&1.into(), &0.5.into(), &1.0.into())
        );
        assert_eq!(second["count"], 20);
    }
}
