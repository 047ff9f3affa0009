//! `kvm-start` and `kvm-stop`.

use std::time::Duration;

use clap::{Arg, ArgMatches, Command, value_parser};
use kld_core::tool::{Context, Tool};
use kld_core::{Change, MachineName, Result};
use kld_kvm::machine::StopRequest;

use crate::args::{flag, names, names_arg, store, with_store};
use crate::host::machines;

pub const START: Tool =
    Tool { name: "kvm-start", about: kld_catalog::about("kvm-start"), command: start_command, run: start };
pub const STOP: Tool =
    Tool { name: "kvm-stop", about: kld_catalog::about("kvm-stop"), command: stop_command, run: stop };

fn start_command() -> Command {
    Command::new("kvm-start")
        .args([names_arg("names", "The machines to start"), store()])
        .after_help("Examples:\n  kvm-start web-5\n  kvm-start web-1 web-2\n\nA machine counts as started when its processors run.")
}

fn stop_command() -> Command {
    Command::new("kvm-stop")
        .args([
            names_arg("names", "The machines to stop"),
            Arg::new("timeout")
                .long("timeout")
                .short('t')
                .value_name("SECONDS")
                .value_parser(value_parser!(u64).range(0..=86_400))
                .default_value("60")
                .help("How long the guest has to shut down"),
            flag(
                "force",
                "Take the power away where the guest does not shut down in time; with --timeout 0, at once",
            )
            .short('f'),
            store(),
        ])
        .after_help(
            "Examples:\n  kvm-stop web-5\n  kvm-stop web-5 --timeout 10 --force\n  kvm-stop web-5 -t 0 -f",
        )
}

fn start(context: &Context, matches: &ArgMatches) -> Result<()> {
    let context = &with_store(context, matches)?;
    let machines = machines(context)?;
    each(context, &names(matches, "names")?, "started", "running", |name| machines.start(name))
}

fn stop(context: &Context, matches: &ArgMatches) -> Result<()> {
    let patience = Duration::from_secs(matches.get_one("timeout").copied().unwrap_or(60));
    let request = StopRequest { patience, force: matches.get_flag("force") };
    let context = &with_store(context, matches)?;
    let machines = machines(context)?;
    each(context, &names(matches, "names")?, "stopped", "off", |name| {
        let _progress = context.ui.progress(format!("waiting for {name} to shut down"));
        machines.stop(name, request)
    })
}

/// Does one deed to each machine. All are tried; errors are told in their order, and the last one is returned.
fn each(
    context: &Context,
    names: &[MachineName],
    done: &str,
    already: &str,
    deed: impl Fn(&MachineName) -> Result<Change<()>>,
) -> Result<()> {
    let mut outcome = Ok(());
    let mut changes = Vec::new();
    for name in names {
        match deed(name) {
            Ok(change) => {
                changes.push(serde_json::json!({"name": name, "changed": change.is_changed()}));
                if !context.ui.json {
                    let text = if change.is_changed() {
                        format!("{name} {done}")
                    } else {
                        format!("{name} is already {already}")
                    };
                    context.ui.line(text)?;
                }
            }
            Err(error) => {
                if let Err(earlier) = std::mem::replace(&mut outcome, Err(error)) {
                    context.ui.error(&earlier);
                }
            }
        }
    }
    if context.ui.json {
        context.ui.json(&serde_json::json!({"version": 1, "machines": changes}))?;
    }
    outcome
}
