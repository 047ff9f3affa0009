//! `killsnoop`: which signals are sent, by whom and to whom.

use clap::{ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_ebpf::probe::Kill;
use serde_json::{Map, Value};

use crate::args::{common, flag, wanted};
use crate::stream::{Lines, run as stream, set_flags};
use crate::view::{View, comm};

pub const TOOL: Tool = Tool { name: "killsnoop", about: kld_catalog::about("killsnoop"), command, run };

fn command() -> Command {
    common(Command::new("killsnoop"))
        .args([flag("failed", 'x', "Only what could not be sent")])
        .after_help(
            "Examples:\n  killsnoop\n  killsnoop -x\n  killsnoop --json -d 60\n\n\
             Of kill(2), tkill(2) and tgkill(2). TPID is as the call has it: 0 and negative numbers are groups.",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let mut wanted = wanted(matches)?;
    if matches.get_flag("failed") {
        wanted.filter.switches |= Kill::FAILED;
    }
    stream::<Kill>(context, &wanted, set_flags(matches, &[]))
}

impl Lines for Kill {
    fn heading(_: &View) -> String {
        format!("{:<9} {:<7} {:<16} {:<4} {:<7} {}", "TIME", "PID", "COMM", "SIG", "TPID", "RESULT")
    }

    fn line(event: &Kill, view: &mut View) -> String {
        let task = &event.task;
        let result = event.result.map_or_else(|error| -error, |()| 0);
        let (time, signal, target) = (view.time_of_day(task.time), event.signal, event.target);
        format!("{time:<9} {:<7} {:<16} {signal:<4} {target:<7} {result}", task.pid, comm(task))
    }

    fn json(event: &Kill, view: &mut View) -> Map<String, Value> {
        let mut object = view.json(&event.task);
        object.insert("signal".into(), event.signal.into());
        object.insert("target".into(), event.target.into());
        object.insert("errno".into(), event.result.err().unwrap_or(0).into());
        object
    }
}
