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

use kld_test_support::host::Store;
use lab::{Lab, Prepared};
use sweep::{Mending, sweep, sweep_recovery};

static NOTHING: Prepared = Prepared::new(|_| {});
static SOURCE: Prepared = Prepared::new(|lab| lab.source());
static SNAPSHOTS: Prepared = Prepared::new(|lab| lab.source_with_snapshots());
static CLONED: Prepared = Prepared::new(|lab| {
    lab.source();
    lab.tool("kvm-clone", &["src", "one"]);
});

#[test]
fn a_killed_create_is_undone_or_finished() {
    let lab = NOTHING.lend();
    let args =
        ["new", "--from", &lab.image, "--disk", "10G", "--disk", "1G", "--memory", "64M", "--user", "me"];
    sweep(&lab, "create", "kvm-create", &args, Mending::Told);
}

#[test]
fn a_killed_first_clone_which_moves_its_source_is_undone_or_finished() {
    let lab = SOURCE.lend();
    sweep(&lab, "clone, the first", "kvm-clone", &["src", "web"], Mending::Told);
}

#[test]
fn a_killed_second_clone_which_leaves_its_source_is_undone_or_finished() {
    let lab = CLONED.lend();
    sweep(&lab, "clone, the second", "kvm-clone", &["src", "two"], Mending::Told);
}

#[test]
fn a_killed_clone_into_several_leaves_all_or_none() {
    let lab = SOURCE.lend();
    sweep(&lab, "clone, three at once", "kvm-clone", &["src", "web-1", "web-2", "web-3"], Mending::Told);
}

#[test]
fn a_killed_full_clone_is_undone_or_finished() {
    let lab = SOURCE.lend();
    sweep(&lab, "clone, full", "kvm-clone", &["src", "copy", "--full"], Mending::Told);
}

#[test]
fn a_killed_snapshot_is_undone_or_finished() {
    let lab = SOURCE.lend();
    sweep(&lab, "snapshot", "kvm-snap", &["src", "create", "one"], Mending::Told);
}

#[test]
fn a_killed_rollback_is_undone_or_finished() {
    let lab = SNAPSHOTS.lend();
    sweep(&lab, "rollback", "kvm-snap", &["src", "rollback", "one", "-r"], Mending::Told);
}

#[test]
fn a_killed_snapshot_deletion_is_finished_and_its_layer_merged() {
    let lab = SNAPSHOTS.lend();
    let plan = lab.host.run("kvm-snap", ["src", "delete", "two", "--dry-run"]).ok();
    let layer = match lab.host.store() {
        Store::Dir => "merge",
        Store::Zfs => "destroy",
    };
    assert!(plan.contains(layer), "there is a layer to take out:\n{plan}");
    sweep(&lab, "snapshot deletion", "kvm-snap", &["src", "delete", "two"], Mending::Told);
}

#[test]
fn a_killed_freezing_as_a_template_is_done_or_not() {
    let lab = SOURCE.lend();
    // One call of libvirt does it, so that there is nothing to mend.
    sweep(&lab, "template", "kvm-template", &["src"], Mending::Nothing);
}

#[test]
fn a_killed_deletion_is_finished() {
    let lab = CLONED.lend();
    sweep(&lab, "deletion", "kvm-delete", &["one"], Mending::Told);
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
    let lab = CLONED.lend();
    sweep(&lab, "deletion without clones", "kvm-delete", &["src", "--promote"], Mending::Told);
}

#[test]
fn a_recovery_that_is_killed_too_is_taken_up_by_the_next_run() {
    let lab = SOURCE.lend();
    sweep_recovery(&lab, "recovery of a clone", "kvm-clone", &["src", "web"]);
}
