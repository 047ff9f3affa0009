//! What the tools of interrupts have in common.

use clap::{ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::Context;
use kld_core::ui::printable;
use kld_ebpf::Summary;
use kld_ebpf::events::histogram::Histogram;
use kld_ebpf::events::irq::Handler;
use kld_ebpf::events::table::Total;
use kld_ebpf::probe::{HardIrqDist, HardIrqs, SoftIrqDist, SoftIrqs, hard_name, soft_name};
use serde_json::{Map, Value, json};

use crate::args::{flag, wanted};
use crate::histogram::{Distribution, Labels};
use crate::prometheus::{Counter, Metric, counters};
use crate::stream::set_flags;
use crate::tables::{self, Rows, Tables, common, greatest, quantiles, timestamp};
use crate::view::View;

const FLAGS: &[&str] = &["timestamp", "nanoseconds", "count-only", "dist", "quantiles"];

/// The command, with bcc's flags; a distribution is `-D`, since `-d` is everywhere how long a tool runs.
pub fn command(name: &'static str, help: &'static str) -> Command {
    common(Command::new(name))
        .args([
            timestamp(),
            flag("nanoseconds", 'N', "Times in nanoseconds"),
            flag("count-only", 'C', "How often, not how long").conflicts_with("dist"),
            flag("dist", 'D', "A distribution of the times for each"),
            quantiles().requires("dist"),
        ])
        .after_help(help)
}

/// Runs one probe or the other.
pub fn run<T, D>(context: &Context, matches: &ArgMatches) -> Result<()>
where
    T: Summary<Value = Total> + Tables,
    D: Summary<Value = Histogram> + Tables,
{
    let flags = set_flags(matches, FLAGS);
    let mut wanted = wanted(matches)?;
    wanted.filter.switches |= tables::switches(&flags, &[]);
    match flags.contains(&"dist") {
        true => tables::run::<D>(context, matches, &wanted, flags),
        false => tables::run::<T>(context, matches, &wanted, flags),
    }
}

/// What a table of handlers is headed with, its names, and its metrics.
struct About {
    heading: &'static str,
    name: fn(&Handler) -> &str,
    label: &'static str,
    counters: [Counter; 2],
}

const HARD: About = About {
    heading: "HARDIRQ",
    name: hard_name,
    label: "hardirq",
    counters: [
        ("hardirqs_total", "Interrupts by devices.", |total| total.count as f64),
        ("hardirqs_seconds_total", "Time in interrupts by devices.", |total| total.time as f64 / 1e9),
    ],
};

const SOFT: About = About {
    heading: "SOFTIRQ",
    name: soft_name_of,
    label: "softirq",
    counters: [
        ("softirqs_total", "Runs of the kernel's deferred work.", |total| total.count as f64),
        ("softirqs_seconds_total", "Time in the kernel's deferred work.", |total| total.time as f64 / 1e9),
    ],
};

fn soft_name_of(handler: &Handler) -> &str {
    soft_name(handler)
}

impl About {
    fn text(&self, rows: &Rows<HardIrqs>, view: &View) -> String {
        let counts = view.has("count-only");
        let (title, divisor) = match (counts, view.has("nanoseconds")) {
            (true, _) => ("TOTAL_count", 1),
            (_, true) => ("TOTAL_nsecs", 1),
            _ => ("TOTAL_usecs", 1000),
        };
        let number = |total: &Total| if counts { total.count } else { total.time };
        let mut lines = format!("{:<26} {title:>11}\n", self.heading);
        for (handler, total) in greatest(rows, view, number) {
            lines += &format!("{:<26} {:>11}\n", printable((self.name)(handler)), number(total) / divisor);
        }
        lines
    }

    fn json(&self, rows: &Rows<HardIrqs>, view: &View) -> Map<String, Value> {
        let one = |(handler, total): (&Handler, &Total)| json!({self.label: (self.name)(handler), "count": total.count, "time_s": total.time as f64 / 1e9});
        let all: Vec<Value> = greatest(rows, view, |total| total.time).into_iter().map(one).collect();
        Map::from_iter([("handlers".to_string(), all.into())])
    }

    fn metrics(&self, rows: &Rows<HardIrqs>) -> Vec<Metric> {
        counters(rows, |handler| self.labels(handler), &self.counters)
    }

    fn labels(&self, handler: &Handler) -> Labels {
        vec![(self.label, (self.name)(handler).into())]
    }
}

impl Tables for HardIrqs {
    fn text(rows: &Rows<Self>, view: &View) -> String {
        HARD.text(rows, view)
    }

    fn json(rows: &Rows<Self>, view: &View) -> Map<String, Value> {
        HARD.json(rows, view)
    }

    fn metrics(rows: &Rows<Self>, _: &View) -> Vec<Metric> {
        HARD.metrics(rows)
    }
}

impl Tables for SoftIrqs {
    fn text(rows: &Rows<Self>, view: &View) -> String {
        SOFT.text(rows, view)
    }

    fn json(rows: &Rows<Self>, view: &View) -> Map<String, Value> {
        SOFT.json(rows, view)
    }

    fn metrics(rows: &Rows<Self>, _: &View) -> Vec<Metric> {
        SOFT.metrics(rows)
    }
}

impl Distribution for HardIrqDist {
    fn metric(_: &View) -> (&'static str, &'static str) {
        ("hardirqs", "How long interrupts by devices took.")
    }

    fn labels(handler: &Handler, _: &View) -> Labels {
        HARD.labels(handler)
    }
}

impl Distribution for SoftIrqDist {
    fn metric(_: &View) -> (&'static str, &'static str) {
        ("softirqs", "How long runs of the kernel's deferred work took.")
    }

    fn labels(handler: &Handler, _: &View) -> Labels {
        SOFT.labels(handler)
    }
}
