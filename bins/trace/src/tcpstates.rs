//! `tcpstates`: every change of a connection's state.

use clap::{ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_ebpf::probe::TcpState;
use serde_json::{Map, Value};

use crate::args::{common, flag, wanted};
use crate::stream::{Lines, run as stream, set_flags};
use crate::view::{View, comm};

pub const TOOL: Tool = Tool { name: "tcpstates", about: kld_catalog::about("tcpstates"), command, run };

fn command() -> Command {
    common(Command::new("tcpstates"))
        .args([flag("time", 'T', "Show the time of day, in UTC")])
        .after_help(
            "Examples:\n  tcpstates\n  tcpstates -T\n  tcpstates --json -d 10\n\n\
             C-PID and C-COMM are who ran when the state changed, which is often not whose connection it is. \
             The flags that say whose follow who connected, listened or closed. MS is the time in the old state, 0 \
             where that was not seen.",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    stream::<TcpState>(context, &wanted(matches)?, set_flags(matches, &["time"]))
}

impl Lines for TcpState {
    fn heading(view: &View) -> String {
        let time = if view.has("time") { format!("{:<8} ", "TIME") } else { String::new() };
        time + "SKADDR           C-PID   C-COMM     LADDR           LPORT RADDR           RPORT OLDSTATE    -> \
                NEWSTATE    MS"
    }

    fn line(event: &TcpState, view: &mut View) -> String {
        let task = &event.task;
        let time = match view.has("time") {
            true => format!("{:<8} ", view.time_of_day(task.time)),
            false => String::new(),
        };
        let (local, remote) = (event.local.ip().to_string(), event.remote.ip().to_string());
        let (from, to, ms) = (event.local.port(), event.remote.port(), event.lasted.as_secs_f64() * 1e3);
        time + &format!(
            "{:<16x} {:<7} {:<10.10} {local:<15} {from:<5} {remote:<15} {to:<5} {:<11} -> {:<11} {ms:.3}",
            event.socket,
            task.pid,
            comm(task),
            event.old,
            event.new,
        )
    }

    fn json(event: &TcpState, view: &mut View) -> Map<String, Value> {
        let mut object = view.json(&event.task);
        object.insert("socket".into(), format!("{:x}", event.socket).into());
        object.insert("local".into(), event.local.ip().to_string().into());
        object.insert("local_port".into(), event.local.port().into());
        object.insert("remote".into(), event.remote.ip().to_string().into());
        object.insert("remote_port".into(), event.remote.port().into());
        object.insert("old".into(), event.old.into());
        object.insert("new".into(), event.new.into());
        object.insert("lasted_s".into(), event.lasted.as_secs_f64().into());
        object
    }
}
