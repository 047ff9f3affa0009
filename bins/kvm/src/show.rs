//! `kvm-show`: one machine in full.

use clap::{ArgMatches, Command};
use kld_core::hypervisor::State;
use kld_core::tool::{Context, Tool};
use kld_core::ui::printable;
use kld_core::{Result, time};
use kld_kvm::machine::MachineReport;

use crate::args::{name, name_arg, store, with_store};
use crate::host::machines;

pub const TOOL: Tool = Tool { name: "kvm-show", about: kld_catalog::about("kvm-show"), command, run };

fn command() -> Command {
    Command::new("kvm-show")
        .args([name_arg("name", "The machine"), store()])
        .after_help("Examples:\n  kvm-show web-5\n  kvm-show web-5 --json")
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let name = name(matches, "name")?;
    let context = &with_store(context, matches)?;
    let report = machines(context)?.show(&name)?;
    match context.ui.json {
        true => context.ui.json(&serde_json::json!({"version": 1, "machine": report})),
        false => lines(&report).into_iter().try_for_each(|(label, text)| {
            context.ui.line(format!("{label:<12} {}", printable(&text)).trim_end())
        }),
    }
}

/// What is shown of a machine: a label and a text a line; further lines of one subject have no label.
fn lines(report: &MachineReport) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    let mut add = |label: &'static str, text: String| lines.push((label, text));
    add("name", report.name.clone());
    add("uuid", report.uuid.to_string());
    add("state", state(report));
    if !report.kind.is_empty() {
        let emulated = if report.kind == "qemu" { " (software emulation)" } else { "" };
        add("hypervisor", format!("{}{emulated}", report.kind));
        add("cpus", report.cpus.to_string());
        add("memory", report.memory.to_string());
    }
    for (index, disk) in report.disks.iter().enumerate() {
        let size = disk.size.map(|size| format!("{size}  ")).unwrap_or_default();
        let path = disk.path.as_ref().map_or("-".to_string(), |path| path.display().to_string());
        add(
            if index == 0 { "disks" } else { "" },
            format!("{:<4} {:<6} {size}{path}", disk.target, disk.device),
        );
    }
    if let Some(space) = report.space {
        add(
            "space",
            format!("{} used, {} shared, {} by snapshots", space.used, space.shared, space.snapshots),
        );
    }
    if !report.lineage.is_empty() {
        add("cloned from", report.lineage.join(" <- "));
    }
    if !report.clones.is_empty() {
        let clones: Vec<&str> = report.clones.iter().map(|name| name.as_str()).collect();
        add("clones", clones.join(", "));
    }
    for (index, snapshot) in report.snapshots.iter().enumerate() {
        let text = format!("{}  {}  {}", snapshot.tag, time::rfc3339(snapshot.created), snapshot.consistency);
        add(if index == 0 { "snapshots" } else { "" }, text);
    }
    for (index, interface) in report.interfaces.iter().enumerate() {
        let source = interface.source.clone().unwrap_or_default();
        let mac = interface.mac.map(|mac| mac.to_string()).unwrap_or_default();
        add(if index == 0 { "interfaces" } else { "" }, format!("{mac}  {} {source}", interface.kind));
    }
    for (index, address) in report.addresses.iter().enumerate() {
        add(if index == 0 { "addresses" } else { "" }, format!("{} ({})", address.address, address.source));
    }
    for problem in &report.problems {
        add("problem", problem.clone());
    }
    lines
}

/// A machine's state in a word or two.
pub fn state(report: &MachineReport) -> String {
    match (report.state, report.template) {
        (None, _) => "no domain".to_string(),
        (Some(State::Off), true) => "template".to_string(),
        (Some(State::Off), false) if report.saved => "saved".to_string(),
        (Some(state), _) => state.to_string(),
    }
}
