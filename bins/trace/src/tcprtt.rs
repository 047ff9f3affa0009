//! `tcprtt`: how long packets of TCP connections go there and back.

use clap::{Arg, ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_ebpf::events::tcp::Address;
use kld_ebpf::probe::TcpRtt;

use crate::args::{flag, wanted};
use crate::histogram::{Distribution, Labels};
use crate::impossible::OF_ROUND_TRIPS;
use crate::stream::set_flags;
use crate::tables::{self, of_all, times};
use crate::view::View;

pub const TOOL: Tool = Tool { name: "tcprtt", about: kld_catalog::about("tcprtt"), command, run };

const FLAGS: &[&str] = &["timestamp", "milliseconds", "quantiles", "byladdr", "byraddr"];

fn command() -> Command {
    let port = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("PORT").value_parser(clap::value_parser!(u16)).help(help)
    };
    OF_ROUND_TRIPS
        .of(of_all(Command::new("tcprtt")))
        .args(times())
        .args([
            flag("byladdr", 'b', "A distribution for each local address").conflicts_with("byraddr"),
            flag("byraddr", 'B', "A distribution for each remote address"),
            port("lport", "Only connections with this local port"),
            port("rport", "Only connections with this remote port"),
        ])
        .after_help(
            "Examples:\n  tcprtt 1 10\n  tcprtt -B --rport 443 -d 30\n  tcprtt --lport 22 -m --json 5\n\n\
             The smoothed round-trip time that a connection has when a packet comes for it. Packets come on behalf of \
             nobody, so there are no flags that say whose.",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    OF_ROUND_TRIPS.refuse(matches)?;
    let flags = set_flags(matches, FLAGS);
    let mut wanted = wanted(matches)?;
    let own = [("byladdr", TcpRtt::BY_LOCAL), ("byraddr", TcpRtt::BY_REMOTE)];
    wanted.filter.switches |= tables::switches(&flags, &own);
    for (id, variable) in [("lport", TcpRtt::ONLY_LOCAL), ("rport", TcpRtt::ONLY_REMOTE)] {
        wanted.filter.numbers.extend(matches.get_one::<u16>(id).map(|port| (variable, u32::from(*port))));
    }
    tables::run::<TcpRtt>(context, matches, &wanted, flags)
}

impl Distribution for TcpRtt {
    fn metric(_: &View) -> (&'static str, &'static str) {
        ("tcp_rtt", "Round-trip times of TCP connections.")
    }

    fn labels(key: &Address, view: &View) -> Labels {
        let name = match (view.has("byladdr"), view.has("byraddr")) {
            (true, _) => "local_address",
            (_, true) => "remote_address",
            _ => return vec![],
        };
        vec![(name, TcpRtt::address(key).to_string().into())]
    }
}
