//! The tool table: many names, one program, only the wanted command built.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::config::Config;
use crate::ui::Ui;
use crate::{Error, Result, timing};

/// One tool: a row of its family's table.
#[derive(Clone, Copy)]
pub struct Tool {
    /// The name it is called by, such as `kvm-clone`.
    pub name: &'static str,
    /// What it does, in one line.
    pub about: &'static str,
    /// Builds its command line; called only for the tool that runs.
    pub command: fn() -> Command,
    /// Runs it.
    pub run: fn(&Context, &ArgMatches) -> Result<()>,
}

/// What every tool is given.
#[derive(Debug)]
pub struct Context {
    /// The name of the tool that runs.
    pub tool: &'static str,
    /// The settings in force.
    pub config: Config,
    /// How it speaks.
    pub ui: Ui,
}

impl Tool {
    /// The whole command line of the tool: its own, and the flags that every tool has.
    pub fn full_command(&self) -> Command {
        (self.command)()
            .name(self.name)
            .bin_name(self.name)
            .about(self.about)
            .version(env!("CARGO_PKG_VERSION"))
            .arg_required_else_help(false)
            .args(common_args())
    }

    /// Parses `args` (the program's name first), runs the tool and reports how it ended.
    pub fn main(&self, args: impl IntoIterator<Item = OsString>) -> ExitCode {
        let matches = match self.full_command().try_get_matches_from(args) {
            Ok(matches) => matches,
            Err(error) => return report_clap(&error),
        };
        let ui = Ui { json: matches.get_flag("json"), quiet: matches.get_flag("quiet") };
        let timings = matches.get_flag("timings");
        if timings {
            timing::enable();
        }
        let outcome = timing::phase("all", || {
            load(&matches).and_then(|config| (self.run)(&Context { tool: self.name, config, ui }, &matches))
        });
        if timings {
            ui.timings(&timing::phases());
        }
        report(&ui, outcome)
    }
}

/// The flags that every tool has.
fn common_args() -> [Arg; 5] {
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
    };
    [
        flag("json", "Print JSON for programs").help_heading("Output").global(true),
        flag("quiet", "Print no notes and no progress").short('q').help_heading("Output").global(true),
        flag("timings", "Show on standard error where the time went").help_heading("Output").global(true),
        Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help("Read this configuration instead of /etc/kld/config.toml and the user's")
            .help_heading("Configuration")
            .global(true),
        Arg::new("set")
            .long("set")
            .value_name("KEY=VALUE")
            .action(ArgAction::Append)
            .help("Override one setting")
            .help_heading("Configuration")
            .global(true),
    ]
}

/// The configuration that the common flags ask for.
fn load(matches: &ArgMatches) -> Result<Config> {
    let flags: Vec<String> = matches.get_many::<String>("set").into_iter().flatten().cloned().collect();
    Config::load(matches.get_one::<PathBuf>("config").map(PathBuf::as_path), &flags)
}

/// Turns a tool's outcome into what it says and its exit code.
pub fn report(ui: &Ui, outcome: Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            ui.error(&error);
            ExitCode::from(error.exit() as u8)
        }
    }
}

/// Prints clap's help, version or complaint: help on stdout (exit 0), a complaint on stderr (exit 2).
pub fn report_clap(error: &clap::Error) -> ExitCode {
    let ui = Ui::default();
    let text = error.render().to_string();
    if error.use_stderr() {
        use std::io::Write;
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
        ExitCode::from(2)
    } else {
        report(&ui, ui.raw(text.as_bytes()))
    }
}

/// The main function of a family's program: argv[0] picks the tool, or else the first argument does. `probes` says
/// what serves the family on this host; the front door asks it by the hidden `__probe`.
pub fn family_main(
    family: &'static str,
    tools: &[Tool],
    probes: fn(&Config) -> Vec<crate::Probe>,
) -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let called = args.first().and_then(|arg| Path::new(arg).file_name()).unwrap_or_default().to_os_string();
    if let Some(tool) = find(tools, &called) {
        return tool.main(args);
    }
    let names = || tools.iter().map(|tool| tool.name).collect::<Vec<_>>().join(", ");
    let ui = Ui::default();
    match args.get(1) {
        Some(word) => match find(tools, word) {
            Some(tool) => tool.main(args.into_iter().skip(1)),
            None if word == "__generate" => {
                let commands: Vec<_> = tools.iter().map(|tool| (tool.name, tool.full_command())).collect();
                generate(args.get(2), &commands)
            }
            None if word == "__probe" => {
                let command = Command::new("__probe").args(common_args());
                match command.try_get_matches_from(args.into_iter().skip(1)) {
                    Ok(matches) => report(&ui, load(&matches).and_then(|config| ui.json(&probes(&config)))),
                    Err(error) => report_clap(&error),
                }
            }
            None if word == "--version" => {
                report(&ui, ui.line(format!("{family} {}", env!("CARGO_PKG_VERSION"))))
            }
            None => {
                let word = word.to_string_lossy();
                let hint = crate::suggest::nearest(&word, tools.iter().map(|tool| tool.name))
                    .map_or_else(|| format!("it has {}", names()), |near| format!("did you mean '{near}'?"));
                report(
                    &ui,
                    Err(Error::usage(format!("{family} has no tool '{}'", word.escape_debug()))
                        .with_hint(hint)),
                )
            }
        },
        None => report(
            &ui,
            Err(Error::usage(format!("{family} runs one of its tools: which?")).with_hint(names())),
        ),
    }
}

fn find<'a>(tools: &'a [Tool], name: &OsStr) -> Option<&'a Tool> {
    tools.iter().find(|tool| name == tool.name)
}

/// The command without its hidden flags, which completions would offer.
fn offered(name: &'static str, command: &Command) -> Command {
    if !command.get_arguments().any(Arg::is_hide_set) {
        return command.clone();
    }
    let shown = command.get_arguments().filter(|flag| !flag.is_hide_set());
    Command::new(name)
        .version(env!("CARGO_PKG_VERSION"))
        .args(shown.cloned())
        .groups(command.get_groups().cloned())
        .subcommands(command.get_subcommands().cloned())
}

/// The hidden `__generate FOLDER`: writes the man page and the completions of each command, for packagers and for
/// `cargo xtask generate`.
pub fn generate(folder: Option<&OsString>, commands: &[(&'static str, Command)]) -> ExitCode {
    let Some(folder) = folder else {
        return report(&Ui::default(), Err(Error::usage("__generate wants a folder")));
    };
    let write = |path: PathBuf, bytes: &[u8]| {
        let parent = path.parent().unwrap_or(Path::new("/"));
        crate::fsio::create_dir_all(parent, 0o755).and_then(|()| crate::fsio::replace(&path, bytes, 0o644))
    };
    let all = commands.iter().try_for_each(|(name, command)| {
        let offered = offered(name, command);
        let mut command = command.clone();
        command.build();
        let mut page = Vec::new();
        clap_mangen::Man::new(command.clone())
            .render(&mut page)
            .map_err(|cause| Error::failed(format!("cannot make the man page of {name}"), cause))?;
        write(Path::new(folder).join(format!("man/{name}.1")), &page)?;
        for (shell, file) in [
            (clap_complete::Shell::Bash, format!("completions/bash/{name}")),
            (clap_complete::Shell::Zsh, format!("completions/zsh/_{name}")),
            (clap_complete::Shell::Fish, format!("completions/fish/{name}.fish")),
        ] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut offered.clone(), *name, &mut script);
            write(Path::new(folder).join(file), &script)?;
        }
        Ok(())
    });
    report(&Ui::default(), all)
}
