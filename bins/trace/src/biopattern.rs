//! `biopattern`: how much of block devices' work is sequential, and how much is random.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_core::ui::printable;
use kld_ebpf::events::block::Of;
use kld_ebpf::events::text;
use kld_ebpf::probe::BioPattern;
use serde_json::{Map, Value, json};

use crate::args::wanted;
use crate::disk;
use crate::prometheus::{Metric, counters};
use crate::stream::set_flags;
use crate::tables::{self, Rows, Tables, common, timestamp};
use crate::view::View;

pub const TOOL: Tool = Tool { name: "biopattern", about: kld_catalog::about("biopattern"), command, run };

fn command() -> Command {
    common(Command::new("biopattern"))
        .args([timestamp(), disk::only()])
        .after_help(
            "Examples:\n  biopattern\n  biopattern 10 6 -T\n  biopattern --disk sda --json 5\n\n\
             A table a second unless an interval is given. A request is sequential where it begins at the sector \
             where the last one of its disk that has ended stopped; the first is random.",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let mut wanted = wanted(matches)?;
    disk::want(matches, &mut wanted)?;
    tables::run::<BioPattern>(context, matches, &wanted, set_flags(matches, &["timestamp"]))
}

/// What there was of a disk.
#[derive(Debug, Default)]
struct Pattern {
    sequential: u64,
    random: u64,
    bytes: u64,
}

/// The patterns by disk.
fn by_disk(rows: &Rows<BioPattern>) -> BTreeMap<String, Pattern> {
    let mut disks = BTreeMap::<_, Pattern>::new();
    for (key, total) in rows {
        let pattern = disks.entry(text(&key.disk).to_string()).or_default();
        let part = if key.which == 0 { &mut pattern.random } else { &mut pattern.sequential };
        *part += total.count;
        pattern.bytes += total.amount;
    }
    disks
}

impl Tables for BioPattern {
    const INTERVAL: Option<Duration> = Some(Duration::from_secs(1));

    fn text(rows: &Rows<Self>, _: &View) -> String {
        let mut lines =
            format!("{:<9} {:>5} {:>5} {:>8} {:>10}\n", "DISK", "%RND", "%SEQ", "COUNT", "KBYTES");
        for (disk, pattern) in by_disk(rows) {
            let count = pattern.sequential + pattern.random;
            let random = (pattern.random * 100 + count / 2) / count.max(1);
            let (disk, kbytes) = (printable(&disk), pattern.bytes / 1024);
            lines += &format!("{disk:<9} {random:>5} {:>5} {count:>8} {kbytes:>10}\n", 100 - random);
        }
        lines
    }

    fn json(rows: &Rows<Self>, _: &View) -> Map<String, Value> {
        let one = |(disk, pattern): (String, Pattern)| {
            json!({
                "disk": disk, "random": pattern.random, "sequential": pattern.sequential, "bytes": pattern.bytes,
            })
        };
        let all: Vec<Value> = by_disk(rows).into_iter().map(one).collect();
        Map::from_iter([("disks".to_string(), all.into())])
    }

    fn metrics(rows: &Rows<Self>, _: &View) -> Vec<Metric> {
        let labels = |key: &Of| {
            let pattern = if key.which == 0 { "random" } else { "sequential" };
            vec![("disk", text(&key.disk).into()), ("pattern", pattern.into())]
        };
        counters(
            rows,
            labels,
            &[
                ("block_pattern_requests_total", "Requests to block devices.", |total| total.count as f64),
                ("block_pattern_bytes_total", "Bytes of requests to block devices.", |total| {
                    total.amount as f64
                }),
            ],
        )
    }
}
