//! `why-slow`: why this host is slow, the worst first.

use std::time::Duration;

use clap::{Arg, ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_core::ui::printable;
use kld_ebpf::why::{Blind, Evidence, Finding, Watch, figures, judge};
use serde_json::{Map, Value, json};

use crate::impossible::OF_HOSTS;
use crate::{args, stop};

pub const TOOL: Tool = Tool { name: "why-slow", about: kld_catalog::about("why-slow"), command, run };

fn command() -> Command {
    OF_HOSTS
        .of(Command::new("why-slow"))
        .arg(
            Arg::new("seconds")
                .long("seconds")
                .short('s')
                .visible_short_alias('d')
                .visible_alias("duration")
                .value_name("TIME")
                .value_parser(args::interval)
                .default_value("10")
                .help("Watch for so many seconds (10, 0.5) or as written (10s, 5m); Ctrl-C ends it before"),
        )
        .after_help(
            "Looked at: the run queue, disks, TCP's losses and connections, memory, kills for want of it, control groups' \
             limits, ZFS's cache, and the kernel's own pressure figures. A score is the part of the time that somebody \
             wanted to go on and could not, from 0 to 1, weighed by how unusual that is; below 0.05 nothing is wrong.\n\n\
             Exit code: 0 wherever it could look, whatever it has found; 1 where it could look at nothing.\n\n\
             Examples:\n  why-slow\n  why-slow --seconds 60\n  why-slow --json | jq '.findings[0]'",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    OF_HOSTS.refuse(matches)?;
    stop::on_signals();
    let mut watch = Watch::start()?;
    let time = matches.get_one::<Duration>("seconds").copied().unwrap_or_default();
    watch.wait(time, stop::is_asked);
    let evidence = watch.end()?;
    let findings = judge(&evidence);
    if context.ui.json {
        return context.ui.line(json(&findings, &evidence));
    }
    context.ui.raw(page(&findings, &evidence).as_bytes())
}

fn json(findings: &[Finding], evidence: &Evidence) -> Value {
    let seen = figures(evidence).into_iter().map(|(name, what)| (name.to_string(), what.into()));
    json!({"findings": findings, "figures": Map::from_iter(seen), "evidence": evidence})
}

/// All on one page: what is wrong, what was seen, and what could not be looked at.
fn page(findings: &[Finding], evidence: &Evidence) -> String {
    let mut page = format!("watched {:.1} s\n\n", evidence.seconds);
    if findings.is_empty() {
        page += "nothing wrong\n";
    }
    for (number, finding) in (1..).zip(findings) {
        page += &format!("{number}. {:.2} {}\n", finding.score, printable(&finding.title));
        finding.evidence.iter().for_each(|line| page += &format!("        {}\n", printable(line)));
    }
    page += "\nseen\n";
    for (name, what) in figures(evidence) {
        page += &format!("  {name:<12} {}\n", printable(&what));
    }
    if evidence.lost > 0 {
        page += &format!("  {:<12} {} events came faster than they were read\n", "lost", evidence.lost);
    }
    evidence.blind.iter().for_each(|blind| page += &format!("\n{}\n", unseen(blind)));
    page
}

fn unseen(blind: &Blind) -> String {
    printable(&format!("not looked at with {}: {}", blind.probes.join(", "), blind.why))
}
