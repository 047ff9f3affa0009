//! `vfsstat`: how much the kernel does for files.

use std::time::Duration;

use clap::{ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_ebpf::events::io::work;
use kld_ebpf::probe::VfsStat;
use serde_json::{Map, Value, json};

use crate::args::wanted;
use crate::prometheus::{Metric, counters};
use crate::tables::{self, Rows, Tables, common};
use crate::view::View;

pub const TOOL: Tool = Tool { name: "vfsstat", about: kld_catalog::about("vfsstat"), command, run };

/// What is counted, in bcc's order and with its names.
const COLUMNS: [(u64, &str); 8] = [
    (work::READ, "READ"),
    (work::WRITE, "WRITE"),
    (work::FSYNC, "FSYNC"),
    (work::OPEN, "OPEN"),
    (work::CREATE, "CREATE"),
    (work::UNLINK, "UNLINK"),
    (work::MKDIR, "MKDIR"),
    (work::RMDIR, "RMDIR"),
];

fn command() -> Command {
    common(Command::new("vfsstat")).after_help(
        "Examples:\n  vfsstat\n  vfsstat 5 12\n  vfsstat -p 1234 --json 1\n\n\
         A line a second unless an interval is given. Counted are the kernel's functions vfs_read, vfs_write, \
         vfs_fsync_range, vfs_open, vfs_create, vfs_unlink, vfs_mkdir and vfs_rmdir, whoever calls them; where the \
         kernel has no kprobes, the system calls that lead there and succeed.",
    )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    tables::run::<VfsStat>(context, matches, &wanted(matches)?, vec!["timestamp"])
}

/// What a key stands for.
fn name(key: u64) -> &'static str {
    COLUMNS.iter().find(|(own, _)| *own == key).map_or("OTHER", |(_, name)| name)
}

impl Tables for VfsStat {
    const INTERVAL: Option<Duration> = Some(Duration::from_secs(1));

    fn text(rows: &Rows<Self>, view: &View) -> String {
        let heading: String = COLUMNS.map(|(_, name)| format!(" {:>8}", format!("{name}/s"))).concat();
        let rates: String = COLUMNS
            .map(|(key, _)| {
                let count = rows.get(&key).map_or(0, |total| total.count);
                format!(" {:>8.0}", count as f64 / view.lasted.as_secs_f64())
            })
            .concat();
        format!("{}\n{}\n", &heading[1..], &rates[1..])
    }

    fn json(rows: &Rows<Self>, _: &View) -> Map<String, Value> {
        let one = |(key, name): (u64, &str)| json!({"operation": name.to_lowercase(), "count": rows.get(&key).map_or(0, |total| total.count)});
        Map::from_iter([("operations".to_string(), COLUMNS.map(one).to_vec().into())])
    }

    fn metrics(rows: &Rows<Self>, _: &View) -> Vec<Metric> {
        let labels = |key: &u64| vec![("operation", name(*key).to_lowercase().into())];
        counters(
            rows,
            labels,
            &[("vfs_operations_total", "What was done for files.", |total| total.count as f64)],
        )
    }
}
