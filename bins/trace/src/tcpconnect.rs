//! `tcpconnect`: which connections are begun, by whom and where to.

use clap::{ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_ebpf::probe::TcpConnect;
use serde_json::{Map, Value};

use crate::args::{common, flag, wanted};
use crate::stream::{Lines, run as stream, set_flags};
use crate::view::{View, comm, version};

pub const TOOL: Tool = Tool { name: "tcpconnect", about: kld_catalog::about("tcpconnect"), command, run };

fn command() -> Command {
    common(Command::new("tcpconnect"))
        .args([
            flag("timestamp", 't', "Show when, in seconds since the tool began"),
            flag("print-uid", 'U', "Show the user"),
            flag("owner", 'o', "Show the container or machine"),
        ])
        .after_help(
            "Examples:\n  tcpconnect\n  tcpconnect -t -U\n  tcpconnect --container 0123456789ab --json",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let flags = set_flags(matches, &["timestamp", "print-uid", "owner"]);
    stream::<TcpConnect>(context, &wanted(matches)?, flags)
}

impl Lines for TcpConnect {
    fn heading(view: &View) -> String {
        let mut line = String::new();
        for (name, width, heading) in
            [("timestamp", 9, "TIME(s)"), ("print-uid", 6, "UID"), ("owner", 16, "OWNER")]
        {
            if view.has(name) {
                line += &format!("{heading:<width$} ");
            }
        }
        let names = ["PID", "COMM", "IP", "SADDR", "DADDR", "DPORT"];
        line + &format!(
            "{:<7} {:<12} {:<2} {:<16} {:<16} {}",
            names[0], names[1], names[2], names[3], names[4], names[5]
        )
    }

    fn line(event: &TcpConnect, view: &mut View) -> String {
        let task = &event.task;
        let mut line = String::new();
        if view.has("timestamp") {
            line += &format!("{:<9.3} ", view.since(task.time));
        }
        if view.has("print-uid") {
            line += &format!("{:<6} ", task.uid);
        }
        if view.has("owner") {
            line += &format!("{:<16} ", view.owner(task).as_deref().unwrap_or("-"));
        }
        let (from, to, port) = (event.local.ip(), event.remote.ip(), event.remote.port());
        let (from, to) = (from.to_string(), to.to_string());
        let ip = version(&event.remote);
        line + &format!("{:<7} {:<12.12} {ip:<2} {from:<16} {to:<16} {port}", task.pid, comm(task))
    }

    fn json(event: &TcpConnect, view: &mut View) -> Map<String, Value> {
        let mut object = view.json(&event.task);
        object.insert("source".into(), event.local.ip().to_string().into());
        object.insert("destination".into(), event.remote.ip().to_string().into());
        object.insert("destination_port".into(), event.remote.port().into());
        object
    }
}
