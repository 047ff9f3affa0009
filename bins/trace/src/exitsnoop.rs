//! `exitsnoop`: which processes end, after how long, and how.

use clap::{ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_ebpf::probe::{Ended, Exit};
use serde_json::{Map, Value};

use crate::args::{common, flag, wanted};
use crate::stream::{Lines, run as stream, set_flags};
use crate::view::{View, comm, signal};

pub const TOOL: Tool = Tool { name: "exitsnoop", about: kld_catalog::about("exitsnoop"), command, run };

fn command() -> Command {
    common(Command::new("exitsnoop"))
        .args([
            flag("time", 't', "Show the time of day, in UTC"),
            flag("failed", 'x', "Only what has not ended with code 0"),
            flag("per-thread", 'i', "Threads too"),
        ])
        .after_help("Examples:\n  exitsnoop\n  exitsnoop -x -t\n  exitsnoop --container 0123456789ab --json")
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let mut wanted = wanted(matches)?;
    let flags = set_flags(matches, &["time", "failed", "per-thread"]);
    for (flag, switch) in [("failed", Exit::FAILED), ("per-thread", Exit::THREADS)] {
        if flags.contains(&flag) {
            wanted.filter.switches |= switch;
        }
    }
    stream::<Exit>(context, &wanted, flags)
}

impl Lines for Exit {
    fn heading(view: &View) -> String {
        let time = if view.has("time") { format!("{:<9} ", "TIME") } else { String::new() };
        let names = ["PCOMM", "PID", "PPID", "TID", "AGE(s)", "EXIT_CODE"];
        time + &format!(
            "{:<16} {:<7} {:<7} {:<7} {:<7} {}",
            names[0], names[1], names[2], names[3], names[4], names[5]
        )
    }

    fn line(event: &Exit, view: &mut View) -> String {
        let task = &event.task;
        let time = match view.has("time") {
            true => format!("{:<9} ", view.time_of_day(task.time)),
            false => String::new(),
        };
        let how = match event.how {
            Ended::Code(0) => "0".to_string(),
            Ended::Code(code) => format!("code {code}"),
            Ended::Signal(number, core) => {
                let core = if core { ", core dumped" } else { "" };
                format!("signal {number} ({}){core}", signal(i32::from(number)))
            }
        };
        let (pid, tid, age) = (task.pid, task.tid, event.age.as_secs_f64());
        time + &format!("{:<16} {pid:<7} {:<7} {tid:<7} {age:<7.2} {how}", comm(task), event.parent)
    }

    fn json(event: &Exit, view: &mut View) -> Map<String, Value> {
        let mut object = view.json(&event.task);
        let (code, signal, core) = match event.how {
            Ended::Code(code) => (Some(code), None, false),
            Ended::Signal(signal, core) => (None, Some(signal), core),
        };
        object.insert("ppid".into(), event.parent.into());
        object.insert("age_s".into(), event.age.as_secs_f64().into());
        object.insert("exit_code".into(), code.into());
        object.insert("signal".into(), signal.into());
        object.insert("core_dumped".into(), core.into());
        object
    }
}
