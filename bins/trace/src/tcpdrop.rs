//! `tcpdrop`: which packets of TCP the kernel drops, and why.

use clap::{ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_ebpf::Btf;
use kld_ebpf::probe::{DropReasons, TcpDrop};
use serde_json::{Map, Value};

use crate::args::{common_of_sockets, families, family_switches, flag, wanted};
use crate::impossible::OF_PACKETS;
use crate::stream::{Lines, run as stream, set_flags};
use crate::view::{Extra, View, version};

pub const TOOL: Tool = Tool { name: "tcpdrop", about: kld_catalog::about("tcpdrop"), command, run };

const EXTRA: &[Extra] = &[("owner", 16, "OWNER")];

fn command() -> Command {
    common_of_sockets(Command::new("tcpdrop"))
        .arg(flag("owner", 'o', "Show the container or machine"))
        .args(families())
        .after_help(
            "Examples:\n  tcpdrop\n  tcpdrop -4 -d 60\n  tcpdrop --json\n\n\
             PID is who ran when the packet was dropped, which is often nobody: 0. STATE is the socket's, '-' where there \
             is none; REASON has the kernel's names, '-' before kernel 5.17. The flags that say whose follow the socket's \
             user and control group.",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    OF_PACKETS.refuse(matches)?;
    let mut wanted = wanted(matches)?;
    wanted.filter.switches |= family_switches(matches);
    stream::<TcpDrop>(context, &wanted, set_flags(matches, &["owner"]))
}

impl Lines for TcpDrop {
    fn heading(view: &View) -> String {
        let names = ["TIME", "PID", "IP", "SADDR:SPORT", "DADDR:DPORT", "STATE (FLAGS)", "REASON"];
        view.extra_heading(EXTRA)
            + &format!(
                "{:<8} {:<7} {:<2} {:<20} > {:<20} {:<25} {}",
                names[0], names[1], names[2], names[3], names[4], names[5], names[6]
            )
    }

    fn prepare(btf: &Btf, view: &mut View) {
        view.reasons = DropReasons::of(btf);
    }

    fn line(event: &TcpDrop, view: &mut View) -> String {
        let (task, ip) = (&event.task, version(&event.source));
        let (from, to) = (event.source.to_string(), event.destination.to_string());
        let what = format!("{} ({})", event.state.unwrap_or("-"), event.flag_names());
        let reason = event.reason.map_or("-".to_string(), |reason| view.reasons.name(reason));
        let time = view.time_of_day(task.time);
        let own = format!("{time:<8} {:<7} {ip:<2} {from:<20} > {to:<20} {what:<25} {reason}", task.pid);
        view.extra(EXTRA, task) + &own
    }

    fn json(event: &TcpDrop, view: &mut View) -> Map<String, Value> {
        let mut object = view.json(&event.task);
        object.insert("source".into(), event.source.ip().to_string().into());
        object.insert("source_port".into(), event.source.port().into());
        object.insert("destination".into(), event.destination.ip().to_string().into());
        object.insert("destination_port".into(), event.destination.port().into());
        object.insert("state".into(), event.state.into());
        object.insert("flags".into(), event.flag_names().into());
        object.insert("reason".into(), event.reason.map(|reason| view.reasons.name(reason)).into());
        object
    }
}
