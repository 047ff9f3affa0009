//! `biosnoop`: each request to a block device, with who made it and how long it took.

use clap::{ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_core::ui::printable;
use kld_ebpf::Btf;
use kld_ebpf::events::text;
use kld_ebpf::probe::{BioSnoop, PASSED_ON};
use serde_json::{Map, Value};

use crate::args::{common, flag, wanted};
use crate::disk;
use crate::place::{By, Places};
use crate::stream::{Lines, run as stream, set_flags};
use crate::tables;
use crate::view::{View, comm};

pub const TOOL: Tool = Tool { name: "biosnoop", about: kld_catalog::about("biosnoop"), command, run };

fn command() -> Command {
    common(Command::new("biosnoop"))
        .args([
            flag("queue", 'Q', "Show the time in the queue"),
            flag("zvols", 'Z', "See disks that pass on what they get, as ZFS volumes, too, with machine and dataset"),
            disk::only(),
        ])
        .after_help(
            "Examples:\n  biosnoop\n  biosnoop -Q --disk sda\n  biosnoop -p 1234 --json -d 60\n  biosnoop -Z\n\n\
             A line when a request has ended. T is what it does: Read, Write, Flush, Discard, Erase, write Zeroes; \
             QUE(ms) the time from when it was made until the device got it, LAT(ms) that from then to its end. Of \
             devices that take requests; with -Z also of those that pass on what they get, as zvols, RAID and device \
             mapper do: what goes through one of these to a disk is then told of both.",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let mut wanted = wanted(matches)?;
    disk::want(matches, &mut wanted)?;
    let flags = set_flags(matches, &["queue", "zvols"]);
    wanted.filter.switches |= tables::switches(&flags, &[("zvols", PASSED_ON)]);
    stream::<BioSnoop>(context, &wanted, flags)
}

impl Lines for BioSnoop {
    fn prepare(_: &Btf, view: &mut View) {
        view.places = view.has("zvols").then(|| Places::new(By::Zvol));
    }

    fn heading(view: &View) -> String {
        let queue = if view.has("queue") { format!(" {:>7}", "QUE(ms)") } else { String::new() };
        let names = ["TIME(s)", "COMM", "PID", "DISK", "T", "SECTOR", "BYTES"];
        let place = if view.has("zvols") { format!(" {:<16} DATASET", "MACHINE") } else { String::new() };
        format!(
            "{:<11} {:<14} {:<7} {:<9} {} {:<10} {:<7}{queue} {:>7}{place}",
            names[0], names[1], names[2], names[3], names[4], names[5], names[6], "LAT(ms)"
        )
    }

    fn line(event: &BioSnoop, view: &mut View) -> String {
        let queue = match view.has("queue") {
            true => format!(" {:>7.2}", event.queued.as_secs_f64() * 1e3),
            false => String::new(),
        };
        let (time, disk, letter) =
            (view.since(event.ended), printable(text(&event.disk)), disk::letter(event.flags));
        let place = view.places.as_mut().map(|places| places.of(text(&event.disk)));
        let place = place.map_or(String::new(), |place| {
            let column = |text: Option<&str>| text.map_or("-".to_string(), printable);
            format!(" {:<16} {}", column(place.machine()), column(place.dataset()))
        });
        format!(
            "{time:<11.6} {:<14.14} {:<7} {disk:<9} {letter} {:<10} {:<7}{queue} {:>7.2}{place}",
            comm(&event.task),
            event.task.pid,
            event.sector,
            event.bytes,
            event.taken.as_secs_f64() * 1e3
        )
    }

    fn json(event: &BioSnoop, view: &mut View) -> Map<String, Value> {
        let mut object = view.json(&event.task);
        object.insert("ended_ns".into(), view.wall(event.ended).into());
        object.insert("disk".into(), text(&event.disk).into());
        if let Some(places) = &mut view.places {
            object.extend(places.of(text(&event.disk)).json());
        }
        object.insert("operation".into(), disk::words(event.flags).into());
        object.insert("sector".into(), event.sector.into());
        object.insert("bytes".into(), event.bytes.into());
        object.insert("queued_s".into(), event.queued.as_secs_f64().into());
        object.insert("taken_s".into(), event.taken.as_secs_f64().into());
        object
    }
}
