//! `filetop`: which files are read and written most, and by whom.

use std::time::Duration;

use clap::{Arg, ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_core::ui::printable;
use kld_ebpf::events::io::{Accesses, Of};
use kld_ebpf::events::table::Tally;
use kld_ebpf::events::text;
use kld_ebpf::probe::FileTop;
use serde_json::{Map, Value, json};

use crate::args::{flag, wanted};
use crate::file::{device, kind, letter};
use crate::prometheus::{Metric, counters};
use crate::stream::set_flags;
use crate::tables::{self, Rows, Tables, common, greatest, timestamp};
use crate::view::View;

pub const TOOL: Tool = Tool { name: "filetop", about: kld_catalog::about("filetop"), command, run };

/// What the greatest are chosen by, as bcc names it.
const ORDERS: [&str; 5] = ["all", "reads", "writes", "rbytes", "wbytes"];

fn command() -> Command {
    common(Command::new("filetop"))
        .args([
            timestamp(),
            tables::rows(),
            flag("all-files", 'a', "Files of every kind, not regular ones only"),
            Arg::new("sort")
                .long("sort")
                .short('s')
                .value_name("BY")
                .value_parser(ORDERS)
                .default_value("all")
                .help("What the greatest are chosen by"),
        ])
        .after_help(
            "Examples:\n  filetop\n  filetop 5 12 -s wbytes\n  filetop -a -p 1234 --json 1\n\n\
             A table a second unless an interval is given. Of read(2), write(2) and their relatives with p and v; not \
             of what is mapped, spliced or sent by io_uring. T is R for regular files, S for sockets, O for others.",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let mut wanted = wanted(matches)?;
    let mut flags = set_flags(matches, &["timestamp", "all-files"]);
    wanted.filter.switches |= tables::switches(&flags, &[("all-files", FileTop::ALL)]);
    let order = matches.get_one::<String>("sort");
    flags.extend(ORDERS.iter().find(|known| order.is_some_and(|order| order == *known)));
    tables::run::<FileTop>(context, matches, &wanted, flags)
}

/// The greatest in the order that is asked for.
fn sorted<'a>(rows: &'a Rows<FileTop>, view: &View) -> Vec<(&'a Of, &'a Accesses)> {
    let order = ORDERS.iter().find(|order| view.has(order)).copied();
    greatest(rows, view, |accesses| match order {
        Some("reads") => accesses.reads,
        Some("writes") => accesses.writes,
        Some("rbytes") => accesses.read,
        Some("wbytes") => accesses.written,
        _ => accesses.read + accesses.written + accesses.reads + accesses.writes,
    })
}

impl Tables for FileTop {
    const INTERVAL: Option<Duration> = Some(Duration::from_secs(1));

    fn text(rows: &Rows<Self>, view: &View) -> String {
        let names = ["TID", "COMM", "READS", "WRITES", "R_Kb", "W_Kb"];
        let mut lines = format!(
            "{:<7} {:<16} {:<6} {:<6} {:<7} {:<7} T FILE\n",
            names[0], names[1], names[2], names[3], names[4], names[5]
        );
        for (key, accesses) in sorted(rows, view) {
            lines += &format!(
                "{:<7} {:<16} {:<6} {:<6} {:<7} {:<7} {} {}\n",
                key.tid,
                printable(text(&key.comm)),
                accesses.reads,
                accesses.writes,
                accesses.read / 1024,
                accesses.written / 1024,
                letter(key.kind),
                printable(text(&key.name)),
            );
        }
        lines
    }

    fn json(rows: &Rows<Self>, view: &View) -> Map<String, Value> {
        let one = |(key, accesses): (&Of, &Accesses)| {
            json!({
                "pid": key.pid, "tid": key.tid, "comm": text(&key.comm), "file": text(&key.name),
                "kind": kind(key.kind), "inode": key.inode, "device": device(key.device), "count": accesses.count(),
                "reads": accesses.reads, "writes": accesses.writes, "read": accesses.read, "written": accesses.written,
            })
        };
        let all: Vec<Value> = sorted(rows, view).into_iter().map(one).collect();
        Map::from_iter([("files".to_string(), all.into())])
    }

    fn metrics(rows: &Rows<Self>, _: &View) -> Vec<Metric> {
        let labels = |key: &Of| {
            vec![
                ("comm", text(&key.comm).into()),
                ("pid", key.pid.into()),
                ("tid", key.tid.into()),
                ("file", text(&key.name).into()),
                ("inode", key.inode.into()),
                ("device", device(key.device).into()),
            ]
        };
        counters(
            rows,
            labels,
            &[
                ("file_reads_total", "Reads of files.", |accesses| accesses.reads as f64),
                ("file_writes_total", "Writes of files.", |accesses| accesses.writes as f64),
                ("file_read_bytes_total", "Bytes read of files.", |accesses| accesses.read as f64),
                ("file_written_bytes_total", "Bytes written of files.", |accesses| accesses.written as f64),
            ],
        )
    }
}
