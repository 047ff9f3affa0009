//! `slabratetop`: out of which caches the kernel takes how many objects.

use std::time::Duration;

use clap::{ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_core::ui::printable;
use kld_ebpf::events::memory::Cache;
use kld_ebpf::events::table::Total;
use kld_ebpf::events::text;
use kld_ebpf::probe::SlabRate;
use serde_json::{Map, Value, json};

use crate::args::wanted;
use crate::prometheus::{Metric, counters};
use crate::stream::set_flags;
use crate::tables::{self, Rows, Tables, common, greatest, timestamp};
use crate::view::View;

pub const TOOL: Tool = Tool { name: "slabratetop", about: kld_catalog::about("slabratetop"), command, run };

fn command() -> Command {
    common(Command::new("slabratetop")).args([timestamp(), tables::rows()]).after_help(
        "Examples:\n  slabratetop\n  slabratetop 5 12 -r 10\n  slabratetop -p 1234 --json 1\n\n\
         A table a second unless an interval is given, the most bytes first. What is given back is not subtracted. \
         kmalloc's memory is not counted.",
    )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    tables::run::<SlabRate>(context, matches, &wanted(matches)?, set_flags(matches, &["timestamp"]))
}

impl Tables for SlabRate {
    const INTERVAL: Option<Duration> = Some(Duration::from_secs(1));

    fn text(rows: &Rows<Self>, view: &View) -> String {
        let mut lines = format!("{:<32} {:>6} {:>10}\n", "CACHE", "ALLOCS", "BYTES");
        for (cache, total) in greatest(rows, view, |total| total.amount) {
            let name = printable(text(&cache.name));
            lines += &format!("{name:<32} {:>6} {:>10}\n", total.count, total.amount);
        }
        lines
    }

    fn json(rows: &Rows<Self>, view: &View) -> Map<String, Value> {
        let one = |(cache, total): (&Cache, &Total)| json!({"cache": text(&cache.name), "count": total.count, "bytes": total.amount});
        let all: Vec<Value> = greatest(rows, view, |total| total.amount).into_iter().map(one).collect();
        Map::from_iter([("caches".to_string(), all.into())])
    }

    fn metrics(rows: &Rows<Self>, _: &View) -> Vec<Metric> {
        counters(
            rows,
            |cache| vec![("cache", text(&cache.name).into())],
            &[
                ("slab_allocations_total", "Objects taken out of the kernel's caches.", |total| {
                    total.count as f64
                }),
                ("slab_bytes_total", "Bytes of objects taken out of the kernel's caches.", |total| {
                    total.amount as f64
                }),
            ],
        )
    }
}
