//! `kvm-clone`: one machine into one or many.

use std::time::Instant;

use clap::{Arg, ArgMatches, Command, value_parser};
use kld_core::store::{CloneKind, Consistency};
use kld_core::tool::{Context, Tool};
use kld_core::{Error, MachineName, Result};
use kld_kvm::machine::{CloneReport, CloneRequest};

use crate::args::{dry_run, flag, name, name_arg, names, show_plan, store, tag, tag_arg, with_store};
use crate::host::machines;

/// The most clones of one call.
const MOST: u32 = 1000;

pub const TOOL: Tool = Tool { name: "kvm-clone", about: kld_catalog::about("kvm-clone"), command, run };

fn command() -> Command {
    Command::new("kvm-clone")
        .args([
            name_arg("source", "The machine to clone").value_name("SRC"),
            name_arg("names", "The new machines").value_name("NEW").required(false).num_args(0..),
            Arg::new("count").long("count").value_name("N").value_parser(value_parser!(u32).range(1..=MOST as i64)).requires("prefix").help("Make N clones, named by --prefix and a number"),
            Arg::new("prefix").long("prefix").value_name("PREFIX").requires("count").help("What the numbered clones' names begin with, such as web-"),
            tag_arg("snapshot", "Clone this snapshot instead of the machine as it is now").long("snapshot"),
            flag("full", "Copy everything: the clone shares nothing with its source"),
            flag("no-seed", "Add no NoCloud seed with the host name and a fresh instance id"),
            flag("start", "Start the clones"),
            dry_run(),
            store(),
        ])
        .after_help(
            "Examples:\n  kvm-clone template web-5\n  kvm-clone template web-1 web-2 --start\n  \
             kvm-clone template --count 10 --prefix web-\n  kvm-clone db db-test --snapshot before-upgrade\n\n\
             All clones come to be, or none. A running source is cloned as it stands: its guest agent freezes it \
             for the moment where there is one, and the output says which it was.",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let source = name(matches, "source")?;
    let mut request = CloneRequest::new(source, new_names(matches)?);
    request.snapshot = tag(matches, "snapshot")?;
    request.kind = if matches.get_flag("full") { CloneKind::Full } else { CloneKind::Linked };
    request.seed = !matches.get_flag("no-seed");
    let context = &with_store(context, matches)?;
    let machines = machines(context)?;
    if matches.get_flag("dry-run") {
        return show_plan(context, &machines.plan_clone(&request)?);
    }
    let began = Instant::now();
    let progress = context.ui.progress(format!("cloning {}", request.source));
    let report = machines.clone_machine(&request)?;
    drop(progress);
    let seconds = began.elapsed().as_secs_f64();
    report.notes.iter().for_each(|note| context.ui.note(note));
    show(context, &report, seconds)?;
    if matches.get_flag("start") {
        request.names.iter().try_for_each(|name| machines.start(name).map(drop))?;
    }
    Ok(())
}

fn show(context: &Context, report: &CloneReport, seconds: f64) -> Result<()> {
    if context.ui.json {
        return context.ui.json(&serde_json::json!({"version": 1, "clone": report, "seconds": seconds}));
    }
    let how = match report.consistency {
        Consistency::Stopped => String::new(),
        running => format!(" ({running})"),
    };
    for clone in &report.clones {
        context.ui.line(format!("{} cloned from {}{how}", clone.name, report.source))?;
    }
    Ok(())
}

/// The names that are written out, and the numbered ones.
fn new_names(matches: &ArgMatches) -> Result<Vec<MachineName>> {
    let mut all = names(matches, "names")?;
    if let (Some(count), Some(prefix)) =
        (matches.get_one::<u32>("count"), matches.get_one::<String>("prefix"))
    {
        let numbered: Result<Vec<_>> =
            (1..=*count).map(|n| MachineName::parse(&format!("{prefix}{n}"))).collect();
        all.extend(numbered?);
    }
    match all.is_empty() {
        true => Err(Error::usage("no name is given for the clone")
            .with_hint("write kvm-clone SRC NEW..., or --count N --prefix PREFIX")),
        false => Ok(all),
    }
}
