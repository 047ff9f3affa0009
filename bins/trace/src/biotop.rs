//! `biotop`: whose requests keep block devices busy.

use std::time::Duration;

use clap::{ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_core::ui::printable;
use kld_ebpf::events::block::Of;
use kld_ebpf::events::table::Total;
use kld_ebpf::events::text;
use kld_ebpf::probe::BioTop;
use serde_json::{Map, Value};

use crate::args::wanted;
use crate::histogram::{Labels, plain};
use crate::place::Places;
use crate::prometheus::{Metric, counters};
use crate::stream::set_flags;
use crate::tables::{self, Rows, Tables, common, greatest, regroup, timestamp};
use crate::view::View;
use crate::{disk, place};

pub const TOOL: Tool = Tool { name: "biotop", about: kld_catalog::about("biotop"), command, run };

fn command() -> Command {
    common(Command::new("biotop"))
        .args([timestamp(), tables::rows(), place::by(), disk::only()])
        .after_help(
            "Examples:\n  biotop\n  biotop 5 12 -r 10\n  biotop --disk sda --json 1\n  biotop --by machine\n\n\
             A table a second unless an interval is given, the most bytes first. D is R for reads and W for what \
             writes; AVGms the mean time from when the device got a request to its end. With --by, totals by machine, \
             ZFS volume or disk instead of by process, also of devices that pass on what they get: what goes through \
             one of these to a disk is then told of both.",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let mut wanted = wanted(matches)?;
    disk::want(matches, &mut wanted)?;
    place::want(matches, &mut wanted);
    tables::run::<BioTop>(context, matches, &wanted, set_flags(matches, &["timestamp"]))
}

/// R or W.
fn direction(key: &Of) -> &'static str {
    if key.which == 0 { "R" } else { "W" }
}

impl Tables for BioTop {
    const INTERVAL: Option<Duration> = Some(Duration::from_secs(1));

    fn settle(rows: Rows<Self>, view: &mut View) -> Rows<Self> {
        match &mut view.places {
            Some(places) => regroup(rows, |key| Of {
                disk: places.mark(&key.disk),
                which: key.which,
                device: 0,
                pid: 0,
                comm: Default::default(),
            }),
            None => rows,
        }
    }

    fn text(rows: &Rows<Self>, view: &View) -> String {
        let name = match view.places.as_ref().map(Places::by) {
            None => format!("{:<7} {:<16} D {:<3} {:<3} {:<8}", "PID", "COMM", "MAJ", "MIN", "DISK"),
            Some(by) => format!("{:<32} D", by.heading()),
        };
        let mut lines = format!("{name} {:>5} {:>7} {:>6}\n", "I/O", "Kbytes", "AVGms");
        for (key, total) in greatest(rows, view, |total| total.amount) {
            let (count, kbytes, average) = (total.count, total.amount / 1024, average_ms(total));
            lines += &format!("{} {count:>5} {kbytes:>7} {average:>6.2}\n", columns(key, view));
        }
        lines
    }

    fn json(rows: &Rows<Self>, view: &View) -> Map<String, Value> {
        let one = |(key, total): (&Of, &Total)| {
            let labels = labels(key, view).into_iter().map(|(name, value)| (name.to_string(), value));
            let mut object = Map::from_iter(labels);
            object.extend(place::details(&key.disk, view));
            object.insert("requests".into(), total.count.into());
            object.insert("bytes".into(), total.amount.into());
            object.insert("time_s".into(), (total.time as f64 / 1e9).into());
            Value::Object(object)
        };
        let all: Vec<Value> = greatest(rows, view, |total| total.amount).into_iter().map(one).collect();
        let list = if view.places.is_some() { "places" } else { "processes" };
        Map::from_iter([(list.to_string(), all.into())])
    }

    fn metrics(rows: &Rows<Self>, view: &View) -> Vec<Metric> {
        counters(
            rows,
            |key| labels(key, view),
            &[
                ("block_requests_total", "Requests to block devices.", |total| total.count as f64),
                ("block_bytes_total", "Bytes of requests to block devices.", |total| total.amount as f64),
                ("block_seconds_total", "Time that requests to block devices took.", |total| {
                    total.time as f64 / 1e9
                }),
            ],
        )
    }
}

/// What stands for a key in a table.
fn columns(key: &Of, view: &View) -> String {
    let direction = direction(key);
    if let Some(places) = &view.places {
        let labels = places.labels(&key.disk);
        let name = labels.first().map(|(_, name)| plain(name)).unwrap_or_default();
        return format!("{name:<32} {direction}");
    }
    let (major, minor) = (key.device >> 20, key.device & 0xf_ffff);
    let [comm, disk] = [&key.comm[..], &key.disk].map(|name| printable(text(name)));
    format!("{:<7} {comm:<16} {direction} {major:<3} {minor:<3} {disk:<8}", key.pid)
}

/// What a key stands for.
fn labels(key: &Of, view: &View) -> Labels {
    let mut labels = match &view.places {
        Some(places) => places.labels(&key.disk),
        None => {
            vec![("comm", text(&key.comm).into()), ("pid", key.pid.into()), ("disk", text(&key.disk).into())]
        }
    };
    labels.push(("direction", direction(key).into()));
    labels
}

fn average_ms(total: &Total) -> f64 {
    total.time as f64 / 1e6 / total.count.max(1) as f64
}
