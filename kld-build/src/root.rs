//! Root trees: Debian file systems as plain folders, made by mmdebstrap from the mirror that the host's own apt uses.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kld_core::exec::Exec;
use kld_core::{Change, Error, Result};

use crate::cache::Cache;
use crate::digest::Digest;
use crate::{apt, contained};

/// Parts of packages that nobody reads in a tree that serves programs.
const LEFT_OUT: [&str; 4] =
    ["/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*", "/usr/share/info/*"];

/// What a tree holds.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// What it is for, the first part of its name in the cache.
    pub name: String,
    /// Debian's release, such as `trixie`.
    pub suite: String,
    /// Another release beside it, such as `trixie-backports`, from which a package comes that is written
    /// `package/release`.
    pub beside: Option<String>,
    /// The archive's components, such as `main` and `contrib`.
    pub components: Vec<String>,
    /// Packages beyond Debian's essential ones and apt.
    pub packages: Vec<String>,
}

impl Recipe {
    /// The name of its tree: another recipe is another tree.
    pub fn key(&self) -> String {
        let parts = [std::slice::from_ref(&self.suite), &self.components[..], &self.packages[..]];
        let beside = self.beside.as_ref().map(std::slice::from_ref);
        let digest = parts
            .into_iter()
            .chain(beside)
            .fold(Digest::default(), |digest, part| digest.with(Digest::of(part).to_string().as_bytes()));
        format!("{}-{digest}", self.name)
    }

    /// The tree, where it is made and whole.
    pub fn find(&self, cache: &Cache) -> Option<Tree> {
        cache.find(&self.key()).map(|folder| Tree::at(folder.join("tree")))
    }

    /// The tree; made, or made again where it is damaged. This takes minutes.
    pub fn ensure(&self, cache: &Cache) -> Result<Change<Tree>> {
        let made = cache.ensure(&self.key(), |folder| self.make(&folder.join("tree")))?;
        Ok(match made {
            Change::Unchanged(folder) => Change::Unchanged(Tree::at(folder.join("tree"))),
            Change::Changed(folder) => Change::Changed(Tree::at(folder.join("tree"))),
        })
    }

    /// Makes the tree in `target`, which must not be there or be empty.
    pub fn make(&self, target: &Path) -> Result<()> {
        self.mmdebstrap("apt", target)
    }

    /// Puts there what is in the packages and in those that they need, and sets nothing up: no tree to run, but a place
    /// to take files from.
    pub fn unpack(&self, target: &Path) -> Result<()> {
        self.mmdebstrap("extract", target)
    }

    fn mmdebstrap(&self, variant: &str, target: &Path) -> Result<()> {
        if !nix::unistd::geteuid().is_root() {
            let what = format!("cannot make the root tree {}", self.name);
            return Err(Error::failed(what, "mmdebstrap needs root here")
                .with_hint("run it as root, in a container or a virtual machine if you like"));
        }
        let keyring = apt::keyring().display();
        let (mirror, components) = (apt::mirror()?, self.components.join(" "));
        let source = |suite: &String| format!("deb [signed-by={keyring}] {mirror} {suite} {components}");
        let mut mmdebstrap = contained("mmdebstrap")
            .args(["--mode=root", "--format=directory"])
            .arg(format!("--variant={variant}"))
            .arg(format!("--include={}", self.packages.join(",")))
            .arg("--aptopt=APT::Install-Recommends \"false\"")
            .arg("--dpkgopt=force-unsafe-io")
            .arg("--dpkgopt=force-confold")
            // Debian's initramfs is never booted here, and takes a while to make.
            .arg(r#"--essential-hook=mkdir -p "$1/etc/initramfs-tools""#)
            .arg(r#"--essential-hook=echo update_initramfs=no >"$1/etc/initramfs-tools/update-initramfs.conf""#);
        for path in LEFT_OUT {
            mmdebstrap = mmdebstrap.arg(format!("--dpkgopt=path-exclude={path}"));
        }
        let sources = [&self.suite].into_iter().chain(&self.beside).map(source);
        let mmdebstrap = mmdebstrap.arg(&self.suite).arg(target).args(sources);
        let made = mmdebstrap.limit(Duration::from_secs(1800)).output();
        let made =
            made.map_err(|error| error.with_hint("mmdebstrap and Debian's keyring must be installed"))?;
        if made.code == Some(0) {
            return Ok(());
        }
        let what = format!("cannot make the root tree {}", self.name);
        Err(Error::failed(what, first_error(&made.stderr))
            .with_hint(format!("it is made of {mirror}; KLD_DEBIAN_MIRROR names another mirror")))
    }
}

/// A root tree.
#[derive(Debug, Clone)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// A tree that is there already; `/` is the host's own.
    pub fn at(root: impl Into<PathBuf>) -> Tree {
        Tree { root: root.into() }
    }

    /// Its `/`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path inside the tree, given as it is seen there.
    pub fn path(&self, inside: &str) -> PathBuf {
        self.root.join(inside.trim_start_matches('/'))
    }

    /// One of the tree's programs, run on this host without a chroot: it sees the host's files, and takes its
    /// libraries from the tree.
    pub fn program(&self, name: &str) -> Result<Exec> {
        let folders = ["usr/bin", "usr/sbin"].map(|folder| self.path(folder).join(name));
        let program = folders.into_iter().find(|path| path.is_file()).ok_or_else(|| {
            Error::failed(
                format!("cannot run {name}"),
                format!("{} has no such program", self.root.display()),
            )
        })?;
        if self.root == Path::new("/") {
            return Ok(Exec::at(&program));
        }
        let loader = self.path(LOADER);
        Ok(Exec::at(&loader).called(name).arg("--library-path").arg(self.libraries()).arg(program))
    }

    /// The folder of the tree's libraries.
    pub fn libraries(&self) -> PathBuf {
        self.path(&format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH))
    }

