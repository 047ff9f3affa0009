//! `gethostlatency`: how long programs look up hosts' names.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_ebpf::libraries;
use kld_ebpf::probe::HostLookup;
use serde_json::{Map, Value};

use crate::args::{common, flag, wanted};
use crate::slow::milliseconds;
use crate::stream::{Lines, run as stream, set_flags};
use crate::view::{Extra, View, comm, shown};

pub const TOOL: Tool =
    Tool { name: "gethostlatency", about: kld_catalog::about("gethostlatency"), command, run };

const EXTRA: &[Extra] = &[("owner", 16, "OWNER")];

fn command() -> Command {
    common(Command::new("gethostlatency"))
        .args([
            Arg::new("libc")
                .long("libc")
                .short('l')
                .value_name("FILE")
                .action(ArgAction::Append)
                .value_parser(clap::value_parser!(PathBuf))
                .help("The C library that is looked at; may be given several times"),
            flag("owner", 'o', "Show the container or machine"),
        ])
        .after_help(
            "Examples:\n  gethostlatency\n  gethostlatency -p 1234\n  gethostlatency --libc /srv/web/lib/libc.so.6 --json\n\n\
             A line when getaddrinfo(3), gethostbyname(3) or gethostbyname2(3) has ended. Seen is who uses the C \
             library of the processes that are given, else that of this host; not who asks a name server itself, as \
             programs in Go do.",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let mut wanted = wanted(matches)?;
    wanted.filter.files = match matches.get_many::<PathBuf>("libc") {
        Some(given) => given.cloned().collect(),
        None => libraries::of_processes(&wanted.filter.pids, libraries::is_libc)?,
    };
    stream::<HostLookup>(context, &wanted, set_flags(matches, &["owner"]))
}

impl Lines for HostLookup {
    fn heading(view: &View) -> String {
        let own = format!("{:<9} {:<7} {:<16} {:>10} HOST", "TIME", "PID", "COMM", "LATms");
        view.extra_heading(EXTRA) + &own
    }

    fn line(event: &HostLookup, view: &mut View) -> String {
        let task = &event.task;
        let (time, taken, host) =
            (view.time_of_day(task.time), milliseconds(event.taken), shown(&event.host));
        let own = format!("{time:<9} {:<7} {:<16} {taken:>10} {host}", task.pid, comm(task));
        view.extra(EXTRA, task) + &own
    }

    fn json(event: &HostLookup, view: &mut View) -> Map<String, Value> {
        let mut object = view.json(&event.task);
        object.insert("call".into(), event.call.into());
        object.insert("host".into(), event.host.to_string_lossy().into());
        object.insert("taken_s".into(), event.taken.as_secs_f64().into());
        object.insert("result".into(), event.result.err().unwrap_or(0).into());
        object
    }
}
