//! Where the demo runs: the system's libvirt, a private one, or one in a lab.
#![allow(clippy::disallowed_types, reason = "the demo shows commands as they run")]

use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use kld_build::Cache;
use kld_core::error::Trying;
use kld_core::exec::Exec;
use kld_core::ui::Ui;
use kld_core::{Error, Result};
use kld_lab::{Keeper, Labs, Parts};
use kld_test_support::{Guest, Host, tool};

use crate::{lab, shell};

/// The lab that the demo starts, and its pool.
const LAB: &str = "demo";
pub const POOL: &str = "tank";

pub enum Place {
    /// The system's own libvirt: a folder for the tools, and the directory store.
    System(tempfile::TempDir, PathBuf),
    /// A libvirt of the demo's own.
    Private(Host),
    /// A lab, which ends with this program at the latest.
    Lab(Labs),
}

impl Place {
    pub fn here(private: bool, ui: &Ui) -> Result<Place> {
        if !private && system_libvirt_serves() {
            let bin = tempfile::Builder::new().prefix("kld-").tempdir();
            let bin = bin.trying(|| "cannot make a temporary folder".to_string())?;
            let config = kld_core::config::Config::load(None, &[])?;
            ui.note("this system's libvirt runs the machines");
            return Ok(Place::System(bin, config.get("store-root").into()));
        }
        let host = Host::try_start()?;
        ui.note(format!(
            "a private libvirt runs the machines, in {}, until the demo ends",
            host.folder().display()
        ));
        Ok(Place::Private(host))
    }

    pub fn lab(ui: &Ui) -> Result<Place> {
        let cache = Cache::of_user();
        let labs = Labs::of(&cache);
        let keeper = Keeper::start(&labs, &Parts::ensure(&cache, ui)?, &[LAB.to_string()])?;
        std::thread::spawn(move || keeper.keep());
        ui.note("a lab with OpenZFS and KVM runs the machines, until the demo ends");
        Ok(Place::Lab(labs))
    }

    /// The guest's disk, where the tools find it.
    pub fn image(&self, guest: &Guest, ui: &Ui) -> Result<String> {
        match self {
            Place::Lab(labs) => {
                let agent = labs.find(LAB).ok_or_else(|| Error::message("the lab has ended"))?;
                lab::bring_guest(&agent, ui)
            }
            _ => Ok(guest.image().to_string_lossy().into_owned()),
        }
    }

    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = match self {
            Place::System(bin, _) => Command::new(tool::link(bin.path(), program)),
            Place::Private(host) => host.command(program),
            Place::Lab(_) => {
                let mut command = Command::new(std::env::current_exe().unwrap_or_default());
                let settings = [&format!("KLD_ZFS_ROOT={POOL}/kld"), "KLD_NETWORK=none"];
                command.args(["lab", "run", "--lab", LAB, "--", "env"]).args(settings).arg(program);
                command
            }
        };
        command.args(args);
        command
    }

    /// Shows a command as one would type it there, and runs it.
    pub fn run(&self, ui: &Ui, program: &str, args: &[&str]) -> Result<()> {
        shell::watch_as(ui, &line(program, args), self.command(program, args))
    }

    /// The bytes that the store takes.
    pub fn allocated(&self) -> u64 {
        match self {
            Place::System(_, store) => in_folder(store),
            Place::Private(host) => in_folder(&host.store_root()),
            Place::Lab(_) => {
                let script = format!("zpool sync {POOL} && zpool list -Hp -o allocated {POOL}");
                let output = self.command("sh", &["-c", &script]).output();
                let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
                text.unwrap_or_default().trim().parse().unwrap_or(0)
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Place::Lab(labs) = self {
            let _ = labs.down(LAB);
        }
    }
}

/// A command as one would type it.
pub fn line(program: &str, args: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(args);
    shell::spell(&command)
}

/// Whether libvirt's QEMU driver answers, with a QEMU to run.
fn system_libvirt_serves() -> bool {
    let sockets = ["/run/libvirt/virtqemud-sock", "/run/libvirt/libvirt-sock"];
    sockets.iter().any(|socket| UnixStream::connect(socket).is_ok())
        && Exec::which("qemu-system-x86_64").is_some()
}

/// The bytes that a folder's files take on the disk.
fn in_folder(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| {
        let meta = entry.metadata().ok()?;
        Some(if meta.is_dir() { in_folder(&entry.path()) } else { meta.blocks() * 512 })
    });
    sizes.sum()
}
