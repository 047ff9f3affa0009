//! The demo guest: Debian's cloud kernel and a busybox initramfs on a small disk that boots by itself, finds its
//! NoCloud medium, takes its name from there and says it on the serial console.
//!
//! On the console it prints `kld-guest: I am NAME (instance ID)`, then `NAME login:`; any user name gives a root
//! shell, in which `mark TEXT` writes a line to the first disk, and the next boot prints it: `kld-guest: vda bears
//! 'TEXT'`. It shuts down when the ACPI power button is pressed, answers as a guest agent (ping, freeze, thaw,
//! shutdown) on `org.qemu.guest_agent.0`, and asks for an address by DHCP.

use std::path::{Path, PathBuf};

use kld_core::error::Trying;
use kld_core::ui::Ui;
use kld_core::{Error, Result, fsio};

use crate::root::{self, Root, cache_folder};
use crate::{Host, host};

/// What the guest is made of, by the names that its build script knows.
const PARTS: &[(&str, &str)] = &[
    ("build.sh", include_str!("guest/build.sh")),
    ("init.sh", include_str!("guest/init.sh")),
    ("agent.sh", include_str!("guest/agent.sh")),
    ("mark.sh", include_str!("guest/mark.sh")),
    ("dhcp.sh", include_str!("guest/dhcp.sh")),
    ("syslinux.cfg", include_str!("guest/syslinux.cfg")),
];

/// The built files.
const FILES: [&str; 3] = ["vmlinuz", "initramfs", "guest.qcow2"];

/// Where on its first disk the guest keeps its mark, in bytes; the line is at most 512 long.
pub const MARK_OFFSET: u64 = 512;

/// A built demo guest.
#[derive(Debug, Clone)]
pub struct Guest {
    folder: PathBuf,
}

impl Guest {
    /// The guest, where it is built and whole.
    pub fn find() -> Option<Guest> {
        let guest = Guest { folder: cache_folder().join(format!("guest-{}", key(&Root::find()?))) };
        let stamp = fsio::read_text(&guest.folder.join("stamp"), 64).ok()??;
        (stamp == fingerprint(&guest.folder).ok()?).then_some(guest)
    }

    /// The guest; built, or built again where it is damaged.
    pub fn ensure(ui: &Ui) -> Result<Guest> {
        let root = Root::ensure(ui)?;
        let _lock = root::lock(&cache_folder().join("guest.lock"))?;
        if let Some(guest) = Guest::find() {
            return Ok(guest);
        }
        let folder = cache_folder().join(format!("guest-{}", key(&root)));
        ui.note(format!("building the demo guest in {}", folder.display()));
        let made = tempfile::Builder::new().prefix("kld-").tempdir();
        let made = made.trying(|| "cannot make a temporary folder".to_string())?;
        build(&root, made.path())?;
        let new = fsio::temporary_beside(&folder);
        for leftover in [&folder, &new] {
            root::remove_tree(leftover)?;
        }
        fsio::create_dir_all(&new, 0o755)?;
        for file in FILES {
            let copied = std::fs::copy(made.path().join("out").join(file), new.join(file));
            copied.trying(|| format!("cannot write {}", new.join(file).display()))?;
        }
        fsio::replace(&new.join("stamp"), fingerprint(&new)?.as_bytes(), 0o644)?;
        std::fs::rename(&new, &folder).trying(|| format!("cannot make {}", folder.display()))?;
        Ok(Guest { folder })
    }

    /// A bootable qcow2 disk of 64 MiB, for `kvm-create --from`.
    pub fn image(&self) -> PathBuf {
        self.folder.join("guest.qcow2")
    }

    /// The kernel alone, for machines that boot it directly.
    pub fn kernel(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    /// The initramfs alone.
    pub fn initramfs(&self) -> PathBuf {
        self.folder.join("initramfs")
    }
}

/// Builds the guest inside a private host, whose `/usr` and `/boot` are the private root's.
fn build(root: &Root, folder: &Path) -> Result<()> {
    let ground = host::Ground::PrivateRoot(root.clone());
    let host = Host::start_with(&ground, folder, host::After::Keep, ("root", "root"))?;
    for part in ["guest", "out"] {
        fsio::create_dir_all(&folder.join(part), 0o755)?;
    }
    for (name, text) in PARTS {
        fsio::replace(&folder.join("guest").join(name), text.as_bytes(), 0o644)?;
    }
    let script = folder.join("guest/build.sh");
    let ran = host.inside("bash", [script, folder.join("guest"), folder.join("out")]);
    match ran.code {
        Some(0) => Ok(()),
        _ => Err(Error::failed("cannot build the demo guest", ran.stderr.trim())),
    }
}

/// A name for what goes into the guest: its parts, and the root with its kernel.
fn key(root: &Root) -> String {
    let start = root::fnv1a(root::FNV_START, root.tree().as_os_str().as_encoded_bytes());
    let key = PARTS.iter().fold(start, |key, (_, text)| root::fnv1a(key, text.as_bytes()));
    format!("{key:016x}")
}

/// A digest of the built files' contents.
fn fingerprint(folder: &Path) -> Result<String> {
    let mut digest = root::FNV_START;
    for file in FILES {
        let path = folder.join(file);
        digest =
            root::fnv1a(digest, &std::fs::read(&path).trying(|| format!("cannot read {}", path.display()))?);
    }
    Ok(format!("{digest:016x}"))
}

#[cfg(test)]
mod tests;
