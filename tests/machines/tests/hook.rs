//! libvirt's hook: every start, plain `virsh start` too, is one on the machine's own disk.
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "these are tests")]

use std::time::{Duration, Instant};

use kld_machine_tests::{Lab, mark};
use kld_test_support::Ran;

/// A hook that refuses must have done so by then: its own patience is 10 s, and the lab is slow.
const BOUND: Duration = Duration::from_secs(120);

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

/// A lab with machines of these names, and kld's hook in libvirt.
fn lab(machines: &[&str]) -> Option<Lab> {
    let lab = Lab::get()?;
    lab.template();
    lab.clones(&names(machines));
    lab.install_hook();
    Some(lab)
}

#[track_caller]
fn refused(lab: &Lab, ran: &Ran, machine: &str, why: &str) {
    let link = std::fs::read_link(lab.link(machine));
    assert_ne!(ran.code, Some(0), "it was started, and its link is now {link:?}");
    assert!(ran.stderr.contains(why), "'{why}' is not in: {}", ran.stderr);
    assert_eq!(lab.state(machine), "shut off");
}

#[test]
fn a_machine_is_started_on_its_own_disk_or_not_at_all() {
    let Some(lab) = lab(&["web", "db"]) else { return };
    let start = |machine| lab.run("virsh", &["start", machine]);

    // A link to another machine's disk, by whichever way it is started.
    lab.exchange("web", "db");
    let root = lab.root();
    let why = format!("{} is the volume {root}/db/vda, not {root}/web/vda", lab.link("web").display());
    refused(&lab, &start("web"), "web", &format!("web is not started: {why}"));
    refused(&lab, &lab.run("kvm-start", &["web"]), "web", &why);

    // No link: it is waited for, a while.
    lab.lose("web");
    let began = Instant::now();
    refused(&lab, &start("web"), "web", "No such file or directory");
    assert!(began.elapsed() > Duration::from_secs(9) && began.elapsed() < BOUND, "{:?}", began.elapsed());

    // A link that comes late.
    std::thread::scope(|scope| {
        let started = scope.spawn(|| start("web"));
        std::thread::sleep(Duration::from_secs(4));
        lab.mend("web");
        started.join().unwrap().ok();
    });
    lab.sees_its_own_disk("web");
}

#[test]
fn what_is_not_klds_starts_too() {
    let Some(lab) = lab(&["web"]) else { return };
    let define = |name: &str, disk: &str| {
        let xml = format!(
            "<domain type='kvm'><name>{name}</name><memory unit='MiB'>16</memory>\
             <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>\
             <devices>{disk}<serial type='pty'/></devices></domain>"
        );
        let file = lab.folder().join("domain.xml");
        std::fs::write(&file, xml).unwrap();
        lab.ok("virsh", &["define", file.to_str().unwrap()]);
    };
    let remove = |name: &str| {
        lab.ok("virsh", &["destroy", name]);
        lab.ok("virsh", &["undefine", name]);
    };
    let file = lab.folder().join("foreign.raw");
    mark::image(&file);
    define(
        "in-a-file",
        &format!("<disk type='file'><source file='{}'/><target dev='vda'/></disk>", file.display()),
    );
    // A volume that kld did not make, by its partition.
    let volume = "kldtest/foreign";
    lab.ok("zfs", &["create", "-s", "-V", "8M", volume]);
    lab.ok("udevadm", &["settle"]);
    lab.ok("sh", &["-c", "echo 2048 | sfdisk --quiet /dev/zvol/kldtest/foreign && udevadm settle"]);
    define(
        "on-a-partition",
        "<disk type='block'><source dev='/dev/zvol/kldtest/foreign-part1'/><target dev='vda'/></disk>",
    );
    for name in ["in-a-file", "on-a-partition"] {
        lab.ok("virsh", &["start", name]);
        assert_eq!(lab.state(name), "running");
    }
    ["in-a-file", "on-a-partition"].into_iter().for_each(remove);
}

#[test]
fn a_hook_that_is_killed_lets_nothing_start() {
    let Some(lab) = lab(&["web"]) else { return };
    // The hook waits for the link, and is killed meanwhile.
    lab.lose("web");
    let began = Instant::now();
    std::thread::scope(|scope| {
        let started = scope.spawn(|| lab.run("virsh", &["start", "web"]));
        while lab.run("pkill", &["-KILL", "-f", "qemu.d/kld web prepare"]).code != Some(0) {
            assert!(began.elapsed() < BOUND, "no hook runs");
            std::thread::sleep(Duration::from_millis(100));
        }
        refused(&lab, &started.join().unwrap(), "web", "Hook script execution failed");
    });
    assert!(began.elapsed() < BOUND);
    lab.mend("web");
    lab.ok("virsh", &["start", "web"]);
    lab.sees_its_own_disk("web");
}

#[test]
fn what_runs_or_is_saved_is_not_lost_to_a_wrong_link() {
    let Some(lab) = lab(&["web", "db"]) else { return };
    lab.ok("virsh", &["start", "web"]);
    lab.sees_its_own_disk("web");

    // libvirt asks its hooks when it comes back, and would end a machine that one of them refuses.
    lab.exchange("web", "db");
    lab.ok("sh", &["-c", "pkill -KILL -x libvirtd; sleep 1; libvirtd --daemon"]);
    assert_eq!(lab.state("web"), "running");
    lab.sees_its_own_disk("web");

    lab.mend("web");
    lab.ok("virsh", &["managedsave", "web"]);
    lab.exchange("web", "db");
    refused(&lab, &lab.run("virsh", &["start", "web"]), "web", "is the volume");
    lab.mend("web");
    lab.ok("virsh", &["start", "web"]);
    lab.sees_its_own_disk("web");
}
