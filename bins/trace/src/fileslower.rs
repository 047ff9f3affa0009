//! `fileslower`: reads and writes of files that took long.

use clap::{ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_ebpf::probe::FileSlower;
use serde_json::{Map, Value};

use crate::args::{common, flag, wanted};
use crate::file::{device, kind};
use crate::slow::{self, milliseconds};
use crate::stream::{Lines, run as stream, set_flags};
use crate::tables::switches;
use crate::view::{View, comm, shown};

pub const TOOL: Tool = Tool { name: "fileslower", about: kld_catalog::about("fileslower"), command, run };

fn command() -> Command {
    common(Command::new("fileslower"))
        .args([
            slow::least(),
            flag("all-files", 'a', "Files of every kind, not regular ones only"),
        ])
        .after_help(
            "Examples:\n  fileslower\n  fileslower 1\n  fileslower 0 -p 1234 --json\n\n\
             A line when a read(2), a write(2) or one of their relatives with p and v has ended: not of what is \
             mapped, spliced or sent by io_uring. D is R or W; BYTES -1 where it has failed.",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let mut wanted = wanted(matches)?;
    let flags = set_flags(matches, &["all-files"]);
    wanted.filter.switches |= switches(&flags, &[("all-files", FileSlower::ALL)]);
    wanted.filter.numbers.push((FileSlower::SHORTEST, slow::microseconds(matches)));
    stream::<FileSlower>(context, &wanted, flags)
}

impl Lines for FileSlower {
    fn heading(_: &View) -> String {
        let names = ["TIME(s)", "COMM", "TID", "BYTES"];
        format!(
            "{:<8} {:<14} {:<6} D {:<7} {:>7} FILENAME",
            names[0], names[1], names[2], names[3], "LAT(ms)"
        )
    }

    fn line(event: &FileSlower, view: &mut View) -> String {
        let task = &event.task;
        let bytes = event.result.map_or_else(|_| "-1".to_string(), |bytes| bytes.to_string());
        format!(
            "{:<8.3} {:<14.14} {:<6} {} {bytes:<7} {:>7} {}",
            view.since(task.time),
            comm(task),
            task.tid,
            if event.writes { 'W' } else { 'R' },
            milliseconds(event.taken),
            shown(&event.name)
        )
    }

    fn json(event: &FileSlower, view: &mut View) -> Map<String, Value> {
        let mut object = view.json(&event.task);
        object.insert("operation".into(), if event.writes { "write" } else { "read" }.into());
        object.insert("bytes".into(), event.result.ok().into());
        object.insert("errno".into(), event.result.err().unwrap_or(0).into());
        object.insert("taken_s".into(), event.taken.as_secs_f64().into());
        object.insert("file".into(), event.name.to_string_lossy().into());
        object.insert("kind".into(), kind(event.kind).into());
        object.insert("inode".into(), event.inode.into());
        object.insert("device".into(), device(event.device).into());
        object
    }
}
