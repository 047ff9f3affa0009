//! `tcptop`: which processes send and receive most over TCP, by connection.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_core::ui::printable;
use kld_ebpf::events::tcp::{Of, Traffic};
use kld_ebpf::events::text;
use kld_ebpf::probe::TcpTop;
use serde_json::{Map, Value, json};

use crate::args::{families, family_switches, wanted};
use crate::prometheus::{Metric, counters};
use crate::stream::set_flags;
use crate::tables::{self, Rows, Tables, common, greatest, timestamp};
use crate::view::{View, flow};

pub const TOOL: Tool = Tool { name: "tcptop", about: kld_catalog::about("tcptop"), command, run };

fn command() -> Command {
    common(Command::new("tcptop"))
        .args([timestamp(), tables::rows()])
        .args(families())
        .after_help(
            "Examples:\n  tcptop\n  tcptop 5 12 -r 10\n  tcptop -4 -p 1234 --json 1\n\n\
             A table a second unless an interval is given, the most bytes first. Bytes are those that the process has \
             given to send, and taken: what is sent again, and headers, are not among them.",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let mut wanted = wanted(matches)?;
    wanted.filter.switches |= family_switches(matches);
    tables::run::<TcpTop>(context, matches, &wanted, set_flags(matches, &["timestamp"]))
}

/// By what the greatest are chosen.
fn bytes(traffic: &Traffic) -> u64 {
    traffic.sent + traffic.received
}

/// An address and its port in one column, as bcc writes them.
fn end(address: &SocketAddr) -> String {
    format!("{}:{}", address.ip(), address.port())
}

impl Tables for TcpTop {
    const INTERVAL: Option<Duration> = Some(Duration::from_secs(1));

    fn text(rows: &Rows<Self>, view: &View) -> String {
        let all: Vec<_> =
            greatest(rows, view, bytes).into_iter().map(|(key, own)| (key, own, TcpTop::ends(key))).collect();
        let mut text = String::new();
        // As bcc's: a table for each version of the addresses, the second where there is something in it.
        for (version, width, suffix) in [(true, 21, ""), (false, 32, "6")] {
            let of_version: Vec<_> = all.iter().filter(|(_, _, ends)| ends.0.is_ipv4() == version).collect();
            if of_version.is_empty() && !version {
                continue;
            }
            let (local, remote) = (format!("LADDR{suffix}"), format!("RADDR{suffix}"));
            let names = ["PID", "COMM", "RX_KB", "TX_KB"];
            text += if text.is_empty() { "" } else { "\n" };
            text += &format!(
                "{:<7} {:<12} {local:<width$} {remote:<width$} {:>6} {:>6}\n",
                names[0], names[1], names[2], names[3]
            );
            for (key, traffic, (local, remote)) in of_version {
                text += &format!(
                    "{:<7} {:<12.12} {:<width$} {:<width$} {:>6} {:>6}\n",
                    key.pid,
                    printable(kld_ebpf::events::text(&key.comm)),
                    end(local),
                    end(remote),
                    traffic.received / 1024,
                    traffic.sent / 1024,
                );
            }
        }
        text
    }

    fn json(rows: &Rows<Self>, view: &View) -> Map<String, Value> {
        let one = |(key, traffic): (&Of, &Traffic)| {
            let mut object = Map::new();
            object.insert("pid".into(), key.pid.into());
            object.insert("comm".into(), text(&key.comm).into());
            let (local, remote) = TcpTop::ends(key);
            flow(&mut object, &local, &remote);
            object.insert("count".into(), traffic.count.into());
            object.insert("received".into(), traffic.received.into());
            object.insert("sent".into(), traffic.sent.into());
            Value::Object(object)
        };
        let all: Vec<Value> = greatest(rows, view, bytes).into_iter().map(one).collect();
        Map::from_iter([("connections".to_string(), json!(all))])
    }

    fn metrics(rows: &Rows<Self>, _: &View) -> Vec<Metric> {
        // Connections come and go: what is kept for all time is by process.
        let mut processes = std::collections::BTreeMap::new();
        for (key, traffic) in rows {
            let own: &mut Traffic = processes.entry((key.pid, key.comm)).or_default();
            kld_ebpf::events::table::Tally::merge(own, traffic);
        }
        let labels =
            |(pid, comm): &(u64, [u8; 16])| vec![("comm", text(comm).into()), ("pid", (*pid).into())];
        counters(
            &processes,
            labels,
            &[
                ("tcp_sent_bytes_total", "Bytes given to TCP to send.", |traffic| traffic.sent as f64),
                ("tcp_received_bytes_total", "Bytes taken from TCP.", |traffic| traffic.received as f64),
            ],
        )
    }
}
