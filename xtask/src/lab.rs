//! `cargo xtask lab`: a real kernel with OpenZFS, WireGuard and nested KVM, on a machine that has none of them.
#![allow(clippy::disallowed_types, reason = "a keeper outlives this program, and a terminal is handed on")]

use std::io::{BufRead, BufReader, IsTerminal, Read, Seek};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use kld_build::appliance::{Appliance, Network, Pipes};
use kld_build::{Agent, Cache};
use kld_core::error::Trying;
use kld_core::ui::Ui;
use kld_core::{Error, Result};
use kld_lab::{Keeper, Labs, Parts, tools};
use kld_test_support::Guest;

use crate::shell;

pub mod inside;
mod suites;
mod timed;

/// Run commands in a guest with a real kernel, OpenZFS, WireGuard and KVM
///
/// The lab's parts are made once, in about fifteen minutes, and kept in the cache folder; from then on a lab is there
/// in seconds. It has no network but the one of the labs that are up together, and its disks (data1 to data4 under
/// /dev/disk/by-id/virtio-*) are empty and gone with it.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    errand: Errand,
}

#[derive(clap::Subcommand)]
enum Errand {
    /// Make the lab's parts, where they are missing or damaged
    Build,
    /// Start labs that stay up; those named together share a network (10.77.0.1, 10.77.0.2, ...)
    Up {
        /// Their names
        #[arg(default_value = "lab")]
        names: Vec<String>,
    },
    /// Run a command in a lab, in one of its own if that lab is not up
    Run {
        /// The lab
        #[arg(long, default_value = "lab")]
        lab: String,
        /// The command and its arguments
        #[arg(required = true, last = true)]
        command: Vec<String>,
    },
    /// Copy a file or a folder into a folder of a lab that is up, or out of it: one side is LAB:PATH
    Copy {
        /// What to copy
        from: String,
        /// The folder to copy it into
        to: String,
    },
    /// Open a shell in a lab that is up
    Console {
        /// The lab
        #[arg(default_value = "lab")]
        lab: String,
    },
    /// End labs, and those that were started with them
    Down {
        /// Their names
        #[arg(default_value = "lab")]
        names: Vec<String>,
        /// All that are up, whoever started them
        #[arg(long, conflicts_with = "names")]
        all: bool,
    },
    /// Say which labs are up, and where the parts are
    Status,
    /// Run the tests that drive labs and those that run inside one, or a crate's own tests inside one
    Test {
        /// Also run what takes long
        #[arg(long, conflicts_with = "package")]
        full: bool,
        /// The lab that a crate's tests run inside; one of their own if the lab `lab` is not up
        #[arg(long, default_value = "lab", requires = "package")]
        lab: String,
        /// Run the tests of this crate inside a lab
        #[arg(long, short)]
        package: Vec<String>,
        /// The features with which that crate is built
        #[arg(long, requires = "package")]
        features: Vec<String>,
        /// What the test programs are told, such as --ignored or a part of a test's name
        #[arg(last = true, requires = "package")]
        arguments: Vec<String>,
    },
    /// Hold labs; `up` starts this
    #[command(hide = true)]
    Keep {
        /// Their names
        names: Vec<String>,
    },
}

