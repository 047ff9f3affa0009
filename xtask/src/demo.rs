//! `cargo xtask demo`: the main job on this very machine. A template is made from a small real guest, cloned, and
//! the clone's own console says its name.
#![allow(clippy::disallowed_types, reason = "the demo shows commands and reads a console as it runs")]

use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use kld_core::error::Trying;
use kld_core::exec::Exec;
use kld_core::ui::{Ui, printable};
use kld_core::{ByteSize, Error, MachineName, Result};
use kld_test_support::{Guest, Host, tool};

use crate::{setup, shell};

/// Create a template from a small real guest, clone it, boot the clone and let it say its name
#[derive(clap::Args)]
pub struct Args {
    /// The clone's name
    #[arg(long, value_name = "NAME", default_value = "web-5")]
    clone: String,
    /// Start a private libvirt even where the system has one
    #[arg(long)]
    private: bool,
    /// Install missing packages without asking
    #[arg(long, short)]
    yes: bool,
}

const TEMPLATE: &str = "template";

/// The guest boots under software emulation, on a machine that may be busy.
const PATIENCE: Duration = Duration::from_secs(180);

pub fn run(args: &Args, ui: &Ui) -> Result<()> {
    let clone = MachineName::parse(&args.clone)?.to_string();
    if clone == TEMPLATE {
        return Err(Error::usage("the clone cannot have the template's name"));
    }
    setup::install(args.yes, ui)?;
    let guest = Guest::ensure(ui)?;
    shell::watch(ui, shell::cargo(&["build", "--quiet", "--package", "kld-bin-kvm"]))?;
    let place = Place::find(args.private, ui)?;
    let mut made = Made { place: &place, ui, machines: Vec::new() };

    let image = guest.image();
    place.run(
        ui,
        "kvm-create",
        &[TEMPLATE, "--from", &image.to_string_lossy(), "--memory", "256", "--network", "none"],
    )?;
    made.machines.push(TEMPLATE.to_string());
    place.run(ui, "kvm-template", &[TEMPLATE])?;

    let before = allocated(&place.store);
    let started = Instant::now();
    place.run(ui, "kvm-clone", &[TEMPLATE, &clone])?;
    let took = started.elapsed();
    made.machines.push(clone.clone());
    let bytes = allocated(&place.store).saturating_sub(before);

    place.run(ui, "kvm-start", &[&clone])?;
    let started = Instant::now();
    let said = listen(&place, ui, &clone)?;
    let booted = started.elapsed();
    ui.line(format!("  {said}"))?;
    drop(made);
    ui.line(format!(
        "cloned in {} ms, {} taken; the clone said its name {:.1} s after its start",
        took.as_millis(),
        ByteSize::new(bytes),
        booted.as_secs_f64()
    ))
}

/// Where the demo runs: the system's libvirt, or a private one.
struct Place {
    host: Option<Host>,
    bin: tempfile::TempDir,
    store: PathBuf,
}

impl Place {
    fn find(private: bool, ui: &Ui) -> Result<Place> {
        let bin = tempfile::Builder::new().prefix("kld-").tempdir();
        let bin = bin.trying(|| "cannot make a temporary folder".to_string())?;
        if !private && system_libvirt_serves() {
            let config = kld_core::config::Config::load(None, &[])?;
            ui.note("this system's libvirt runs the machines");
            return Ok(Place { host: None, bin, store: config.get("store-root").into() });
        }
        let host = Host::try_start()?;
        ui.note(format!(
            "a private libvirt runs the machines, in {}, until the demo ends",
            host.folder().display()
        ));
        let store = host.store_root();
        Ok(Place { host: Some(host), bin, store })
    }

    fn command(&self, tool: &str, args: &[&str]) -> Command {
        let mut command = match &self.host {
            Some(host) => host.command(tool),
            None => Command::new(tool::link(self.bin.path(), tool)),
        };
        command.args(args);
        command
    }

    fn run(&self, ui: &Ui, tool: &str, args: &[&str]) -> Result<()> {
        shell::watch(ui, self.command(tool, args))
    }
}

/// Whether libvirt's QEMU driver answers, with a QEMU to run.
fn system_libvirt_serves() -> bool {
    let sockets = ["/run/libvirt/virtqemud-sock", "/run/libvirt/libvirt-sock"];
    sockets.iter().any(|socket| UnixStream::connect(socket).is_ok())
        && Exec::which("qemu-system-x86_64").is_some()
}

/// The machines that the demo made; they are deleted when it ends, however it ends.
struct Made<'a> {
    place: &'a Place,
    ui: &'a Ui,
    machines: Vec<String>,
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        while let Some(machine) = self.machines.pop() {
            let stop = (machine != TEMPLATE).then_some(("kvm-stop", vec!["--force", machine.as_str()]));
            for (tool, args) in stop.into_iter().chain([("kvm-delete", vec![machine.as_str()])]) {
                if let Err(error) = self.place.run(self.ui, tool, &args) {
                    self.ui.error(&error);
                }
            }
        }
    }
}

/// Reads the clone's console until it has said its name.
fn listen(place: &Place, ui: &Ui, clone: &str) -> Result<String> {
    let mut command = place.command("kvm-console", &[clone]);
    ui.line(format!("$ {}", shell::spell(&command)))?;
    // Its input stays open, as a person's would.
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut console = Console(command.spawn().trying(|| "cannot run kvm-console".to_string())?);
    let (sender, lines) = mpsc::channel();
    if let Some(output) = console.0.stdout.take() {
        std::thread::spawn(move || {
            // The boot loader's bytes need not be text.
            for line in BufReader::new(output).split(b'\n').map_while(|line| line.ok()) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
            }
        });
    }
    let wanted = format!("kld-guest: I am {clone} ");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match lines.recv_timeout(left) {
            Ok(line) => {
                if let Some(at) = line.find(&wanted) {
                    return Ok(printable(line[at..].trim_end()));
                }
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let cause = format!("it did not say its name within {} s", PATIENCE.as_secs());
                return Err(Error::failed(format!("{clone} does not boot"), cause));
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return Err(Error::failed("kvm-console ended", "the clone had not said its name yet"));
            }
        }
    }
}

/// A running `kvm-console`, ended when it is no longer listened to.
struct Console(Child);

impl Drop for Console {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The bytes that a folder's files take on the disk.
fn allocated(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| {
        let meta = entry.metadata().ok()?;
        Some(if meta.is_dir() { allocated(&entry.path()) } else { meta.blocks() * 512 })
    });
    sizes.sum()
}
