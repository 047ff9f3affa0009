//! `tcpretrans`: which segments of TCP are sent again.

use clap::{ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_ebpf::probe::TcpRetransmit;
use serde_json::{Map, Value};

use crate::args::{common_of_sockets, families, family_switches, flag, wanted};
use crate::impossible::OF_PACKETS;
use crate::stream::{Lines, run as stream, set_flags};
use crate::view::{Extra, View, flow, version};

pub const TOOL: Tool = Tool { name: "tcpretrans", about: kld_catalog::about("tcpretrans"), command, run };

const EXTRA: &[Extra] = &[("owner", 16, "OWNER")];

fn command() -> Command {
    common_of_sockets(Command::new("tcpretrans"))
        .args([
            flag("sequence", 's', "Show the number of the segment's first byte"),
            flag("lossprobe", 'l', "Tail loss probes too, marked L: they may not have been lost"),
            flag("owner", 'o', "Show the container or machine"),
        ])
        .args(families())
        .after_help(
            "Examples:\n  tcpretrans\n  tcpretrans -l -s\n  tcpretrans --container 0123456789ab --json\n\n\
             PID is who ran when the segment was sent, which is often nobody: 0. The flags that say whose follow the \
             socket's user and control group.",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    OF_PACKETS.refuse(matches)?;
    let mut wanted = wanted(matches)?;
    let flags = set_flags(matches, &["sequence", "lossprobe", "owner"]);
    wanted.filter.switches |= family_switches(matches);
    if flags.contains(&"lossprobe") {
        wanted.filter.switches |= TcpRetransmit::PROBES;
    }
    stream::<TcpRetransmit>(context, &wanted, flags)
}

/// R for a segment that was taken for lost, L for a tail loss probe.
fn kind(event: &TcpRetransmit) -> &'static str {
    if event.probe { "L" } else { "R" }
}

impl Lines for TcpRetransmit {
    fn heading(view: &View) -> String {
        let names = ["TIME", "PID", "IP", "LADDR:LPORT", "T", "RADDR:RPORT"];
        let sequence = if view.has("sequence") { format!("{:<12} SEQ", "STATE") } else { "STATE".into() };
        view.extra_heading(EXTRA)
            + &format!(
                "{:<8} {:<7} {:<2} {:<20} {:>1}> {:<20} {sequence}",
                names[0], names[1], names[2], names[3], names[4], names[5]
            )
    }

    fn line(event: &TcpRetransmit, view: &mut View) -> String {
        let (task, ip, kind) = (&event.task, version(&event.remote), kind(event));
        let (time, state) = (view.time_of_day(task.time), event.state);
        let (local, remote) = (event.local.to_string(), event.remote.to_string());
        let state = match view.has("sequence") {
            true => format!("{state:<12} {}", event.sequence),
            false => state.to_string(),
        };
        let own = format!("{time:<8} {:<7} {ip:<2} {local:<20} {kind:>1}> {remote:<20} {state}", task.pid);
        view.extra(EXTRA, task) + &own
    }

    fn json(event: &TcpRetransmit, view: &mut View) -> Map<String, Value> {
        let mut object = view.json(&event.task);
        flow(&mut object, &event.local, &event.remote);
        object.insert("type".into(), kind(event).into());
        object.insert("state".into(), event.state.into());
        object.insert("sequence".into(), event.sequence.into());
        object
    }
}
