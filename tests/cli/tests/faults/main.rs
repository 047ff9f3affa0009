//! What a killed tool leaves, and what the next one makes of it; what two tools at once do to each other.
//!
//! Each scenario prepares a libvirt host once, and then kills one tool at its n-th mutating system call for every n
//! until it runs through. After each kill the next tool that changes something must finish or undo what was begun
//! and say which, and all that is there - files, domains, what the disks hold - must be as it was before the killed
//! run or as it is after a whole one.

mod journal;
mod lab;
mod running;
mod sweep;
mod together;

use lab::Lab;
use sweep::{Mending, sweep, sweep_recovery};

#[test]
fn a_killed_create_is_undone_or_finished() {
    let lab = Lab::new(|_| {});
    let args =
        ["new", "--from", &lab.image, "--disk", "10G", "--disk", "1G", "--memory", "64M", "--user", "me"];
    sweep(&lab, "create", "kvm-create", &args, Mending::Told);
}

#[test]
fn a_killed_first_clone_which_moves_its_source_is_undone_or_finished() {
    let lab = Lab::new(|lab| lab.source());
    sweep(&lab, "clone, the first", "kvm-clone", &["src", "web"], Mending::Told);
}

#[test]
fn a_killed_second_clone_which_leaves_its_source_is_undone_or_finished() {
    let lab = Lab::new(|lab| {
        lab.source();
        lab.tool("kvm-clone", &["src", "one"]);
    });
    sweep(&lab, "clone, the second", "kvm-clone", &["src", "two"], Mending::Told);
}

#[test]
fn a_killed_clone_into_several_leaves_all_or_none() {
    let lab = Lab::new(|lab| lab.source());
    sweep(&lab, "clone, three at once", "kvm-clone", &["src", "web-1", "web-2", "web-3"], Mending::Told);
}

#[test]
fn a_killed_full_clone_is_undone_or_finished() {
    let lab = Lab::new(|lab| lab.source());
    sweep(&lab, "clone, full", "kvm-clone", &["src", "copy", "--full"], Mending::Told);
}

#[test]
fn a_killed_snapshot_is_undone_or_finished() {
    let lab = Lab::new(|lab| lab.source());
    sweep(&lab, "snapshot", "kvm-snap", &["src", "create", "one"], Mending::Told);
}

#[test]
fn a_killed_rollback_is_undone_or_finished() {
    let lab = Lab::new(|lab| lab.source_with_snapshots());
    sweep(&lab, "rollback", "kvm-snap", &["src", "rollback", "one", "-r"], Mending::Told);
}

#[test]
fn a_killed_snapshot_deletion_is_finished_and_its_layer_merged() {
    let lab = Lab::new(|lab| lab.source_with_snapshots());
    let plan = lab.host.run("kvm-snap", ["src", "delete", "two", "--dry-run"]).ok();
    assert!(plan.contains("merge"), "there is a layer to merge:\n{plan}");
    sweep(&lab, "snapshot deletion", "kvm-snap", &["src", "delete", "two"], Mending::Told);
}

#[test]
fn a_killed_freezing_as_a_template_is_done_or_not() {
    let lab = Lab::new(|lab| lab.source());
    // One call of libvirt does it, so that there is nothing to mend.
    sweep(&lab, "template", "kvm-template", &["src"], Mending::Nothing);
}

#[test]
fn a_killed_deletion_is_finished() {
    let lab = Lab::new(|lab| {
        lab.source();
        lab.tool("kvm-clone", &["src", "web"]);
    });
    sweep(&lab, "deletion", "kvm-delete", &["web"], Mending::Told);
}

#[test]
fn a_killed_deletion_of_a_machine_and_its_clones_takes_all_or_none() {
    let lab = Lab::new(|lab| {
        lab.source();
        lab.tool("kvm-clone", &["src", "web-1", "web-2"]);
    });
    sweep(&lab, "deletion with clones", "kvm-delete", &["src", "--recursive"], Mending::Told);
}

#[test]
fn a_killed_deletion_that_leaves_the_clones_is_finished() {
    let lab = Lab::new(|lab| {
        lab.source();
        lab.tool("kvm-clone", &["src", "web-1"]);
    });
    sweep(&lab, "deletion without clones", "kvm-delete", &["src", "--promote"], Mending::Told);
}

#[test]
fn a_recovery_that_is_killed_too_is_taken_up_by_the_next_run() {
    let lab = Lab::new(|lab| lab.source());
    sweep_recovery(&lab, "recovery of a clone", "kvm-clone", &["src", "web"]);
}
