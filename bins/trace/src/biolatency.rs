//! `biolatency`: how long block devices take.

use clap::{ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_ebpf::events::block::Kind;
use kld_ebpf::events::text;
use kld_ebpf::probe::BioLatency;
use serde_json::{Map, Value};

use crate::args::{flag, wanted};
use crate::histogram::{Distribution, Labels};
use crate::stream::set_flags;
use crate::tables::{self, Rows, common, regroup, times};
use crate::view::View;
use crate::{disk, place};

pub const TOOL: Tool = Tool { name: "biolatency", about: kld_catalog::about("biolatency"), command, run };

const FLAGS: &[&str] = &["timestamp", "milliseconds", "quantiles", "queued", "disks", "flags"];

fn command() -> Command {
    common(Command::new("biolatency"))
        .args(times())
        .args([
            flag("queued", 'Q', "Count the time in the queue too: from when a request is made"),
            flag("disks", 'D', "A distribution for each disk"),
            place::by().conflicts_with("disks"),
            flag("flags", 'F', "A distribution for each kind of request"),
            disk::only(),
        ])
        .after_help(
            "Examples:\n  biolatency 1 10\n  biolatency -D -m -d 30\n  biolatency -Q -F --disk sda\n  \
             biolatency -D --prometheus /var/lib/node_exporter/biolatency.prom\n  biolatency --by machine 5\n\n\
             Of devices that take requests; with --by also of those that pass on what they get, as zvols, RAID and \
             device mapper do: what goes through one of these to a disk is then told of both. The flags that say whose follow who made the request, which for writes is often the kernel's own \
             writer.",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let flags = set_flags(matches, FLAGS);
    let mut wanted = wanted(matches)?;
    disk::want(matches, &mut wanted)?;
    let own =
        [("queued", BioLatency::QUEUED), ("disks", BioLatency::BY_DISK), ("flags", BioLatency::BY_FLAGS)];
    wanted.filter.switches |= tables::switches(&flags, &own);
    if place::want(matches, &mut wanted) {
        wanted.filter.switches |= BioLatency::BY_DISK;
    }
    tables::run::<BioLatency>(context, matches, &wanted, flags)
}

impl Distribution for BioLatency {
    fn metric(_: &View) -> (&'static str, &'static str) {
        ("block_latency", "How long requests to block devices took.")
    }

    fn labels(key: &Kind, view: &View) -> Labels {
        let mut labels = view.places.as_ref().map(|places| places.labels(&key.name)).unwrap_or_default();
        if view.has("disks") {
            labels.push(("disk", text(&key.name).into()));
        }
        if view.has("flags") {
            labels.push(("flags", disk::words(key.flags as u32).into()));
        }
        labels
    }

    fn details(key: &Kind, view: &View) -> Map<String, Value> {
        place::details(&key.name, view)
    }

    fn settle(rows: Rows<Self>, view: &mut View) -> Rows<Self> {
        match &mut view.places {
            Some(places) => regroup(rows, |key| Kind { name: places.mark(&key.name), ..key }),
            None => rows,
        }
    }
}