/// Runs the errand; a command's exit code becomes this program's.
pub fn run(args: &Args, ui: &Ui) -> Result<ExitCode> {
    let cache = Cache::of_user();
    let labs = Labs::of(&cache);
    let done = match &args.errand {
        Errand::Build => build(ui),
        Errand::Up { names } => up(&cache, names, ui),
        Errand::Run { lab, command } => return command_in(&cache, &labs, lab, command, ui),
        Errand::Copy { from, to } => copy(&labs, from, to),
        Errand::Console { lab } => return console(&labs, lab),
        Errand::Down { all: true, .. } => down(&labs, &labs.up(), ui),
        Errand::Down { names, .. } => down(&labs, names, ui),
        Errand::Status => status(&cache, &labs, ui),
        Errand::Test { full, package, .. } if package.is_empty() => test(*full, ui),
        Errand::Test { lab, package, features, arguments, .. } => {
            let (own, agent) = reach(&cache, &labs, lab, ui)?;
            let build = package.iter().flat_map(|package| ["--package", package]);
            let build = build.chain(features.iter().flat_map(|feature| ["--features", feature])).collect();
            let run = inside::Run { build, arguments: arguments.clone(), environment: Vec::new() };
            let ran = inside::test(&agent, &run, ui);
            drop(own);
            ran
        }
        Errand::Keep { names } => keep(&cache, &labs, names, ui),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// Makes the lab's parts, where they are missing or damaged; every byte of them is read.
pub fn build(ui: &Ui) -> Result<()> {
    let cache = Cache::of_user();
    Parts::check(&cache, ui)?;
    Parts::ensure(&cache, ui).map(drop)
}

/// Runs the tests that need a lab, with their output as it comes: those that drive labs from outside, and those that
/// run inside one.
pub fn test(full: bool, ui: &Ui) -> Result<()> {
    let outside = once_more(ui, || {
        let packages = ["--package", "kld-build", "--package", "kld-lab"];
        let wanted = ["--ignored", "--nocapture", "--skip", "helper_that"];
        let mut outside = shell::cargo(&[&["test"], &packages[..], &["--"], &wanted].concat());
        if full {
            outside.env("KLD_FULL", "1");
        }
        shell::time(ui, outside)
    });
    let inside = once_more(ui, || {
        let (_lab, agent) = start(&Cache::of_user(), "lab", ui)?;
        tools::bring(&agent, &kld_test_support::tool::built_here())?;
        suites::run(&agent, full, ui)
    });
    // What fails there and what fails here is seen in one run.
    outside.and(inside)
}

/// Of a guest whose instructions are translated one in dozens hangs or starves; what fails in earnest fails in a new
/// one too. The first failure stays in sight.
fn once_more(ui: &Ui, run: impl Fn() -> Result<()>) -> Result<()> {
    run().or_else(|error| {
        ui.note(format!("{error}; once more, in new labs"));
        run()
    })
}

fn up(cache: &Cache, names: &[String], ui: &Ui) -> Result<()> {
    Parts::ensure(cache, ui)?;
    let start = Instant::now();
    let what = || "cannot start the labs".to_string();
    let mine = std::env::current_exe().trying(what)?;
    // The keeper outlives this program, and so must not hold its terminal or pipe open.
    let mut log = tempfile::tempfile().trying(what)?;
    let stderr = log.try_clone().trying(what)?;
    let mut keeper = Command::new("/usr/bin/setsid");
    keeper.arg(mine).args(["lab", "keep"]).args(names).current_dir("/");
    let keeper = keeper.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr).spawn().trying(what)?;
    let mut said = String::new();
    let stdout = keeper.stdout.map(BufReader::new);
    if stdout.map_or(Ok(0), |mut stdout| stdout.read_line(&mut said)).trying(what)? == 0 {
        let mut complaint = String::new();
        let read = log.rewind().and_then(|()| log.read_to_string(&mut complaint));
        read.trying(what)?;
        return Err(Error::message(complaint.trim().trim_start_matches("error: ")));
    }
    ui.note(format!("{} up after {:.1} s", names.join(", "), start.elapsed().as_secs_f64()));
    Ok(())
}

fn keep(cache: &Cache, labs: &Labs, names: &[String], ui: &Ui) -> Result<()> {
    let keeper = Keeper::start(labs, &Parts::ensure(cache, ui)?, names)?;
    ui.line("up")?;
    keeper.keep()
}

/// The lab of this name, or a new one that lasts as long as what is returned beside it.
fn reach(cache: &Cache, labs: &Labs, name: &str, ui: &Ui) -> Result<(Option<(Appliance, Network)>, Agent)> {
    let (own, agent) = match labs.find(name) {
        Some(agent) => (None, agent),
        None if name != "lab" => return Err(not_up(name)),
        None => {
            let (lab, agent) = start(cache, name, ui)?;
            (Some(lab), agent)
        }
    };
    tools::bring(&agent, &kld_test_support::tool::built_here())?;
    Ok((own, agent))
}

/// A new lab, alone on its network.
fn start(cache: &Cache, name: &str, ui: &Ui) -> Result<((Appliance, Network), Agent)> {
    let network = Network::new()?;
    let lab = Parts::ensure(cache, ui)?.start(name, 1, &[network.plug()])?;
    let agent = lab.agent();
    Ok(((lab, network), agent))
}

fn command_in(cache: &Cache, labs: &Labs, name: &str, command: &[String], ui: &Ui) -> Result<ExitCode> {
    let (_own, agent) = reach(cache, labs, name, ui)?;
    // A terminal would be read although the command reads nothing.
    let stdin: Box<dyn Read + Send> = match std::io::stdin().is_terminal() {
        true => Box::new(std::io::empty()),
        false => Box::new(std::io::stdin()),
    };
    hand_on(&agent, command, stdin)
}

fn hand_on<S: AsRef<str>>(agent: &Agent, command: &[S], stdin: Box<dyn Read + Send>) -> Result<ExitCode> {
    let (mut stdout, mut stderr) = (std::io::stdout(), std::io::stderr());
    let code = agent.stream(command, Pipes { stdin, stdout: &mut stdout, stderr: &mut stderr })?;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}

/// Puts the demo guest's disk into a lab; returns where it is there.
pub fn bring_guest(agent: &Agent, ui: &Ui) -> Result<String> {
    agent.copy_in(&Guest::ensure(ui)?.image(), "/run/kld/guest")?;
    Ok("/run/kld/guest/guest.qcow2".to_string())
}

fn copy(labs: &Labs, from: &str, to: &str) -> Result<()> {
    let lab = |side: &str| side.split_once(':').map(|(lab, path)| (lab.to_string(), path.to_string()));
    let find = |name: &str| labs.find(name).ok_or_else(|| not_up(name));
    match (lab(from), lab(to)) {
        (None, Some((name, folder))) => find(&name)?.copy_in(Path::new(from), &folder),
        (Some((name, path)), None) => find(&name)?.copy_out(&path, Path::new(to)),
        _ => Err(Error::usage("one side of a copy must be LAB:PATH, and the other a path here")),
    }
}

fn console(labs: &Labs, name: &str) -> Result<ExitCode> {
    let agent = labs.find(name).ok_or_else(|| not_up(name))?;
    tools::bring(&agent, &kld_test_support::tool::built_here())?;
    let raw = Raw::start();
    let term = std::env::var("TERM").unwrap_or_else(|_| "dumb".to_string());
    let shell = format!("stty rows {} cols {}; exec bash -l", raw.rows, raw.columns);
    let command =
        ["env", &format!("TERM={term}"), "script", "--quiet", "--return", "--command", &shell, "/dev/null"];
    hand_on(&agent, &command, Box::new(std::io::stdin()))
}

fn down(labs: &Labs, names: &[String], ui: &Ui) -> Result<()> {
    for name in names {
        if labs.down(name)? {
            ui.note(format!("{name} is down"));
        }
    }
    Ok(())
}

fn status(cache: &Cache, labs: &Labs, ui: &Ui) -> Result<()> {
    for name in labs.up() {
        ui.line(format!("{name} up"))?;
    }
    match Parts::find(cache)? {
        Some(parts) => {
            for file in parts.files() {
                ui.line(file.display())?;
            }
            Ok(())
        }
        None => ui.line("the parts are not made yet, or damaged: cargo xtask lab build"),
    }
}

fn not_up(name: &str) -> Error {
    Error::message(format!("the lab {name} is not up"))
        .with_hint(format!("start it: cargo xtask lab up {name}"))
}

/// The terminal without line editing and signals of its own, until this is dropped.
struct Raw {
    before: Option<nix::sys::termios::Termios>,
    rows: u16,
    columns: u16,
}

impl Raw {
    fn start() -> Raw {
        use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
        let size =
            Command::new("/usr/bin/stty").arg("size").stderr(Stdio::null()).stdin(Stdio::inherit()).output();
        let size =
            size.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        let mut size = size.split_whitespace().map_while(|word| word.parse().ok());
        let (rows, columns) = (size.next().unwrap_or(24), size.next().unwrap_or(80));
        let before = tcgetattr(std::io::stdin()).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            cfmakeraw(&mut raw);
            let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, &raw);
        }
        Raw { before, rows, columns }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ =
                nix::sys::termios::tcsetattr(std::io::stdin(), nix::sys::termios::SetArg::TCSANOW, before);
        }
    }
}
