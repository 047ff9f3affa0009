//! The main job on a pool: a template, clones that boot under KVM, snapshots of what guests write, and a pool that is
//! as it was after all is deleted.
#![allow(
    clippy::print_stderr,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "these are tests"
)]

use kld_core::ByteSize;
use kld_machine_tests::{Lab, PATIENCE};

/// The demo guest's disk, where `cargo xtask lab test` puts it.
const IMAGE: &str = "/run/kld/guest/guest.qcow2";

/// What a pool may keep of machines that are gone: its own bookkeeping (space maps, the history of commands, tables
/// that have grown and do not shrink). It is far less than what was written.
const BOOKKEEPING: u64 = 512 << 10;
const WRITTEN: u64 = 8 << 20;

#[test]
fn a_template_is_cloned_booted_written_to_rolled_back_and_deleted() {
    let Some(lab) = Lab::get() else { return };
    lab.ok("kvm-create", &["template", "--from", IMAGE, "--memory", "256M"]);
    lab.ok("kvm-template", &["template"]);
    // What is made once stays: the folder of bases.
    lab.ok("kvm-clone", &["template", "first"]);
    lab.ok("kvm-delete", &["first"]);
    let before = lab.allocated();

    lab.ok("kvm-clone", &["template", "--count", "10", "--prefix", "many-"]);
    lab.ok("kvm-clone", &["template", "web-5"]);
    lab.install_hook();

    // It boots under KVM and says its name.
    lab.ok("kvm-start", &["web-5"]);
    let mut console = lab.console("web-5");
    eprintln!("{}", console.wait_for("kld-guest: I am web-5 ", PATIENCE).unwrap());
    assert!(lab.ok("virsh", &["dumpxml", "web-5"]).contains("<domain type='kvm'"));

    // What its guest has written when the snapshot is taken comes back, and what it writes afterwards goes.
    let mut type_in = |command: &str, number: u32| {
        console.say(&format!("{command}; echo done-$(({number}))")).unwrap();
        console.wait_for(&format!("done-{number}"), PATIENCE).unwrap();
    };
    type_in("root\nmark before", 1);
    lab.ok("kvm-snap", &["web-5", "create", "one"]);
    let at_snapshot = digest(&lab);
    let megabytes = WRITTEN >> 20;
    type_in(&format!("mark after; dd if=/dev/urandom of=/dev/vda bs=1M seek=40 count={megabytes}; sync"), 2);
    drop(console);
    lab.ok("kvm-stop", &["web-5", "--timeout", "0", "--force"]);
    assert_ne!(digest(&lab), at_snapshot);
    let held = lab.allocated() - before;
    assert!(held > WRITTEN, "{held} bytes are allocated for what was written");
    lab.ok("kvm-snap", &["web-5", "rollback", "one"]);
    assert_eq!(digest(&lab), at_snapshot);

    lab.ok("kvm-start", &["web-5"]);
    let said = lab.console("web-5").wait_for("kld-guest: vda bears ", PATIENCE).unwrap();
    assert_eq!(said, "kld-guest: vda bears 'before'");

    // What was made is gone, and so is what it took.
    lab.ok("kvm-stop", &["web-5", "--timeout", "0", "--force"]);
    let many: Vec<String> = (1..=10).map(|number| format!("many-{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    lab.ok("kvm-delete", &[&["web-5"], &many[..]].concat());
    let after = lab.allocated();
    let [was, is, held] = [before, after, held].map(ByteSize::new);
    eprintln!("the pool had {was} allocated, {held} more with the clones, and has {is} after they are gone");
    assert!(after.saturating_sub(before) < BOOKKEEPING, "{was} before, {is} after");
}

/// A digest of the whole disk of web-5, past all caches.
fn digest(lab: &Lab) -> String {
    let script = "dd if=\"$1\" bs=1M iflag=direct status=none | sha256sum";
    lab.ok("sh", &["-c", script, "digest", lab.link("web-5").to_str().unwrap()])
}
