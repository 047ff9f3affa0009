//! `solisten`: which sockets begin to listen, where, and for whom.

use clap::{ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_ebpf::probe::Listen;
use serde_json::{Map, Value};

use crate::args::{common, flag, port, port_argument, wanted};
use crate::stream::{Lines, run as stream, set_flags};
use crate::view::{Extra, View, comm, errno, protocol, version};

pub const TOOL: Tool = Tool { name: "solisten", about: kld_catalog::about("solisten"), command, run };

const EXTRA: &[Extra] = &[("timestamp", 9, "TIME(s)"), ("print-uid", 6, "UID"), ("owner", 16, "OWNER")];

fn command() -> Command {
    common(Command::new("solisten"))
        .args([
            flag("timestamp", 't', "Show when, in seconds since the tool began"),
            flag("print-uid", 'U', "Show the user"),
            flag("owner", 'o', "Show the container or machine"),
            flag("errors", 'E', "What has failed too, and the error in a column RC"),
            clap::Arg::new("show-netns")
                .long("show-netns")
                .action(clap::ArgAction::SetTrue)
                .help("Show the network namespace"),
            port("Only this port"),
        ])
        .after_help(
            "Examples:\n  solisten\n  solisten --show-netns -o\n  solisten -P 443 --json\n\n\
             BACKLOG is as the call has it; the kernel lets no more wait than net.core.somaxconn.",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let mut wanted = wanted(matches)?;
    wanted.filter.argument = port_argument(matches);
    let flags = set_flags(matches, &["timestamp", "print-uid", "owner", "errors", "show-netns"]);
    if flags.contains(&"errors") {
        wanted.filter.switches |= Listen::FAILED;
    }
    stream::<Listen>(context, &wanted, flags)
}

impl Lines for Listen {
    fn heading(view: &View) -> String {
        let error = if view.has("errors") { format!("{:<15} ", "RC") } else { String::new() };
        let namespace = if view.has("show-netns") { format!("{:<12} ", "NETNS") } else { String::new() };
        let names = ["PID", "COMM", "PROTO", "BACKLOG", "PORT", "ADDR"];
        view.extra_heading(EXTRA)
            + &error
            + &format!("{:<7} {:<12} {namespace}", names[0], names[1])
            + &format!("{:<6} {:<8} {:<5} {}", names[2], names[3], names[4], names[5])
    }

    fn line(event: &Listen, view: &mut View) -> String {
        let task = &event.task;
        let result = event.result.map_or_else(errno, |()| "OK".to_string());
        let error = if view.has("errors") { format!("{result:<15} ") } else { String::new() };
        let namespace =
            if view.has("show-netns") { format!("{:<12} ", event.namespace) } else { String::new() };
        let (name, backlog) = (proto(event), event.backlog);
        let (address, port) = (event.address.ip(), event.address.port());
        let own = format!("{:<7} {:<12.12} {namespace}", task.pid, comm(task));
        view.extra(EXTRA, task) + &error + &own + &format!("{name:<6} {backlog:<8} {port:<5} {address}")
    }

    fn json(event: &Listen, view: &mut View) -> Map<String, Value> {
        let mut object = view.json(&event.task);
        object.insert("protocol".into(), proto(event).into());
        object.insert("address".into(), event.address.ip().to_string().into());
        object.insert("port".into(), event.address.port().into());
        object.insert("backlog".into(), event.backlog.into());
        object.insert("netns".into(), event.namespace.into());
        object.insert("errno".into(), event.result.err().unwrap_or(0).into());
        object
    }
}

/// The protocol with the version of the addresses, such as `TCPv4`.
fn proto(event: &Listen) -> String {
    format!("{}v{}", protocol(event.protocol), version(&event.address))
}
