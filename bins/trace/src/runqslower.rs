//! `runqslower`: tasks that waited long for a processor, and for whom.

use clap::{Arg, ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_core::ui::printable;
use kld_ebpf::events::text;
use kld_ebpf::probe::RunqSlower;
use serde_json::{Map, Value};

use crate::args::{common, flag, wanted};
use crate::stream::{Lines, run as stream, set_flags};
use crate::view::{View, comm};

pub const TOOL: Tool = Tool { name: "runqslower", about: kld_catalog::about("runqslower"), command, run };

fn command() -> Command {
    common(Command::new("runqslower"))
        .args([
            Arg::new("min_us")
                .value_name("MICROSECONDS")
                .value_parser(clap::value_parser!(u32))
                .default_value("10000")
                .help("Leave out shorter waits"),
            flag("previous", 'P', "Show who ran before"),
        ])
        .after_help(
            "Examples:\n  runqslower\n  runqslower 1000 -P\n  runqslower -p 1234 --json 100\n\n\
             A wait begins when a task is woken, or loses the processor while it could go on, and ends when it gets \
             one. The flags that say whose follow the task that waits.",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let mut wanted = wanted(matches)?;
    let shortest = matches.get_one::<u32>("min_us").copied().unwrap_or_default();
    wanted.filter.numbers.push((RunqSlower::SHORTEST, shortest));
    stream::<RunqSlower>(context, &wanted, set_flags(matches, &["previous"]))
}

impl Lines for RunqSlower {
    fn heading(view: &View) -> String {
        let previous = if view.has("previous") { "       PREV COMM        PREV TID" } else { "" };
        format!("{:<8} {:<16} {:<6} {:>14}{previous}", "TIME", "COMM", "TID", "LAT(us)")
    }

    fn line(event: &RunqSlower, view: &mut View) -> String {
        let before = &event.before;
        let previous = match view.has("previous") {
            true => format!(" {:>16} {:<6}", comm(before), before.tid),
            false => String::new(),
        };
        let (time, name) = (view.time_of_day(before.time), printable(text(&event.comm)));
        let line =
            format!("{time:<8} {name:<16} {:<6} {:>14}{previous}", event.tid, event.waited.as_micros());
        line.trim_end().to_string()
    }

    fn json(event: &RunqSlower, view: &mut View) -> Map<String, Value> {
        let mut object = Map::new();
        object.insert("time_ns".into(), view.wall(event.before.time).into());
        object.insert("pid".into(), event.pid.into());
        object.insert("tid".into(), event.tid.into());
        object.insert("comm".into(), text(&event.comm).into());
        object.insert("waited_s".into(), event.waited.as_secs_f64().into());
        object.insert("previous_pid".into(), event.before.pid.into());
        object.insert("previous_tid".into(), event.before.tid.into());
        object.insert("previous_comm".into(), event.before.name().into());
        object
    }
}
