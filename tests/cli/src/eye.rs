//! What a test sees of a store, and does to it, behind kld's back.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use kld_test_support::{Host, host::Store};

mod dir;
mod zfs;

/// A store as someone sees it who does not ask kld.
pub trait Eye {
    /// QEMU's name for how disks are laid out.
    fn format(&self) -> &'static str;

    /// What is at the beginning of a disk, and 1 MiB into it.
    fn contents(&self, host: &Host, disk: &str) -> String;

    /// The folder with a machine's seed, UEFI variables and snapshots' definitions.
    fn state_of(&self, host: &Host, machine: &str) -> PathBuf;

    /// Every volume of the store, those included that no machine has any more.
    fn volumes(&self, host: &Host) -> Vec<String>;

    /// The volumes, and what volumes can stand on, that none of these disks needs.
    fn orphans(&self, host: &Host, disks: &[String]) -> BTreeSet<String>;

    /// Puts things into the store that kld did not make and must not touch.
    fn plant(&self, host: &Host);

    /// What is there beside files, comparable from run to run, and what is wrong with it as far as that is told at once.
    fn inventory(&self, host: &Host) -> Vec<String>;

    /// What is there beside files, with what tells one thing from another of the same name.
    fn identities(&self, host: &Host) -> Vec<(String, String)>;

    /// What is wrong with volumes, after a look at all of them.
    fn complaints(&self, host: &Host) -> Vec<String>;

    /// Keeps all of the store and of kld's state in an empty folder.
    fn save(&self, host: &Host, to: &Path);

    /// Makes all of the store and of kld's state what it was when it was saved.
    fn restore(&self, host: &Host, from: &Path);
}

/// The eye for the store that a host has.
pub fn eye(host: &Host) -> &'static dyn Eye {
    match host.store() {
        Store::Dir => &dir::Dir,
        Store::Zfs => &zfs::Zfs,
    }
}

/// Copies a folder with all attributes of what is in it.
#[allow(clippy::disallowed_types, reason = "folders are copied with all their attributes")]
fn copy(from: &Path, to: &Path) {
    let mut cp = std::process::Command::new("/bin/cp");
    let status = cp.args(["-a", "--no-target-directory"]).args([from, to]).status();
    assert!(status.unwrap().success(), "cannot copy {}", from.display());
}

/// Makes a folder hold what another one does, and nothing else.
fn replace(folder: &Path, from: &Path) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.unwrap();
    }
    copy(from, folder);
}
