//! `kld doctor`: asks every family's program what serves on this host.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, Command};
use kld_catalog::FAMILIES;
use kld_core::exec::Exec;
use kld_core::probe::{Probe, Verdict};
use kld_core::tool::{report, report_clap};
use kld_core::ui::Ui;
use kld_core::{Error, Result};

fn command() -> Command {
    Command::new("kld doctor")
        .about("Show what serves on this host, what does not and why, and the remedy")
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print JSON for programs"))
        .arg(
            Arg::new("set")
                .long("set")
                .value_name("KEY=VALUE")
                .action(ArgAction::Append)
                .help("Override one setting"),
        )
}

pub fn main(args: &[OsString]) -> ExitCode {
    let name = OsString::from("kld doctor");
    let matches = match command().try_get_matches_from(std::iter::once(&name).chain(args)) {
        Ok(matches) => matches,
        Err(error) => return report_clap(&error),
    };
    let ui = Ui { json: matches.get_flag("json"), quiet: false };
    let settings: Vec<&String> = matches.get_many("set").into_iter().flatten().collect();
    let probes: Vec<Probe> = FAMILIES.iter().flat_map(|family| ask(family.program, &settings)).collect();
    report(&ui, show(&ui, &probes))
}

/// One family's probes; a family that cannot be asked is a finding too.
fn ask(program: &str, settings: &[&String]) -> Vec<Probe> {
    let answer = crate::run::program(program)
        .ok_or_else(|| Error::message("it is not installed"))
        .and_then(|path| {
            let set = settings.iter().flat_map(|setting| ["--set", setting.as_str()]);
            Exec::at(&path)
                .arg("__probe")
                .args(set)
                .keep_environment("KLD_")
                .limit(Duration::from_secs(90))
                .run()
        })
        .and_then(|finished| {
            serde_json::from_slice(&finished.stdout)
                .map_err(|cause| Error::failed("it answered nonsense", cause))
        });
    match answer {
        Ok(probes) => probes,
        Err(error) => {
            vec![Probe::absent(program, error.to_string(), format!("install {program} beside kld"))]
        }
    }
}

fn show(ui: &Ui, probes: &[Probe]) -> Result<()> {
    if ui.json {
        return ui.json(&serde_json::json!({"version": 1, "probes": probes}));
    }
    for probe in probes {
        let verdict = match probe.verdict {
            Verdict::Serves => "serves",
            Verdict::Limited => "limited",
            Verdict::Absent => "absent",
        };
        ui.line(format!("{verdict:<8} {}: {}", probe.subject, probe.finding))?;
        if let Some(remedy) = &probe.remedy {
            ui.line(format!("         remedy: {remedy}"))?;
        }
    }
    Ok(())
}
