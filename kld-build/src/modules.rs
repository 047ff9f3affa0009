//! OpenZFS's kernel modules for an exact Debian kernel, compiled without DKMS and kept by version: two megabytes
//! that take eight minutes to make.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kld_core::{Change, Error, Result, fsio};

use crate::cache::Cache;
use crate::contained;
use crate::digest::Digest;
use crate::root::{Recipe, Tree};

/// What is run inside the build tree.
const BUILD: &str = include_str!("modules/build.sh");

/// Which modules for which kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Debian's release, such as `trixie`.
    pub suite: String,
    /// The kernel's release as `uname -r` says it.
    pub kernel: String,
    /// The version of Debian's package zfs-dkms, such as `2.3.2-2`.
    pub zfs: String,
}

impl Wanted {
    /// What a tree with a kernel and OpenZFS's programs needs.
    pub fn by(tree: &Tree, suite: &str) -> Result<Wanted> {
        let zfs = tree.version("zfsutils-linux")?.ok_or_else(|| {
            Error::failed("cannot choose OpenZFS's modules", "the tree has no zfsutils-linux")
        })?;
        Ok(Wanted { suite: suite.to_string(), kernel: tree.kernel()?, zfs })
    }

    /// Its name in the cache.
    pub fn key(&self) -> String {
        let digest = Digest::of([BUILD, &self.suite]);
        format!("zfs-{}-{}-{digest}", plain(&self.zfs), plain(&self.kernel))
    }

    /// The modules, where they are made and whole.
    pub fn find(&self, cache: &Cache) -> Option<Modules> {
        cache.find(&self.key()).map(|folder| Modules { archive: folder.join(ARCHIVE) })
    }

    /// The modules; made, or made again where they are damaged.
    pub fn ensure(&self, cache: &Cache) -> Result<Change<Modules>> {
        let made = cache.ensure(&self.key(), |folder| self.make(cache, folder))?;
        Ok(match made {
            Change::Unchanged(folder) => Change::Unchanged(Modules { archive: folder.join(ARCHIVE) }),
            Change::Changed(folder) => Change::Changed(Modules { archive: folder.join(ARCHIVE) }),
        })
    }

    fn make(&self, cache: &Cache, folder: &Path) -> Result<()> {
        let recipe = self.build_tree();
        let tree = recipe.ensure(cache)?.into_inner();
        let log = folder.join("log");
        let script = folder.join("build.sh");
        fsio::replace(&script, BUILD.as_bytes(), 0o644)?;
        let build = contained("bash").arg(&script).args([tree.root(), folder, &log]);
        let build = build.args([&self.kernel, &self.zfs]).limit(Duration::from_secs(3600)).run();
        build.map_err(|error| {
            let log = fsio::read_text(&log, 64 << 20).ok().flatten().unwrap_or_default();
            let last = log.lines().rev().find(|line| line.contains("rror")).unwrap_or_default().to_string();
            match last.is_empty() {
                true => error,
                false => Error::failed(format!("cannot compile OpenZFS for {}", self.kernel), last),
            }
        })?;
        for used in [&script, &log] {
            fsio::remove_if_exists(used)?;
        }
        // It has the size of a small system, and its work is kept.
        cache.remove(&recipe.key())
    }

    /// A tree with the compiler and the kernel's headers.
    fn build_tree(&self) -> Recipe {
        let headers = format!("linux-headers-{}", self.kernel);
        let packages =
            ["autoconf", "gcc", "libc6-dev", "libelf-dev", "make", "pahole", "xz-utils", "zstd", &headers];
        Recipe {
            name: "compiler".to_string(),
            suite: self.suite.clone(),
            beside: None,
            components: ["main", "contrib"].map(str::to_string).to_vec(),
            packages: packages.map(str::to_string).to_vec(),
        }
    }
}

const ARCHIVE: &str = "modules.tar.zst";

/// Compiled modules.
#[derive(Debug, Clone)]
pub struct Modules {
    archive: PathBuf,
}

impl Modules {
    /// A tar.zst with `lib/modules/RELEASE/updates/*.ko`.
    pub fn archive(&self) -> &Path {
        &self.archive
    }
}

/// A version as a part of a file's name.
fn plain(version: &str) -> String {
    version.chars().map(|c| if c.is_ascii_alphanumeric() || "+.-_".contains(c) { c } else { '_' }).collect()
}
