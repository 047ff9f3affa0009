//! `threadsnoop`: which threads are made, and by whom.

use clap::{ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_ebpf::probe::Thread;
use serde_json::{Map, Value};

use crate::args::{common, flag, wanted};
use crate::stream::{Lines, run as stream, set_flags};
use crate::view::{Extra, View, comm};

pub const TOOL: Tool = Tool { name: "threadsnoop", about: kld_catalog::about("threadsnoop"), command, run };

const EXTRA: &[Extra] = &[("owner", 16, "OWNER")];

fn command() -> Command {
    common(Command::new("threadsnoop")).arg(flag("owner", 'o', "Show the container or machine")).after_help(
        "Examples:\n  threadsnoop\n  threadsnoop -p 1234\n  threadsnoop --json -d 10\n\n\
         TID is the new thread. Every thread is told, however it was made; bcc's tool, which looks into pthread_create(3), \
         shows the function instead.",
    )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    stream::<Thread>(context, &wanted(matches)?, set_flags(matches, &["owner"]))
}

impl Lines for Thread {
    fn heading(view: &View) -> String {
        view.extra_heading(EXTRA) + &format!("{:<10} {:<7} {:<16} {}", "TIME(ms)", "PID", "COMM", "TID")
    }

    fn line(event: &Thread, view: &mut View) -> String {
        let task = &event.task;
        let ms = view.since(task.time) * 1e3;
        let own = format!("{ms:<10.0} {:<7} {:<16} {}", task.pid, comm(task), event.tid);
        view.extra(EXTRA, task) + &own
    }

    fn json(event: &Thread, view: &mut View) -> Map<String, Value> {
        let mut object = view.json(&event.task);
        object.insert("new_tid".into(), event.tid.into());
        object
    }
}
