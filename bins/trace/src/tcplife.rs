//! `tcplife`: connections that have ended, with their bytes and how long they lived.

use clap::{ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_ebpf::probe::TcpLife;
use serde_json::{Map, Value};

use crate::args::{common, flag, wanted};
use crate::stream::{Lines, run as stream, set_flags};
use crate::view::{View, comm};

pub const TOOL: Tool = Tool { name: "tcplife", about: kld_catalog::about("tcplife"), command, run };

fn command() -> Command {
    common(Command::new("tcplife"))
        .args([flag("time", 'T', "Show the time of day, in UTC")])
        .after_help(
            "Examples:\n  tcplife\n  tcplife -T -p 1234\n  tcplife --json\n\n\
             PID and COMM are who connected or closed; 0 and '-' where neither was seen, as when the other side has \
             reset the connection. TX_KB is what the other side has acknowledged.",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    stream::<TcpLife>(context, &wanted(matches)?, set_flags(matches, &["time"]))
}

impl Lines for TcpLife {
    fn heading(view: &View) -> String {
        let time = if view.has("time") { format!("{:<8} ", "TIME") } else { String::new() };
        time + "PID     COMM       LADDR           LPORT RADDR           RPORT TX_KB RX_KB MS"
    }

    fn line(event: &TcpLife, view: &mut View) -> String {
        let time = match view.has("time") {
            true => format!("{:<8} ", view.time_of_day(event.time)),
            false => String::new(),
        };
        let (pid, name) = event.owner.as_ref().map_or((0, "-".to_string()), |task| (task.pid, comm(task)));
        let (local, remote) = (event.local.ip().to_string(), event.remote.ip().to_string());
        let (sent, received) = (event.sent / 1024, event.received / 1024);
        time + &format!(
            "{pid:<7} {name:<10.10} {local:<15} {:<5} {remote:<15} {:<5} {sent:>5} {received:>5} {:.2}",
            event.local.port(),
            event.remote.port(),
            event.age.as_secs_f64() * 1e3
        )
    }

    fn json(event: &TcpLife, view: &mut View) -> Map<String, Value> {
        let mut object = event.owner.as_ref().map_or_else(Map::new, |task| view.json(task));
        object.insert("time_ns".into(), view.wall(event.time).into());
        object.insert("local".into(), event.local.ip().to_string().into());
        object.insert("local_port".into(), event.local.port().into());
        object.insert("remote".into(), event.remote.ip().to_string().into());
        object.insert("remote_port".into(), event.remote.port().into());
        object.insert("sent".into(), event.sent.into());
        object.insert("received".into(), event.received.into());
        object.insert("age_s".into(), event.age.as_secs_f64().into());
        object
    }
}
