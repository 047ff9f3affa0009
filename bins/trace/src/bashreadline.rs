//! `bashreadline`: which lines people give to bash.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_ebpf::libraries;
use kld_ebpf::probe::LineRead;
use serde_json::{Map, Value};

use crate::args::{common, flag, wanted};
use crate::stream::{Lines, run as stream, set_flags};
use crate::view::{Extra, View, shown};

pub const TOOL: Tool = Tool { name: "bashreadline", about: kld_catalog::about("bashreadline"), command, run };

const EXTRA: &[Extra] = &[("print-uid", 6, "UID"), ("owner", 16, "OWNER")];

fn command() -> Command {
    common(Command::new("bashreadline"))
        .args([
            Arg::new("shared")
                .long("shared")
                .short('s')
                .value_name("FILE")
                .action(ArgAction::Append)
                .value_parser(clap::value_parser!(PathBuf))
                .help("The shell, or the readline library, that is looked at; may be given several times"),
            flag("print-uid", 'U', "Show the user's number"),
            flag("owner", 'o', "Show the container or machine"),
        ])
        .after_help(
            "Examples:\n  bashreadline\n  bashreadline -u root --json\n  bashreadline -s /lib/x86_64-linux-gnu/libreadline.so.8\n\n\
             A line when it was read, before it is run; what a script runs is not read so. Bash is looked at where it \
             holds the function readline itself, as Debian's does; where it does not, name the library.",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let mut wanted = wanted(matches)?;
    wanted.filter.files = match matches.get_many::<PathBuf>("shared") {
        Some(given) => given.cloned().collect(),
        None => vec![PathBuf::from(libraries::BASH)],
    };
    stream::<LineRead>(context, &wanted, set_flags(matches, &["print-uid", "owner"]))
}

impl Lines for LineRead {
    fn heading(view: &View) -> String {
        format!("{:<9} {}{:<7} COMMAND", "TIME", view.extra_heading(EXTRA), "PID")
    }

    fn line(event: &LineRead, view: &mut View) -> String {
        let (time, extra) = (view.time_of_day(event.task.time), view.extra(EXTRA, &event.task));
        format!("{time:<9} {extra}{:<7} {}", event.task.pid, shown(&event.line))
    }

    fn json(event: &LineRead, view: &mut View) -> Map<String, Value> {
        let mut object = view.json(&event.task);
        object.insert("line".into(), event.line.to_string_lossy().into());
        object
    }
}
