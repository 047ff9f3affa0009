//! `kvm-snap`: snapshots of a whole machine.

use clap::{ArgMatches, Command};
use kld_core::tool::{Context, Tool};
use kld_core::{MachineName, Result, SnapshotTag, time};
use kld_kvm::machine::RollbackRequest;

use crate::args::{dry_run, flag, name, name_arg, show_plan, store, tag, tag_arg, with_store};
use crate::host::machines;

pub const TOOL: Tool = Tool { name: "kvm-snap", about: kld_catalog::about("kvm-snap"), command, run };

fn command() -> Command {
    let tag = |help: &'static str| tag_arg("tag", help);
    Command::new("kvm-snap")
        .arg(name_arg("name", "The machine"))
        .arg(store().global(true))
        .subcommand_required(false)
        .subcommands([
            Command::new("create").about("Take a snapshot").args([tag("Its tag; today's date and time unless given"), dry_run()]),
            Command::new("list").about("List the snapshots (what no command does too)"),
            Command::new("rollback").about("Make the machine what it was").args([
                tag("The snapshot to go back to").required(true),
                flag("discard-newer", "Give up the snapshots that are newer").short('r'),
                dry_run(),
            ]),
            Command::new("delete").about("Delete a snapshot").args([tag("The snapshot to delete").required(true), dry_run()]),
        ])
        .after_help(
            "Examples:\n  kvm-snap web-5 create before-upgrade\n  kvm-snap web-5\n  kvm-snap web-5 rollback before-upgrade\n  \
             kvm-snap web-5 delete before-upgrade\n\n\
             A snapshot holds all disks, the definition and the UEFI variables. On the directory store, the disks of a \
             running machine are switched in one QEMU transaction, frozen by the guest's agent where it answers; a \
             rollback wants the machine off.",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let name = name(matches, "name")?;
    let context = &with_store(context, matches)?;
    match matches.subcommand() {
        Some(("create", matches)) => create(context, &name, matches),
        Some(("rollback", matches)) => rollback(context, name, matches),
        Some(("delete", matches)) => delete(context, &name, matches),
        _ => list(context, &name),
    }
}

fn create(context: &Context, name: &MachineName, matches: &ArgMatches) -> Result<()> {
    let tag = match tag(matches, "tag")? {
        Some(tag) => tag,
        None => SnapshotTag::parse(&time::rfc3339(time::now()).replace(':', ""))?,
    };
    let machines = machines(context)?;
    if matches.get_flag("dry-run") {
        return show_plan(context, &machines.plan_snapshot(name, &tag)?);
    }
    let report = machines.snapshot(name, &tag)?;
    match context.ui.json {
        true => context.ui.json(&serde_json::json!({"version": 1, "snapshot": report})),
        false => context.ui.line(format!("{name}@{tag} taken ({})", report.consistency)),
    }
}

/// The tag of a command that must have one.
fn given_tag(matches: &ArgMatches) -> Result<SnapshotTag> {
    tag(matches, "tag")?.map_or_else(|| SnapshotTag::parse(""), Ok)
}

fn list(context: &Context, name: &MachineName) -> Result<()> {
    let report = machines(context)?.show(name)?;
    if context.ui.json {
        return context.ui.json(&serde_json::json!({"version": 1, "snapshots": report.snapshots}));
    }
    let rows: Vec<[String; 3]> = report
        .snapshots
        .iter()
        .map(|one| [one.tag.to_string(), time::rfc3339(one.created), one.consistency.to_string()])
        .collect();
    context.ui.table(["TAG", "TAKEN", "CONSISTENCY"], &rows)
}

fn rollback(context: &Context, machine: MachineName, matches: &ArgMatches) -> Result<()> {
    let tag = given_tag(matches)?;
    let request = RollbackRequest { machine, tag, discard_newer: matches.get_flag("discard-newer") };
    let machines = machines(context)?;
    if matches.get_flag("dry-run") {
        return show_plan(context, &machines.plan_rollback(&request)?);
    }
    let report = machines.rollback(&request)?;
    if context.ui.json {
        return context.ui.json(&serde_json::json!({"version": 1, "rollback": report}));
    }
    let discarded: Vec<String> = report.discarded.iter().map(|tag| format!(", {tag} discarded")).collect();
    context.ui.line(format!("{} is back at {}{}", report.machine, report.tag, discarded.concat()))
}

fn delete(context: &Context, name: &MachineName, matches: &ArgMatches) -> Result<()> {
    let tag = given_tag(matches)?;
    let machines = machines(context)?;
    if matches.get_flag("dry-run") {
        return show_plan(context, &machines.plan_drop_snapshot(name, &tag)?);
    }
    let plan = machines.drop_snapshot(name, &tag)?;
    for step in plan.steps.iter().filter(|step| step.verb == "keep") {
        context.ui.note(format!("{} stays: {}", step.object, step.detail));
    }
    match context.ui.json {
        true => context.ui.json(&serde_json::json!({"version": 1, "machine": name, "deleted": tag})),
        false => context.ui.line(format!("{name}@{tag} deleted")),
    }
}
