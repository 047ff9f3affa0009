//! Arguments that several tools have.

use std::ffi::OsString;

use clap::{Arg, ArgAction, ArgMatches};
use kld_core::tool::Context;
use kld_core::{Config, MachineName, Plan, Result, SnapshotTag};

/// A machine's name, checked by [`name`] so that every bad one is told in kld's own words.
pub fn name_arg(id: &'static str, help: &'static str) -> Arg {
    Arg::new(id).value_name("VM").required(true).value_parser(clap::value_parser!(OsString)).help(help)
}

/// One or more machines' names.
pub fn names_arg(id: &'static str, help: &'static str) -> Arg {
    name_arg(id, help).num_args(1..)
}

/// The machine's name in the argument `id`.
pub fn name(matches: &ArgMatches, id: &str) -> Result<MachineName> {
    let word = matches.get_one::<OsString>(id).cloned().unwrap_or_default();
    MachineName::parse_os(&word)
}

/// The machines' names in the argument `id`.
pub fn names(matches: &ArgMatches, id: &str) -> Result<Vec<MachineName>> {
    matches.get_many::<OsString>(id).into_iter().flatten().map(|word| MachineName::parse_os(word)).collect()
}

/// A snapshot's tag, checked by [`tag`].
pub fn tag_arg(id: &'static str, help: &'static str) -> Arg {
    Arg::new(id).value_name("TAG").value_parser(clap::value_parser!(OsString)).help(help)
}

/// The snapshot's tag in the argument `id`, where it is given.
pub fn tag(matches: &ArgMatches, id: &str) -> Result<Option<SnapshotTag>> {
    matches.get_one::<OsString>(id).map(|word| SnapshotTag::parse_os(word)).transpose()
}

/// A flag.
pub fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

/// `--dry-run`.
pub fn dry_run() -> Arg {
    flag("dry-run", "Show what would be done, and do nothing").short('n')
}

/// `--store`.
pub fn store() -> Arg {
    Arg::new("store")
        .long("store")
        .value_name("NAME")
        .help("Volume store to use instead of the configured one")
}

/// The context with `--store` in force.
pub fn with_store(context: &Context, matches: &ArgMatches) -> Result<Context> {
    let mut config: Config = context.config.clone();
    if let Some(name) = matches.get_one::<String>("store") {
        config.set_flag("store", name)?;
    }
    Ok(Context { tool: context.tool, config, ui: context.ui })
}

/// Shows a plan that is not carried out.
pub fn show_plan(context: &Context, plan: &Plan) -> Result<()> {
    match context.ui.json {
        true => context.ui.json(&serde_json::json!({"version": 1, "plan": plan})),
        false => context.ui.raw(plan.to_string().as_bytes()),
    }
}
