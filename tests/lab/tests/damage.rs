//! The lab's parts are copied, damaged, and made again. The mechanism's own tests are with kld-build's cache; this is
//! the whole way, which takes ten minutes, and so `cargo xtask test --full` alone goes it.
#![allow(clippy::print_stderr)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use kld_build::Cache;
use kld_build::appliance::Network;
use kld_build::modules::Wanted;
use kld_core::exec::Exec;
use kld_core::ui::Ui;
use kld_lab::{Parts, recipe};

/// Flips a bit in the middle of a file, and leaves its time as it was.
fn flip(path: &Path) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let meta = file.metadata().unwrap();
    let (middle, mut byte) = (meta.len() / 2, [0]);
    file.read_exact_at(&mut byte, middle).unwrap();
    file.write_all_at(&[byte[0] ^ 1], middle).unwrap();
    file.set_modified(meta.modified().unwrap()).unwrap();
}

fn runs(parts: &Parts) {
    let network = Network::new().unwrap();
    let lab = parts.start("lab", 1, &[network.plug()]).unwrap();
    assert_eq!(lab.agent().ask(&["hostname"]).unwrap(), "lab\n");
}

#[test]
#[ignore = "minutes: cargo xtask lab test"]
fn copied_parts_are_used_and_damaged_ones_made_anew() {
    if std::env::var_os("KLD_FULL").is_none() {
        eprintln!("skipped: 'cargo xtask lab test --full' runs this");
        return;
    }
    let (user, ui) = (Cache::of_user(), Ui::default());
    Parts::ensure(&user, &ui).unwrap();
    let tree = recipe::tree().find(&user).unwrap();
    let modules = Wanted::by(&tree, recipe::SUITE).unwrap().key();

    // A copy, as a CI system brings it back.
    let dir = tempfile::tempdir().unwrap();
    let copy = Cache::new(dir.path());
    std::fs::create_dir(dir.path().join("parts")).unwrap();
    for name in [&recipe::tree().key(), &modules] {
        let from = user.folder().join("parts").join(name);
        let to = dir.path().join("parts");
        Exec::new("cp").arg("-a").arg(from).arg(to).limit(std::time::Duration::from_secs(300)).run().unwrap();
        assert!(copy.find(name).is_some(), "{name} is a copy, but taken for damaged");
    }
    let parts = Parts::ensure(&copy, &ui).unwrap();
    runs(&parts);

    // The state first: another image would have another one.
    for file in parts.files().iter().rev() {
        flip(file);
        assert!(Parts::find(&copy).unwrap().is_none(), "{} is damaged, and used", file.display());
        if file.ends_with("root.erofs") || file.ends_with("memory") {
            runs(&Parts::ensure(&copy, &ui).unwrap());
        }
    }
    let tree = recipe::tree().find(&copy).unwrap();
    flip(&tree.path("usr/bin/qemu-system-x86_64"));
    assert!(recipe::tree().find(&copy).is_none(), "the tree is damaged, and used");
}
