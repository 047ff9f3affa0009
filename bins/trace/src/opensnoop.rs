//! `opensnoop`: which files are opened, by whom, and how that ended.

use clap::{ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_core::ui::printable;
use kld_ebpf::probe::Open;
use serde_json::{Map, Value};

use crate::args::{common, flag, wanted};
use crate::stream::{Lines, run as stream, set_flags};
use crate::view::{View, comm};

pub const TOOL: Tool = Tool { name: "opensnoop", about: kld_catalog::about("opensnoop"), command, run };

const FLAGS: &[&str] = &["timestamp", "print-uid", "extended-fields", "failed", "owner"];

fn command() -> Command {
    common(Command::new("opensnoop"))
        .args([
            flag("timestamp", 'T', "Show when, in seconds since the tool began"),
            flag("print-uid", 'U', "Show the user"),
            flag("extended-fields", 'e', "Show flags and mode"),
            flag("failed", 'x', "Only what could not be opened"),
            flag("owner", 'o', "Show the container or machine"),
        ])
        .after_help(
            "Examples:\n  opensnoop\n  opensnoop -p 1234 -d 10\n  opensnoop -x -T\n  opensnoop --json -n 100\n\n\
             FD is the new descriptor, or -1; ERR the error's number, as in errno(3).",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let mut wanted = wanted(matches)?;
    let flags = set_flags(matches, FLAGS);
    if flags.contains(&"failed") {
        wanted.filter.switches |= Open::FAILED;
    }
    stream::<Open>(context, &wanted, flags)
}

impl Lines for Open {
    fn heading(view: &View) -> String {
        let mut line = String::new();
        if view.has("timestamp") {
            line += &format!("{:<14}", "TIME(s)");
        }
        if view.has("print-uid") {
            line += &format!("{:<6}", "UID");
        }
        line += &format!("{:<6} {:<16} {:>4} {:>3} ", "PID", "COMM", "FD", "ERR");
        if view.has("extended-fields") {
            line += &format!("{:<8} {:<4} ", "FLAGS", "MODE");
        }
        if view.has("owner") {
            line += &format!("{:<16} ", "OWNER");
        }
        line + "PATH"
    }

    fn line(event: &Open, view: &mut View) -> String {
        let task = &event.task;
        let mut line = String::new();
        if view.has("timestamp") {
            line += &format!("{:<14.9}", view.since(task.time));
        }
        if view.has("print-uid") {
            line += &format!("{:<6}", task.uid);
        }
        let (fd, error) = match event.result {
            Ok(fd) => (i64::from(fd), 0),
            Err(error) => (-1, error),
        };
        line += &format!("{:<6} {:<16} {fd:>4} {error:>3} ", task.pid, comm(task));
        if view.has("extended-fields") {
            line += &format!("{:08o} {:04o} ", event.flags, event.mode);
        }
        if view.has("owner") {
            line += &format!("{:<16} ", view.owner(task).as_deref().unwrap_or("-"));
        }
        line + &printable(&event.path.to_string_lossy())
    }

    fn json(event: &Open, view: &mut View) -> Map<String, Value> {
        let mut object = view.json(&event.task);
        object.insert("fd".into(), event.result.ok().into());
        object.insert("errno".into(), event.result.err().unwrap_or(0).into());
        object.insert("flags".into(), event.flags.into());
        object.insert("mode".into(), event.mode.into());
        object.insert("path".into(), event.path.to_string_lossy().into());
        object
    }
}
