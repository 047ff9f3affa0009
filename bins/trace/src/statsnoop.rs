//! `statsnoop`: which files are asked about, by whom, and how that ended.

use clap::{ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_ebpf::probe::Stat;
use serde_json::{Map, Value};

use crate::args::{common, flag, wanted};
use crate::stream::{Lines, run as stream, set_flags};
use crate::view::{Extra, View, comm, shown};

pub const TOOL: Tool = Tool { name: "statsnoop", about: kld_catalog::about("statsnoop"), command, run };

const EXTRA: &[Extra] = &[("timestamp", 13, "TIME(s)"), ("owner", 16, "OWNER")];

fn command() -> Command {
    common(Command::new("statsnoop"))
        .args([
            flag("timestamp", 't', "Show when, in seconds since the tool began"),
            flag("sysname", 's', "Show the system call"),
            flag("failed", 'x', "Only what has failed"),
            flag("owner", 'o', "Show the container or machine"),
        ])
        .after_help(
            "Examples:\n  statsnoop\n  statsnoop -x -s\n  statsnoop -p 1234 --json\n\n\
             Of stat(2), lstat(2), newfstatat(2), statx(2) and statfs(2). FD is 0, or -1 where it has failed; ERR the \
             error's number, as in errno(3). The path is empty where the call is about a descriptor.",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let mut wanted = wanted(matches)?;
    let flags = set_flags(matches, &["timestamp", "sysname", "failed", "owner"]);
    if flags.contains(&"failed") {
        wanted.filter.switches |= Stat::FAILED;
    }
    stream::<Stat>(context, &wanted, flags)
}

impl Lines for Stat {
    fn heading(view: &View) -> String {
        let call = if view.has("sysname") { format!(" {:<12}", "SYSCALL") } else { String::new() };
        let names = ["PID", "COMM", "FD", "ERR"];
        let own = format!("{:<7} {:<16} {:>4} {:>3}{call} PATH", names[0], names[1], names[2], names[3]);
        view.extra_heading(EXTRA) + &own
    }

    fn line(event: &Stat, view: &mut View) -> String {
        let task = &event.task;
        let (fd, error) = event.result.map_or_else(|error| (-1, error), |()| (0, 0));
        let call = if view.has("sysname") { format!(" {:<12}", event.call) } else { String::new() };
        let path = shown(&event.path);
        let own = format!("{:<7} {:<16} {fd:>4} {error:>3}{call} {path}", task.pid, comm(task));
        view.extra(EXTRA, task) + &own
    }

    fn json(event: &Stat, view: &mut View) -> Map<String, Value> {
        let mut object = view.json(&event.task);
        object.insert("syscall".into(), event.call.into());
        object.insert("errno".into(), event.result.err().unwrap_or(0).into());
        object.insert("path".into(), event.path.to_string_lossy().into());
        object
    }
}
