//! `kvm-template`: freezes a machine as a template, or thaws it.

use clap::{ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};

use crate::args::{dry_run, flag, name, name_arg, show_plan, store, with_store};
use crate::host::machines;

pub const TOOL: Tool = Tool { name: "kvm-template", about: kld_catalog::about("kvm-template"), command, run };

fn command() -> Command {
    Command::new("kvm-template")
        .args([name_arg("name", "The machine"), flag("undo", "Thaw it: it can be started again"), dry_run(), store()])
        .after_help(
            "Examples:\n  kvm-template debian-13\n  kvm-template debian-13 --undo\n\n\
             A template cannot be started by accident, by virsh neither, and so it never changes under its clones.",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let name = name(matches, "name")?;
    let template = !matches.get_flag("undo");
    let context = &with_store(context, matches)?;
    let machines = machines(context)?;
    if matches.get_flag("dry-run") {
        return show_plan(context, &machines.plan_template(&name, template)?);
    }
    let change = machines.set_template(&name, template)?;
    if context.ui.json {
        let changed = change.is_changed();
        return context.ui.json(
            &serde_json::json!({"version": 1, "name": name, "template": template, "changed": changed}),
        );
    }
    let what = if template { "a template" } else { "an ordinary machine" };
    let already = if change.is_changed() { "now" } else { "already" };
    context.ui.line(format!("{name} is {already} {what}"))
}
