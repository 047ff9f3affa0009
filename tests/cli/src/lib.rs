//! What the tests of the tools share: images to start from, and comparing what is left.
#![deny(missing_docs)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kld_test_support::Host;

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

/// The 64 bytes at an offset of a disk, as QEMU reads them, in hexadecimal.
pub fn bytes_at(host: &Host, path: &Path, offset: u64) -> String {
    let read = format!("read -v {offset} 64");
    host.qemu_io(["-r", "-f", "qcow2", "-c", &read, &path.display().to_string()]).ok()
}

/// Everything that kld and libvirt have made: files with their sizes, and domains. Locks and what was read only are
/// left out, since they are no leavings.
pub fn everything(host: &Host) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for folder in [host.store_root(), host.state_dir()] {
        walk(&folder, &mut all);
    }
    let ignored =
        |path: &str| path.contains("/locks/") || path.ends_with("/lock") || path.ends_with("kvm-probe.json");
    all.retain(|path, _| !ignored(path));
    for domain in host.virsh(["list", "--all", "--name"]).ok().split_whitespace() {
        all.insert(format!("domain {domain}"), host.virsh(["dumpxml", "--inactive", domain]).ok());
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
            Ok(meta) => drop(all.insert(path.display().to_string(), format!("{} bytes", meta.len()))),
            Err(_) => {}
        }
    }
}
