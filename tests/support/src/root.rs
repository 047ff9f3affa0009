//! The private root: a Debian tree with the programs that the host lacks or has too old (QEMU, libvirtd, a guest
//! kernel), made once by mmdebstrap from the mirror that the host's own apt uses, and kept in the user's cache.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use kld_core::error::Trying;
use kld_core::exec::Exec;
use kld_core::ui::Ui;
use kld_core::{Error, Result, fsio};
use nix::fcntl::{Flock, FlockArg};

use crate::host::{After, Ground};
use crate::{Host, apt};

const SUITE: &str = "trixie";

/// What the private root holds beyond Debian's essential packages and apt.
const PACKAGES: &[&str] = &[
    "busybox-static",
    "cpio",
    "dnsmasq-base",
    "genisoimage",
    "iproute2",
    "libvirt-clients",
    "libvirt-daemon",
    "libvirt-daemon-driver-network",
    "libvirt-daemon-driver-nwfilter",
    "libvirt-daemon-driver-qemu",
    "libvirt-daemon-driver-storage",
    "libvirt-daemon-log",
    "linux-image-cloud-amd64",
    "mtools",
    "ovmf",
    "qemu-system-x86",
    "qemu-utils",
    "strace",
    "syslinux",
    "syslinux-common",
    "virtinst",
];

/// Parts of packages that nobody here reads.
const LEFT_OUT: &[&str] =
    &["/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*", "/usr/share/info/*"];

/// A whole, verified private root.
#[derive(Debug, Clone)]
pub struct Root {
    folder: PathBuf,
}

/// Where kld's development tools keep what is costly to make.
pub fn cache_folder() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(|| PathBuf::from("/var/cache"));
    cache.join("kld")
}

impl Root {
    /// The private root, where it is there and whole.
    pub fn find() -> Option<Root> {
        Root::find_in(&cache_folder())
    }

    fn find_in(cache: &Path) -> Option<Root> {
        let root = Root { folder: cache.join(format!("root-{}", key())) };
        let stamp = fsio::read_text(&root.folder.join("stamp"), 64).ok()??;
        (stamp == fingerprint(&root.tree()).ok()?).then_some(root)
    }

    /// The private root; made, or made again where it is damaged.
    pub fn ensure(ui: &Ui) -> Result<Root> {
        // Looked at once a process: a test that starts many hosts need not walk the tree for each.
        static SEEN: OnceLock<Root> = OnceLock::new();
        match SEEN.get() {
            Some(root) => Ok(root.clone()),
            None => Root::find_or_make(ui).map(|root| SEEN.get_or_init(|| root).clone()),
        }
    }

    fn find_or_make(ui: &Ui) -> Result<Root> {
        let cache = cache_folder();
        fsio::create_dir_all(&cache, 0o755)?;
        let _lock = lock(&cache.join("root.lock"))?;
        if let Some(root) = Root::find() {
            return Ok(root);
        }
        let root = Root { folder: cache.join(format!("root-{}", key())) };
        // A run that was killed, or a damaged root.
        for leftover in [root.folder.clone(), fsio::temporary_beside(&root.folder)] {
            if leftover.exists() {
                std::fs::remove_dir_all(&leftover)
                    .trying(|| format!("cannot remove {}", leftover.display()))?;
            }
        }
        ui.note(format!("making the private root in {} (about a minute, once)", root.folder.display()));
        let new = Root { folder: fsio::temporary_beside(&root.folder) };
        fsio::create_dir_all(&new.folder, 0o755)?;
        bootstrap(SUITE, PACKAGES, &new.tree())
            .inspect_err(|_| drop(std::fs::remove_dir_all(&new.folder)))?;
        fsio::replace(&new.folder.join("stamp"), fingerprint(&new.tree())?.as_bytes(), 0o644)?;
        std::fs::rename(&new.folder, &root.folder)
            .trying(|| format!("cannot make {}", root.folder.display()))?;
        root.learn_capabilities()?;
        Ok(root)
    }

    /// Lets libvirt look at QEMU once: it takes 1.5 s, which each host would otherwise spend again.
    fn learn_capabilities(&self) -> Result<()> {
        let folder = tempfile::Builder::new().prefix("kld-").tempdir();
        let folder = folder.trying(|| "cannot make a temporary folder".to_string())?;
        let ground = Ground::PrivateRoot(self.clone());
        let host = Host::start_with(&ground, folder.path(), After::Keep, ("root", "root"))?;
        host.virsh(["capabilities"]);
        let copy = format!("cp -a /var/cache/libvirt '{}/capabilities'", folder.path().display());
        host.inside("bash", ["-c", &copy]);
        drop(host);
        // Only an optimisation: what could not be learned is learned later, by each host.
        let _ =
            Exec::new("cp").arg("-a").arg(folder.path().join("capabilities")).arg(self.capabilities()).run();
        Ok(())
    }

    /// The tree itself: the `/` of the private root.
    pub fn tree(&self) -> PathBuf {
        self.folder.join("tree")
    }

    /// What libvirt found out about this root's QEMU.
    pub(crate) fn capabilities(&self) -> PathBuf {
        self.folder.join("capabilities")
    }
}

