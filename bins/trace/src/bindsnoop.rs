//! `bindsnoop`: which sockets are bound to which addresses, by whom, and how that ended.

use clap::{ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_ebpf::probe::Bind;
use serde_json::{Map, Value};

use crate::args::{common, flag, port, port_argument, wanted};
use crate::stream::{Lines, run as stream, set_flags};
use crate::view::{Extra, View, comm, errno, protocol};

pub const TOOL: Tool = Tool { name: "bindsnoop", about: kld_catalog::about("bindsnoop"), command, run };

const EXTRA: &[Extra] = &[("timestamp", 9, "TIME(s)"), ("print-uid", 6, "UID"), ("owner", 16, "OWNER")];

fn command() -> Command {
    common(Command::new("bindsnoop"))
        .args([
            flag("timestamp", 't', "Show when, in seconds since the tool began"),
            flag("print-uid", 'U', "Show the user"),
            flag("owner", 'o', "Show the container or machine"),
            flag("errors", 'E', "What has failed too, and the error in a column RC"),
            flag("wide", 'w', "A wide column for the address: those of version 6 fit"),
            port("Only this port"),
        ])
        .after_help(
            "Examples:\n  bindsnoop\n  bindsnoop -E -t\n  bindsnoop -P 443 --json\n\n\
             OPTS are F freebind, T transparent, N bind address without port, R reuse address, r reuse port. IF is the \
             number of the interface that the socket is bound to, 0 for none.",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let mut wanted = wanted(matches)?;
    wanted.filter.argument = port_argument(matches);
    let flags = set_flags(matches, &["timestamp", "print-uid", "owner", "errors", "wide"]);
    if flags.contains(&"errors") {
        wanted.filter.switches |= Bind::FAILED;
    }
    stream::<Bind>(context, &wanted, flags)
}

/// How wide an address may be.
fn width(view: &View) -> usize {
    if view.has("wide") { 39 } else { 15 }
}

/// The options' letters, as bcc writes them.
fn letters(options: u32) -> String {
    let all = [
        (Bind::FREEBIND, 'F'),
        (Bind::TRANSPARENT, 'T'),
        (Bind::NO_PORT, 'N'),
        (Bind::REUSE_ADDRESS, 'R'),
        (Bind::REUSE_PORT, 'r'),
    ];
    all.iter().map(|(option, letter)| if options & option != 0 { *letter } else { '.' }).collect()
}

impl Lines for Bind {
    fn heading(view: &View) -> String {
        let error = if view.has("errors") { format!("{:<15} ", "RC") } else { String::new() };
        let names = ["PID", "COMM", "PROT", "ADDR", "PORT", "OPTS", "IF"];
        view.extra_heading(EXTRA)
            + &error
            + &format!(
                "{:>8} {:<12} {:<4} {:<width$} {:<5} {:>5} {:>2}",
                names[0],
                names[1],
                names[2],
                names[3],
                names[4],
                names[5],
                names[6],
                width = width(view)
            )
    }

    fn line(event: &Bind, view: &mut View) -> String {
        let task = &event.task;
        let result = event.result.map_or_else(errno, |()| "OK".to_string());
        let error = if view.has("errors") { format!("{result:<15} ") } else { String::new() };
        let (address, port, interface) =
            (event.address.ip().to_string(), event.address.port(), event.interface);
        let (name, options, width) = (protocol(event.protocol), letters(event.options), width(view));
        let own = format!(
            "{:>8} {:<12.12} {name:<4.4} {address:<width$} {port:<5} {options:>5} {interface:>2}",
            task.pid,
            comm(task)
        );
        view.extra(EXTRA, task) + &error + &own
    }

    fn json(event: &Bind, view: &mut View) -> Map<String, Value> {
        let mut object = view.json(&event.task);
        object.insert("protocol".into(), protocol(event.protocol).into());
        object.insert("address".into(), event.address.ip().to_string().into());
        object.insert("port".into(), event.address.port().into());
        object.insert("options".into(), letters(event.options).replace('.', "").into());
        object.insert("interface".into(), event.interface.into());
        object.insert("errno".into(), event.result.err().unwrap_or(0).into());
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_letters() {
        let some = Bind::TRANSPARENT | Bind::REUSE_PORT;
        assert_eq!([0, some, 31].map(letters), [".....", ".T..r", "FTNRr"]);
    }
}
