//! `bitesize`: how large requests to block devices are, by who makes them.

use clap::{ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_ebpf::events::block::Kind;
use kld_ebpf::events::text;
use kld_ebpf::probe::BiteSize;

use crate::args::wanted;
use crate::disk;
use crate::histogram::{Distribution, KIBIBYTES, Labels, Unit};
use crate::stream::set_flags;
use crate::tables::{self, common, quantiles, timestamp};
use crate::view::View;

pub const TOOL: Tool = Tool { name: "bitesize", about: kld_catalog::about("bitesize"), command, run };

fn command() -> Command {
    common(Command::new("bitesize"))
        .args([timestamp(), quantiles(), disk::only()])
        .after_help(
            "Examples:\n  bitesize -d 30\n  bitesize 5 --quantiles\n  bitesize --disk sda -c dd --json\n\n\
             In KiB, of requests that have ended, by the name of the thread that made them. Flushes have no size: they \
             count as 0.",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let mut wanted = wanted(matches)?;
    disk::want(matches, &mut wanted)?;
    tables::run::<BiteSize>(context, matches, &wanted, set_flags(matches, &["timestamp", "quantiles"]))
}

impl Distribution for BiteSize {
    fn metric(_: &View) -> (&'static str, &'static str) {
        ("block_request_size", "How large requests to block devices were.")
    }

    fn unit(_: &View) -> Unit {
        KIBIBYTES
    }

    fn labels(key: &Kind, _: &View) -> Labels {
        vec![("comm", text(&key.name).into())]
    }
}
