//! `cargo xtask setup`: what the host needs to build, demo and test kld.

use std::io::{BufRead, IsTerminal};

use kld_core::error::Trying;
use kld_core::exec::Exec;
use kld_core::ui::Ui;
use kld_core::{Error, Result};
use kld_test_support::{Guest, Root, apt};

use crate::shell;

/// Install what building, the demo and the tests need
///
/// System packages come from the host's own apt (it asks first); QEMU, libvirtd and the demo guest go into a private
/// root in the cache folder. No apt source and no libvirt configuration is changed.
#[derive(clap::Args, Default)]
pub struct Args {
    /// Only say what is missing; exit 1 if something is
    #[arg(long, conflicts_with = "yes")]
    check: bool,
    /// Install without asking
    #[arg(long, short)]
    pub yes: bool,
}

/// What comes from Debian or Ubuntu: a package, and how to see on other systems whether it is there.
const NEEDS: &[(&str, Sign)] = &[
    ("binutils", Sign::Program("strip")),
    ("gcc", Sign::Program("cc")),
    ("libc6-dev", Sign::Library("")),
    ("pkg-config", Sign::Program("pkg-config")),
    ("libvirt-dev", Sign::Library("libvirt")),
    ("qemu-utils", Sign::Program("qemu-img")),
    ("mmdebstrap", Sign::Program("mmdebstrap")),
    ("mount", Sign::Program("mount")),
    ("util-linux", Sign::Program("nsenter")),
    ("debian-archive-keyring", Sign::File("/usr/share/keyrings/debian-archive-keyring.gpg")),
];

/// How to see whether something is installed.
enum Sign {
    Program(&'static str),
    /// By its pkg-config name; an empty one comes with the compiler.
    Library(&'static str),
    File(&'static str),
}

impl Sign {
    /// What a person must install, if it is not there.
    fn missing(&self) -> Option<String> {
        match self {
            Sign::Program(name) => Exec::which(name).is_none().then(|| format!("the program {name}")),
            Sign::Library("") => None,
            Sign::Library(name) => {
                let found = Exec::new("pkg-config").args(["--exists", name]).run().is_ok();
                (!found).then(|| format!("the headers of {name}"))
            }
            Sign::File(path) => (!std::path::Path::new(path).exists()).then(|| path.to_string()),
        }
    }
}

pub fn run(args: &Args, ui: &Ui) -> Result<()> {
    if args.check { check(ui) } else { install(args.yes, ui) }
}

/// Names everything that is missing and changes nothing.
fn check(ui: &Ui) -> Result<()> {
    let mut missing = system();
    if Root::find().is_none() {
        missing.push("the private root".to_string());
    }
    if Guest::find().is_none() {
        missing.push("the demo guest".to_string());
    }
    if missing.is_empty() {
        return ui.line("nothing is missing");
    }
    for what in &missing {
        ui.line(format!("missing: {what}"))?;
    }
    let how_many = if missing.len() == 1 { "1 thing is" } else { &format!("{} things are", missing.len()) };
    Err(Error::message(format!("{how_many} missing")).with_hint("cargo xtask setup installs them"))
}

/// What the system lacks: packages where there is apt, programs and files elsewhere.
fn system() -> Vec<String> {
    if has_apt() {
        let packages: Vec<_> = NEEDS.iter().map(|(package, _)| *package).collect();
        // A program may also come from elsewhere: what works is not missing.
        let wanted = apt::missing(&packages).into_iter();
        let wanted =
            wanted.filter(|name| NEEDS.iter().any(|(package, sign)| package == name && sign.absent()));
        return wanted.map(str::to_string).collect();
    }
    NEEDS.iter().filter_map(|(_, sign)| sign.missing()).collect()
}

impl Sign {
    fn absent(&self) -> bool {
        matches!(self, Sign::Library("")) || self.missing().is_some()
    }
}

fn has_apt() -> bool {
    Exec::which("apt-get").is_some() && Exec::which("dpkg-query").is_some()
}

/// Installs what is missing; asks first unless `yes`.
pub fn install(yes: bool, ui: &Ui) -> Result<()> {
    let missing = system();
    if !missing.is_empty() {
        packages(&missing, yes, ui)?;
    }
    Guest::ensure(ui).map(drop)
}

fn packages(missing: &[String], yes: bool, ui: &Ui) -> Result<()> {
    let list = missing.join(" ");
    let what = "cannot set this host up";
    if !has_apt() {
        return Err(Error::failed(what, format!("it lacks {}", missing.join(", ")))
            .with_hint("install them with your system's package manager"));
    }
    let command = format!("apt-get install --no-install-recommends {list}");
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::failed(what, format!("it lacks {list}")).with_hint(format!("as root: {command}")));
    }
    if !yes && !agreed(&format!("kld needs these packages: {list}\nInstall them? [y/N] "), ui)? {
        return Err(Error::failed(what, format!("it lacks {list}"))
            .with_hint(format!("{command}, or cargo xtask setup --yes")));
    }
    let apt_get = |args: &[&str]| {
        let mut command = shell::program("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(args);
        command
    };
    // A source that does not answer is no reason to stop: what is wanted may come from another.
    if let Err(error) = shell::watch(ui, apt_get(&["update", "--quiet"])) {
        ui.note(error);
    }
    let mut install = apt_get(&["install", "--quiet", "--yes", "--no-install-recommends"]);
    install.args(missing);
    shell::watch(ui, install)
}

/// Asks on the terminal. Where there is none nobody can agree, but a CI job has agreed beforehand.
fn agreed(question: &str, ui: &Ui) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Ok(std::env::var_os("CI").is_some_and(|value| !value.is_empty()));
    }
    ui.raw(question.as_bytes())?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).trying(|| "cannot read the answer".to_string())?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
