//! `tcpconnlat`: how long outgoing TCP connections wait for their answer.

use std::time::Duration;

use clap::{Arg, ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_ebpf::probe::TcpLatency;
use serde_json::{Map, Value};

use crate::args::{common, families, family_switches, flag, wanted};
use crate::stream::{Lines, run as stream, set_flags};
use crate::view::{Extra, View, comm, flow, version};

pub const TOOL: Tool = Tool { name: "tcpconnlat", about: kld_catalog::about("tcpconnlat"), command, run };

const EXTRA: &[Extra] = &[("timestamp", 8, "TIME(s)"), ("owner", 16, "OWNER")];

fn command() -> Command {
    common(Command::new("tcpconnlat"))
        .args([
            Arg::new("least")
                .value_name("MS")
                .value_parser(milliseconds)
                .help("Only what has taken so many milliseconds"),
            flag("timestamp", 't', "Show when, in seconds since the tool began"),
            flag("lport", 'L', "Show the local port"),
            flag("owner", 'o', "Show the container or machine"),
        ])
        .args(families())
        .after_help(
            "Examples:\n  tcpconnlat\n  tcpconnlat 100 -t\n  tcpconnlat -p 1234 --json\n\n\
             From the first packet to the answer, be it that nobody listens there. What is never answered is not told: \
             see tcpconnect and tcpretrans.",
        )
}

/// Milliseconds, with or without a fraction.
fn milliseconds(text: &str) -> Result<Duration, String> {
    let number = text.parse::<f64>().map_err(|_| "it is no number".to_string())?;
    Duration::try_from_secs_f64(number / 1e3).map_err(|_| "it is no length of time".to_string())
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let mut wanted = wanted(matches)?;
    let least = matches.get_one::<Duration>("least").copied().unwrap_or_default();
    wanted.filter.argument = u64::try_from(least.as_nanos()).unwrap_or(u64::MAX);
    wanted.filter.switches |= family_switches(matches);
    stream::<TcpLatency>(context, &wanted, set_flags(matches, &["timestamp", "lport", "owner"]))
}

impl Lines for TcpLatency {
    fn heading(view: &View) -> String {
        let port = if view.has("lport") { format!("{:<6} ", "LPORT") } else { String::new() };
        let names = ["PID", "COMM", "IP", "SADDR", "DADDR", "DPORT", "LAT(ms)"];
        view.extra_heading(EXTRA)
            + &format!("{:<7} {:<12} {:<2} {:<16} {port}", names[0], names[1], names[2], names[3])
            + &format!("{:<16} {:<5} {}", names[4], names[5], names[6])
    }

    fn line(event: &TcpLatency, view: &mut View) -> String {
        let (task, ip) = (&event.task, version(&event.remote));
        let port = if view.has("lport") { format!("{:<6} ", event.local.port()) } else { String::new() };
        let (from, to) = (event.local.ip().to_string(), event.remote.ip().to_string());
        let (to_port, ms) = (event.remote.port(), event.lasted.as_secs_f64() * 1e3);
        let own = format!("{:<7} {:<12.12} {ip:<2} {from:<16} {port}", task.pid, comm(task));
        view.extra(EXTRA, task) + &own + &format!("{to:<16} {to_port:<5} {ms:.2}")
    }

    fn json(event: &TcpLatency, view: &mut View) -> Map<String, Value> {
        let mut object = view.json(&event.task);
        flow(&mut object, &event.local, &event.remote);
        object.insert("latency_s".into(), event.lasted.as_secs_f64().into());
        object.insert("refused".into(), event.refused.into());
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_wait_is_in_milliseconds() {
        assert_eq!(
            ["100", "0.5"].map(|text| milliseconds(text).ok()),
            [100_000, 500].map(|us| Some(Duration::from_micros(us)))
        );
        assert!(["", "-1", "soon", "nan"].iter().all(|text| milliseconds(text).is_err()));
    }
}