/// Makes a Debian tree of a suite, apt and some packages in a folder.
pub fn bootstrap(suite: &str, packages: &[&str], tree: &Path) -> Result<()> {
    let what = format!("cannot make a tree of Debian {suite}");
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::failed(what, "mmdebstrap needs root here")
            .with_hint("run it as root, in a container or a virtual machine if you like"));
    }
    if Exec::which("mmdebstrap").is_none() || !apt::keyring().exists() {
        return Err(Error::failed(what, "mmdebstrap or Debian's keyring is not installed")
            .with_hint("run cargo xtask setup"));
    }
    let source = format!("deb [signed-by={}] {} {suite} main", apt::keyring().display(), apt::mirror()?);
    let mut mmdebstrap = Exec::new("mmdebstrap")
        .args(["--mode=root", "--variant=apt", "--quiet"])
        .arg(format!("--include={}", packages.join(",")))
        // Its initramfs would never be booted and takes a while to make.
        .arg("--dpkgopt=force-confold")
        .arg(r#"--essential-hook=mkdir -p "$1/etc/initramfs-tools""#)
        .arg(r#"--essential-hook=echo update_initramfs=no >"$1/etc/initramfs-tools/update-initramfs.conf""#);
    for path in LEFT_OUT {
        mmdebstrap = mmdebstrap.arg(format!("--dpkgopt=path-exclude={path}"));
    }
    mmdebstrap.arg(suite).arg(tree).arg(source).limit(Duration::from_secs(1200)).run()?;
    Ok(())
}

/// A tree of a suite with some packages, made once and kept in the cache under a name of its own.
pub fn clean_tree(name: &str, suite: &str, packages: &[&str], ui: &Ui) -> Result<PathBuf> {
    let cache = cache_folder();
    fsio::create_dir_all(&cache, 0o755)?;
    let _lock = lock(&cache.join("clean.lock"))?;
    let tree = cache.join(name);
    if !tree.exists() {
        ui.note(format!("making a tree of Debian {suite} in {} (once)", tree.display()));
        let new = fsio::temporary_beside(&tree);
        remove_tree(&new)?;
        bootstrap(suite, packages, &new).inspect_err(|_| drop(remove_tree(&new)))?;
        std::fs::rename(&new, &tree).trying(|| format!("cannot make {}", tree.display()))?;
    }
    Ok(tree)
}

/// Removes a folder and all in it; one that is not there is as wanted.
pub fn remove_tree(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        outcome => outcome.trying(|| format!("cannot remove {}", folder.display())),
    }
}

/// An exclusive lock that the kernel drops when this process ends.
pub fn lock(path: &Path) -> Result<Flock<File>> {
    let file = File::create(path).trying(|| format!("cannot create {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, errno)| errno)
        .trying(|| format!("cannot lock {}", path.display()))
}

/// A name for what goes into the root: another list of packages is another root.
fn key() -> String {
    let list = [&[SUITE], PACKAGES, LEFT_OUT].concat().join(" ");
    format!("{:016x}", fnv1a(FNV_START, list.as_bytes()))
}

/// A digest of what is in the tree: each file's path, type, size and time of change. It finds what was removed,
/// cut short or edited, in the time of a walk.
fn fingerprint(tree: &Path) -> Result<String> {
    let mut digest = FNV_START;
    let mut folders = vec![tree.join("usr"), tree.join("etc"), tree.join("boot")];
    let mut count = 0;
    while let Some(folder) = folders.pop() {
        let what = || format!("cannot read {}", folder.display());
        let entries: std::io::Result<Vec<_>> = std::fs::read_dir(&folder).trying(what)?.collect();
        let mut entries = entries.trying(what)?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let meta = entry.metadata().trying(|| format!("cannot read {}", path.display()))?;
            digest = fnv1a(digest, path.strip_prefix(tree).unwrap_or(&path).as_os_str().as_encoded_bytes());
            // A folder's size and time change when anything below it does, which is seen anyway.
            let (size, time) = if meta.is_dir() { (0, 0) } else { (meta.size(), meta.mtime()) };
            digest = fnv1a(digest, format!("{:o} {size} {time}", meta.mode()).as_bytes());
            count += 1;
            if meta.is_dir() {
                folders.push(path);
            }
        }
    }
    Ok(format!("{digest:016x} {count}"))
}

pub(crate) const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a: enough to notice accidents, the same with every compiler.
pub(crate) fn fnv1a(start: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["usr/bin", "etc", "boot"] {
            std::fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        std::fs::write(dir.path().join("usr/bin/qemu"), b"0123456789").unwrap();
        dir
    }

    #[test]
    fn a_whole_tree_has_the_same_fingerprint_each_time() {
        let dir = tree();
        assert_eq!(fingerprint(dir.path()).unwrap(), fingerprint(dir.path()).unwrap());
    }

    #[test]
    fn a_file_cut_short_or_removed_changes_the_fingerprint() {
        let dir = tree();
        let whole = fingerprint(dir.path()).unwrap();
        std::fs::write(dir.path().join("usr/bin/qemu"), b"01234").unwrap();
        let cut = fingerprint(dir.path()).unwrap();
        std::fs::remove_file(dir.path().join("usr/bin/qemu")).unwrap();
        let removed = fingerprint(dir.path()).unwrap();
        assert!(whole != cut && cut != removed && whole != removed);
    }

    #[test]
    fn a_damaged_or_unfinished_root_is_not_trusted() {
        let cache = tempfile::tempdir().unwrap();
        let folder = cache.path().join(format!("root-{}", key()));
        std::fs::create_dir(&folder).unwrap();
        std::fs::rename(tree().keep(), folder.join("tree")).unwrap();
        assert!(Root::find_in(cache.path()).is_none(), "it has no stamp yet");

        std::fs::write(folder.join("stamp"), fingerprint(&folder.join("tree")).unwrap()).unwrap();
        assert!(Root::find_in(cache.path()).is_some());

        std::fs::remove_file(folder.join("tree/usr/bin/qemu")).unwrap();
        assert!(Root::find_in(cache.path()).is_none(), "a program is gone");
    }

    #[test]
    fn a_tree_without_its_folders_is_an_error() {
        assert!(fingerprint(tempfile::tempdir().unwrap().path()).is_err());
    }
}
