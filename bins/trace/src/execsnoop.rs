//! `execsnoop`: which programs are started, with their arguments.

use clap::{ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_core::ui::printable;
use kld_ebpf::probe::Exec;
use serde_json::{Map, Value};

use crate::args::{common, flag, wanted};
use crate::stream::{Lines, run as stream, set_flags};
use crate::view::{View, comm};

pub const TOOL: Tool = Tool { name: "execsnoop", about: kld_catalog::about("execsnoop"), command, run };

const FLAGS: &[&str] = &["time", "timestamp", "print-uid", "fails", "owner"];

fn command() -> Command {
    common(Command::new("execsnoop"))
        .args([
            flag("time", 'T', "Show the time of day, in UTC"),
            flag("timestamp", 't', "Show when, in seconds since the tool began"),
            flag("print-uid", 'U', "Show the user"),
            flag("fails", 'x', "What could not be started too; of that the path alone is told"),
            flag("owner", 'o', "Show the container or machine"),
        ])
        .after_help("Examples:\n  execsnoop\n  execsnoop -x -T\n  execsnoop -u www-data --json")
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let mut wanted = wanted(matches)?;
    let flags = set_flags(matches, FLAGS);
    if flags.contains(&"fails") {
        wanted.filter.switches |= Exec::FAILED;
    }
    stream::<Exec>(context, &wanted, flags)
}

impl Lines for Exec {
    fn heading(view: &View) -> String {
        let mut line = String::new();
        for (name, width, heading) in [
            ("time", 9, "TIME"),
            ("timestamp", 8, "TIME(s)"),
            ("print-uid", 6, "UID"),
            ("owner", 16, "OWNER"),
        ] {
            if view.has(name) {
                line += &format!("{heading:<width$} ");
            }
        }
        line + &format!("{:<16} {:<7} {:<7} {:>3} {}", "PCOMM", "PID", "PPID", "RET", "ARGS")
    }

    fn line(event: &Exec, view: &mut View) -> String {
        let task = &event.task;
        let mut line = String::new();
        if view.has("time") {
            line += &format!("{:<9} ", view.time_of_day(task.time));
        }
        if view.has("timestamp") {
            line += &format!("{:<8.3} ", view.since(task.time));
        }
        if view.has("print-uid") {
            line += &format!("{:<6} ", task.uid);
        }
        if view.has("owner") {
            line += &format!("{:<16} ", view.owner(task).as_deref().unwrap_or("-"));
        }
        let result = event.result.map_or_else(|error| -error, |()| 0);
        line += &format!("{:<16} {:<7} {:<7} {result:>3}", comm(task), task.pid, event.parent);
        for arg in &event.args {
            line.push(' ');
            line += &printable(&arg.to_string_lossy());
        }
        line + if event.cut { " ..." } else { "" }
    }

    fn json(event: &Exec, view: &mut View) -> Map<String, Value> {
        let mut object = view.json(&event.task);
        object.insert("ppid".into(), event.parent.into());
        object.insert("errno".into(), event.result.err().unwrap_or(0).into());
        let args = event.args.iter().map(|arg| arg.to_string_lossy().into_owned());
        object.insert("args".into(), args.collect::<Vec<_>>().into());
        object.insert("args_cut".into(), event.cut.into());
        object
    }
}
