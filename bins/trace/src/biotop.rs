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
use serde_json::{Map, Value, json};

use crate::args::wanted;
use crate::disk;
use crate::prometheus::{Metric, counters};
use crate::stream::set_flags;
use crate::tables::{self, Rows, Tables, common, greatest, timestamp};
use crate::view::View;

pub const TOOL: Tool = Tool { name: "biotop", about: kld_catalog::about("biotop"), command, run };

fn command() -> Command {
    common(Command::new("biotop"))
        .args([timestamp(), tables::rows(), disk::only()])
        .after_help(
            "Examples:\n  biotop\n  biotop 5 12 -r 10\n  biotop --disk sda --json 1\n\n\
             A table a second unless an interval is given, the most bytes first. D is R for reads and W for what \
             writes; AVGms the mean time from when the device got a request to its end.",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let mut wanted = wanted(matches)?;
    disk::want(matches, &mut wanted)?;
    tables::run::<BioTop>(context, matches, &wanted, set_flags(matches, &["timestamp"]))
}

/// R or W.
fn direction(key: &Of) -> &'static str {
    if key.which == 0 { "R" } else { "W" }
}

impl Tables for BioTop {
    const INTERVAL: Option<Duration> = Some(Duration::from_secs(1));

    fn text(rows: &Rows<Self>, view: &View) -> String {
        let mut lines = format!(
            "{:<7} {:<16} {} {:<3} {:<3} {:<8} {:>5} {:>7} {:>6}\n",
            "PID", "COMM", "D", "MAJ", "MIN", "DISK", "I/O", "Kbytes", "AVGms"
        );
        for (key, total) in greatest(rows, view, |total| total.amount) {
            let (major, minor, average) = (key.device >> 20, key.device & 0xf_ffff, average_ms(total));
            lines += &format!(
                "{:<7} {:<16} {} {major:<3} {minor:<3} {:<8} {:>5} {:>7} {average:>6.2}\n",
                key.pid,
                printable(text(&key.comm)),
                direction(key),
                printable(text(&key.disk)),
                total.count,
                total.amount / 1024,
            );
        }
        lines
    }

    fn json(rows: &Rows<Self>, view: &View) -> Map<String, Value> {
        let one = |(key, total): (&Of, &Total)| {
            json!({
                "pid": key.pid, "comm": text(&key.comm), "direction": direction(key), "disk": text(&key.disk),
                "requests": total.count, "bytes": total.amount, "time_s": total.time as f64 / 1e9,
            })
        };
        let all: Vec<Value> = greatest(rows, view, |total| total.amount).into_iter().map(one).collect();
        Map::from_iter([("processes".to_string(), all.into())])
    }

    fn metrics(rows: &Rows<Self>, _: &View) -> Vec<Metric> {
        let labels = |key: &Of| {
            vec![
                ("comm", text(&key.comm).into()),
                ("pid", key.pid.into()),
                ("disk", text(&key.disk).into()),
                ("direction", direction(key).into()),
            ]
        };
        counters(
            rows,
            labels,
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

fn average_ms(total: &Total) -> f64 {
    total.time as f64 / 1e6 / total.count.max(1) as f64
}
