//! `cargo xtask demo`: the main job on this very machine. A template is made from a small real guest, cloned, and
//! the clone's own console says its name.
#![allow(clippy::disallowed_types, reason = "the demo shows commands and reads a console as it runs")]

use std::time::{Duration, Instant};

use kld_core::ui::Ui;
use kld_core::{ByteSize, Error, MachineName, Result};
use kld_test_support::{Console, Guest};

use crate::{setup, shell};

mod place;

use place::{POOL, Place};

/// Create a template from a small real guest, clone it, boot the clone and let it say its name
#[derive(clap::Args)]
pub struct Args {
    /// The clone's name
    #[arg(long, value_name = "NAME", default_value = "web-5")]
    clone: String,
    /// Start a private libvirt even where the system has one
    #[arg(long)]
    private: bool,
    /// Do it on a ZFS pool in a lab, with the guest under KVM
    #[arg(long, conflicts_with = "private")]
    lab: bool,
    /// Install missing packages without asking
    #[arg(long, short)]
    yes: bool,
}

const TEMPLATE: &str = "template";

/// The guest boots under software emulation, or under KVM on a processor that is emulated itself, on a machine that may
/// be busy.
const PATIENCE: Duration = Duration::from_secs(600);

pub fn run(args: &Args, ui: &Ui) -> Result<()> {
    let clone = MachineName::parse(&args.clone)?.to_string();
    if clone == TEMPLATE {
        return Err(Error::usage("the clone cannot have the template's name"));
    }
    setup::install(args.yes, ui)?;
    let guest = Guest::ensure(ui)?;
    shell::watch(ui, shell::cargo(&["build", "--quiet", "--package", "kld-bin-kvm"]))?;
    let place = if args.lab { Place::lab(ui)? } else { Place::here(args.private, ui)? };
    let image = place.image(&guest, ui)?;
    if args.lab {
        pool(&place, ui)?;
    }
    let mut made = Made { place: &place, ui, machines: Vec::new() };

    place.run(ui, "kvm-create", &[TEMPLATE, "--from", &image, "--memory", "256", "--network", "none"])?;
    made.machines.push(TEMPLATE.to_string());
    place.run(ui, "kvm-template", &[TEMPLATE])?;

    let before = place.allocated();
    let started = Instant::now();
    place.run(ui, "kvm-clone", &[TEMPLATE, &clone])?;
    let took = started.elapsed();
    made.machines.push(clone.clone());
    let bytes = place.allocated().saturating_sub(before);

    place.run(ui, "kvm-start", &[&clone])?;
    let started = Instant::now();
    let said = listen(&place, ui, &clone)?;
    let booted = started.elapsed();
    ui.line(format!("  {said}"))?;
    if args.lab {
        place.run(ui, "kvm-snap", &[&clone, "create", "first-boot"])?;
        place.run(ui, "kvm-snap", &[&clone])?;
        place.run(ui, "kvm-list", &[])?;
    }
    drop(made);
    ui.line(format!(
        "cloned in {} ms, {} taken; the clone said its name {:.1} s after its start",
        took.as_millis(),
        ByteSize::new(bytes),
        booted.as_secs_f64()
    ))
}

/// A pool for the machines, and libvirt's promise to start them on their own disks alone.
fn pool(place: &Place, ui: &Ui) -> Result<()> {
    let disk = "/dev/disk/by-id/virtio-data1";
    place.run(ui, "zpool", &["create", "-O", "mountpoint=none", POOL, disk])?;
    place.run(ui, "zfs", &["create", "-o", "volmode=dev", &format!("{POOL}/kld")])?;
    place.run(ui, "kvm-hook", &["--install", "--quiet"])?;
    place.run(ui, "pkill", &["-HUP", "-x", "libvirtd"])
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
    let said = format!("kld-guest: I am {clone} ");
    ui.line(format!("$ {}", place::line("kvm-console", &[clone])))?;
    Console::connect(place.command("kvm-console", &[clone]))?.wait_for(&said, PATIENCE)
}
