//! `kvm-list`: the machines, a line each.

use clap::{ArgMatches, Command};
use kld_core::tool::{Context, Tool};
use kld_core::{ByteSize, Result};
use kld_kvm::machine::MachineReport;

use crate::args::{flag, store, with_store};
use crate::host::machines;
use crate::show::state;

pub const TOOL: Tool = Tool { name: "kvm-list", about: kld_catalog::about("kvm-list"), command, run };

fn command() -> Command {
    Command::new("kvm-list")
        .args([flag("running", "Only those that run"), flag("names", "Only the names, a line each"), store()])
        .after_help(
            "Examples:\n  kvm-list\n  kvm-list --running\n  kvm-list --json\n\n\
             USED is what deleting the machine alone would free, SHARED what it has in common with its origin or its \
             clones, SNAPSHOTS what its snapshots hold alone.",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let context = &with_store(context, matches)?;
    let mut reports = machines(context)?.list()?;
    if matches.get_flag("running") {
        reports.retain(|report| report.state.is_some_and(|state| state.is_active()));
    }
    if context.ui.json {
        return context.ui.json(&serde_json::json!({"version": 1, "machines": reports}));
    }
    if matches.get_flag("names") {
        return reports.iter().try_for_each(|report| context.ui.line(kld_core::ui::printable(&report.name)));
    }
    let heading = ["NAME", "STATE", "CPUS", "MEMORY", "USED", "SHARED", "SNAPSHOTS", "ORIGIN"];
    context.ui.table(heading, &reports.iter().map(row).collect::<Vec<_>>())
}

fn row(report: &MachineReport) -> [String; 8] {
    let size = |pick: fn(&kld_core::store::Space) -> ByteSize| {
        report.space.as_ref().map_or("-".to_string(), |space| pick(space).to_string())
    };
    let known = |text: String| if report.kind.is_empty() { "-".to_string() } else { text };
    [
        report.name.clone(),
        state(report),
        known(report.cpus.to_string()),
        known(report.memory.to_string()),
        size(|space| space.used),
        size(|space| space.shared),
        size(|space| space.snapshots),
        report.lineage.first().cloned().unwrap_or_else(|| "-".to_string()),
    ]
}
