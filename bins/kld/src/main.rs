//! The front door: `kld --list`, `kld doctor`, `kld <tool>`.
mod doctor;
mod list;
mod run;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Arg, ArgAction, Command};
use kld_core::tool::{report, report_clap};
use kld_core::ui::Ui;

/// The command line of `kld` itself.
fn command() -> Command {
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
    };
    Command::new("kld")
        .about("The front door of kld: lists and runs every tool")
        .version(env!("CARGO_PKG_VERSION"))
        .args([
            flag("list", "List every tool with its one line"),
            flag("json", "Print JSON for programs"),
            flag("quiet", "Print no notes").short('q'),
            Arg::new("tool")
                .value_name("TOOL")
                .help("The tool to run, or 'doctor': what serves on this host"),
            Arg::new("args")
                .value_name("ARGS")
                .num_args(0..)
                .trailing_var_arg(true)
                .allow_hyphen_values(true)
                .value_parser(clap::value_parser!(OsString))
                .help("The tool's own arguments"),
        ])
        .after_help("Examples:\n  kld --list\n  kld doctor\n  kld kvm-clone template web-5")
}

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    // A tool's name comes first and everything behind it is the tool's own, its --help and --json included.
    if let Some(tool) = args.get(1).and_then(|word| word.to_str()).filter(|word| !word.starts_with('-')) {
        return match tool {
            "doctor" => doctor::main(&args[2..]),
            "__generate" => kld_core::tool::generate(args.get(2), &[("kld", command())]),
            _ => report(&Ui::default(), Err(run::tool(tool, &args[2..]))),
        };
    }
    let matches = match command().try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) => return report_clap(&error),
    };
    let ui = Ui { json: matches.get_flag("json"), quiet: matches.get_flag("quiet") };
    if matches.get_flag("list") {
        return report(&ui, list::list(&ui));
    }
    let mut help = command();
    report(&ui, ui.raw(help.render_help().to_string().as_bytes()))
}
