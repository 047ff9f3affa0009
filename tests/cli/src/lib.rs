//! What the tests of the tools share: images to start from, an [`Eye`] for what the store of the host holds, and
//! comparing what is left.
#![deny(missing_docs)]

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kld_test_support::{Host, host::Store};

mod eye;

pub use eye::{Eye, eye};

/// True where this test is not for the store that is tested here: it says so, and why, past the harness, which keeps
/// what a passing test prints.
pub fn only_on(store: Store, why: &str) -> bool {
    let here = if kld_test_support::in_lab() { Store::Zfs } else { Store::Dir };
    if store != here {
        let name = std::thread::current().name().unwrap_or("a test").to_string();
        let _ = writeln!(std::io::stderr(), "{name} is for the store {store:?} alone: {why}");
    }
    store != here
}

/// A qcow2 image of 10 GiB with a mark at its beginning, in the host's home folder.
pub fn image(host: &Host, name: &str) -> PathBuf {
    let path = home(host).join(name);
    let text = path.display().to_string();
    host.qemu_img(["create", "-q", "-f", "qcow2", &text, "10G"]).ok();
    host.qemu_io(["-f", "qcow2", "-c", "write -P 0x6b 0 64k", &text]).ok();
    path
}

/// The folder that stands for a person's home.
pub fn home(host: &Host) -> PathBuf {
    host.folder().join("home")
}

/// Everything that kld and libvirt have made: files with their sizes, modes and times of change, and domains. Locks
/// and what was read only are left out, since they are no leavings.
pub fn everything(host: &Host) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for folder in [host.store_root(), host.state_dir()] {
        walk(&folder, &mut all);
    }
    all.extend(eye(host).identities(host));
    let ignored =
        |path: &str| path.contains("/locks/") || path.ends_with("/lock") || path.ends_with("kvm-probe.json");
    all.retain(|path, _| !ignored(path));
    let names = host.virsh(["list", "--all", "--name"]).ok();
    let commands: String =
        names.split_whitespace().map(|name| format!("dumpxml --inactive {name};")).collect();
    if !commands.is_empty() {
        let definitions = host.virsh([commands]).ok();
        let definitions = definitions.split("</domain>").filter(|text| !text.trim().is_empty());
        all.extend(
            names
                .split_whitespace()
                .zip(definitions)
                .map(|(name, text)| (format!("domain {name}"), text.to_string())),
        );
    }
    all
}

fn walk(folder: &Path, all: &mut BTreeMap<String, String>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        match entry.metadata() {
            // A folder that holds nothing is no leaving: the store makes its few when it is first used.
            Ok(meta) if meta.is_dir() => walk(&path, all),
            Ok(meta) => {
                let (size, mode, changed) = (meta.len(), meta.mode(), meta.mtime_nsec());
                all.insert(
                    path.display().to_string(),
                    format!("{size} bytes, mode {mode:o}, changed at {changed}"),
                );
            }
            Err(_) => {}
        }
    }
}
