//! `tcpaccept`: which TCP connections are taken, by whom and where from.

use clap::{ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_ebpf::probe::TcpAccept;
use serde_json::{Map, Value};

use crate::args::{common, families, family_switches, flag, port, port_argument, wanted};
use crate::stream::{Lines, run as stream, set_flags};
use crate::view::{Extra, View, comm, flow, version};

pub const TOOL: Tool = Tool { name: "tcpaccept", about: kld_catalog::about("tcpaccept"), command, run };

const EXTRA: &[Extra] = &[("time", 8, "TIME"), ("timestamp", 8, "TIME(s)"), ("owner", 16, "OWNER")];

fn command() -> Command {
    common(Command::new("tcpaccept"))
        .args([
            flag("time", 'T', "Show the time of day, in UTC"),
            flag("timestamp", 't', "Show when, in seconds since the tool began"),
            flag("owner", 'o', "Show the container or machine"),
            port("Only this local port"),
        ])
        .args(families())
        .after_help(
            "Examples:\n  tcpaccept\n  tcpaccept -t -P 443\n  tcpaccept --container 0123456789ab --json\n\n\
             Of accept(2) and accept4(2); what io_uring takes is not seen.",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let mut wanted = wanted(matches)?;
    wanted.filter.argument = port_argument(matches);
    wanted.filter.switches |= family_switches(matches);
    stream::<TcpAccept>(context, &wanted, set_flags(matches, &["time", "timestamp", "owner"]))
}

impl Lines for TcpAccept {
    fn heading(view: &View) -> String {
        let names = ["PID", "COMM", "IP", "RADDR", "RPORT", "LADDR", "LPORT"];
        view.extra_heading(EXTRA)
            + &format!(
                "{:<7} {:<12} {:<2} {:<16} {:<5} {:<16} {}",
                names[0], names[1], names[2], names[3], names[4], names[5], names[6]
            )
    }

    fn line(event: &TcpAccept, view: &mut View) -> String {
        let (task, ip) = (&event.task, version(&event.remote));
        let (from, from_port) = (event.remote.ip().to_string(), event.remote.port());
        let (to, to_port) = (event.local.ip().to_string(), event.local.port());
        let own = format!(
            "{:<7} {:<12.12} {ip:<2} {from:<16} {from_port:<5} {to:<16} {to_port}",
            task.pid,
            comm(task)
        );
        view.extra(EXTRA, task) + &own
    }

    fn json(event: &TcpAccept, view: &mut View) -> Map<String, Value> {
        let mut object = view.json(&event.task);
        flow(&mut object, &event.local, &event.remote);
        object
    }
}