    /// The version of an installed package; `None` where it is not installed.
    pub fn version(&self, package: &str) -> Result<Option<String>> {
        let status = self.path("var/lib/dpkg/status");
        let status = kld_core::fsio::read_text(&status, 64 << 20)?.unwrap_or_default();
        Ok(installed_version(&status, package))
    }

    /// The release of the tree's newest kernel that has its modules, such as `6.12.48+deb13-amd64`.
    pub fn kernel(&self) -> Result<String> {
        let modules = std::fs::read_dir(self.path("usr/lib/modules")).into_iter().flatten().flatten();
        let mut releases: Vec<String> =
            modules.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        releases.retain(|release| self.path("boot").join(format!("vmlinuz-{release}")).is_file());
        releases.sort_by_key(|release| version_key(release));
        let missing = || Error::failed("cannot find a kernel", format!("{} has none", self.root.display()));
        releases.pop().ok_or_else(missing)
    }
}

#[cfg(target_arch = "x86_64")]
const LOADER: &str = "usr/lib64/ld-linux-x86-64.so.2";
#[cfg(target_arch = "aarch64")]
const LOADER: &str = "usr/lib/ld-linux-aarch64.so.1";

/// The line that tells what went wrong: the last ones only say that something did.
fn first_error(said: &str) -> &str {
    let tells = |line: &&str| ["E: ", "dpkg: error", "error: "].iter().any(|start| line.starts_with(start));
    let last = said.lines().rev().find(|line| !line.trim().is_empty());
    let line = said.lines().find(tells).or(last).unwrap_or("mmdebstrap gave no reason");
    line.trim_start_matches("E: ")
}

/// Finds a package's version in dpkg's database.
fn installed_version(status: &str, package: &str) -> Option<String> {
    let field = |paragraph: &str, name: &str| {
        let value = paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value.map(str::to_string)
    };
    status
        .split("\n\n")
        .filter(|paragraph| field(paragraph, "Package").as_deref() == Some(package))
        .find(|paragraph| field(paragraph, "Status").as_deref() == Some("install ok installed"))
        .and_then(|paragraph| field(paragraph, "Version"))
}

/// Numbers within a name count as numbers: 6.9 comes before 6.12.
fn version_key(release: &str) -> Vec<(u64, String)> {
    let mut key = Vec::new();
    for part in release.split_inclusive(|c: char| !c.is_ascii_digit()) {
        let digits = part.trim_end_matches(|c: char| !c.is_ascii_digit());
        key.push((digits.parse().unwrap_or(0), part[digits.len()..].to_string()));
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(packages: &[&str]) -> Recipe {
        let packages = packages.iter().map(ToString::to_string).collect();
        let components = vec!["main".into()];
        Recipe { name: "t".into(), suite: "trixie".into(), beside: None, components, packages }
    }

    #[test]
    fn another_list_of_packages_is_another_tree() {
        assert_eq!(recipe(&["a"]).key(), recipe(&["a"]).key());
        assert_ne!(recipe(&["a"]).key(), recipe(&["b"]).key());
        assert_ne!(
            recipe(&["main", "a"]).key(),
            Recipe { components: vec!["main".into(), "main".into()], ..recipe(&["a"]) }.key()
        );
        assert_ne!(
            recipe(&["a"]).key(),
            Recipe { beside: Some("trixie-backports".into()), ..recipe(&["a"]) }.key()
        );
    }

    #[test]
    fn the_reason_is_the_first_error_and_not_what_follows_from_it() {
        let said = "I: running apt-get update...\nErr:1 http://m.example/debian trixie InRelease\n\
                    E: Failed to fetch http://m.example/debian  Could not connect\nE: mmdebstrap failed to run\n";
        assert_eq!(first_error(said), "Failed to fetch http://m.example/debian  Could not connect");
        assert_eq!(first_error("mount: permission denied\n\n"), "mount: permission denied");
    }

    #[test]
    fn only_installed_packages_have_a_version() {
        let status = "Package: zfsutils-linux\nStatus: install ok installed\nVersion: 2.3.2-2\n\n\
                      Package: zfs-zed\nStatus: deinstall ok config-files\nVersion: 2.1\n";
        assert_eq!(installed_version(status, "zfsutils-linux").as_deref(), Some("2.3.2-2"));
        assert_eq!(installed_version(status, "zfs-zed"), None);
        assert_eq!(installed_version(status, "zfs"), None);
    }

    #[test]
    fn the_newest_kernel_is_not_the_last_in_the_alphabet() {
        let mut releases = vec!["6.12.9+deb13-amd64", "6.9.1-amd64", "6.12.117+deb13-amd64"];
        releases.sort_by_key(|release| version_key(release));
        assert_eq!(releases, ["6.9.1-amd64", "6.12.9+deb13-amd64", "6.12.117+deb13-amd64"]);
    }

    #[test]
    fn a_program_that_the_tree_lacks_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = Tree::at(dir.path()).program("qemu-system-x86_64").unwrap_err();
        assert!(error.to_string().starts_with("cannot run qemu-system-x86_64: "), "{error}");
    }
}
