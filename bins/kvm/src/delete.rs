//! `kvm-delete`: machines, with everything they took.

use clap::{ArgMatches, Command};
use kld_core::tool::{Context, Tool};
use kld_core::{ByteSize, Result};
use kld_kvm::machine::{Clones, DeleteRequest};

use crate::args::{dry_run, flag, names, names_arg, show_plan, store, with_store};
use crate::host::machines;

pub const TOOL: Tool = Tool { name: "kvm-delete", about: kld_catalog::about("kvm-delete"), command, run };

fn command() -> Command {
    Command::new("kvm-delete")
        .args([
            names_arg("names", "The machines to delete"),
            flag("force", "Take the power away from those that run").short('f'),
            flag("promote", "Let their clones stand without them").conflicts_with("recursive"),
            flag("recursive", "Delete their clones too, and theirs").short('r'),
            dry_run(),
            store(),
        ])
        .after_help(
            "Examples:\n  kvm-delete web-5\n  kvm-delete web-1 web-2 --force\n  kvm-delete template --promote\n\n\
             Snapshots go with the machine. Files that kld did not make, such as a disk that was there before, stay.",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let clones = match (matches.get_flag("promote"), matches.get_flag("recursive")) {
        (true, _) => Clones::Promote,
        (false, true) => Clones::Delete,
        (false, false) => Clones::Refuse,
    };
    let request = DeleteRequest { names: names(matches, "names")?, force: matches.get_flag("force"), clones };
    let context = &with_store(context, matches)?;
    let machines = machines(context)?;
    if matches.get_flag("dry-run") {
        return show_plan(context, &machines.plan_delete(&request)?);
    }
    let report = machines.delete(&request)?;
    if context.ui.json {
        return context.ui.json(&serde_json::json!({"version": 1, "delete": report}));
    }
    report
        .promoted
        .iter()
        .try_for_each(|name| context.ui.line(format!("{name} stands without its origin")))?;
    report.deleted.iter().try_for_each(|name| context.ui.line(format!("{name} deleted")))?;
    if report.freeing > ByteSize::default() {
        context.ui.note(format!("{} of the space are still being freed in the background", report.freeing));
    }
    Ok(())
}
