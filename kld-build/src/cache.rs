//! A cache of costly things, each a folder under a name that says what went into it. A thing is made beside its
//! place and renamed when it is whole; it is looked over before each use, and made again where it is damaged.

use std::fs::File;
use std::path::{Path, PathBuf};

use kld_core::error::Trying;
use kld_core::{Change, Result, fsio};
use nix::fcntl::{Flock, FlockArg};

use crate::digest::fingerprint;

/// The file in each folder that bears the folder's fingerprint.
pub(crate) const STAMP: &str = "stamp";

/// A folder of such things.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// A cache in `folder`, which is made when something is put there.
    pub fn new(folder: impl Into<PathBuf>) -> Cache {
        Cache { folder: folder.into() }
    }

    /// The user's cache: `kld` under `XDG_CACHE_HOME` or `~/.cache`, and under `/var/cache` without a home.
    pub fn of_user() -> Cache {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let cache = set("XDG_CACHE_HOME")
            .or_else(|| set("HOME").map(|home| home.join(".cache")))
            .unwrap_or_else(|| PathBuf::from("/var/cache"));
        Cache::new(cache.join("kld"))
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The thing of this name, where it is there and whole.
    pub fn find(&self, name: &str) -> Option<PathBuf> {
        let folder = self.folder.join(name);
        let stamp = fsio::read_text(&folder.join(STAMP), 64).ok()??;
        (stamp == fingerprint(&folder).ok()?).then_some(folder)
    }

    /// The thing of this name; made by `make` in an empty folder where it is missing or damaged. Of several
    /// processes that want it, one makes it.
    pub fn ensure(&self, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<Change<PathBuf>> {
        fsio::create_dir_all(&self.folder, 0o755)?;
        let _lock = self.lock(name)?;
        if let Some(folder) = self.find(name) {
            return Ok(Change::Unchanged(folder));
        }
        let folder = self.folder.join(name);
        let new = fsio::temporary_beside(&folder);
        // A run that was killed, or a damaged thing.
        for leftover in [&folder, &new] {
            remove_tree(leftover)?;
        }
        fsio::create_dir_new(&new, 0o755)?;
        let made = make(&new).and_then(|()| write_to_disk(&new));
        let made = made.and_then(|()| fsio::replace(&new.join(STAMP), fingerprint(&new)?.as_bytes(), 0o644));
        made.inspect_err(|_| drop(std::fs::remove_dir_all(&new)))?;
        std::fs::rename(&new, &folder).trying(|| format!("cannot make {}", folder.display()))?;
        Ok(Change::Changed(folder))
    }

    /// Removes the thing of this name, and what a killed run left of it.
    pub fn remove(&self, name: &str) -> Result<()> {
        fsio::create_dir_all(&self.folder, 0o755)?;
        let _lock = self.lock(name)?;
        let folder = self.folder.join(name);
        remove_tree(&fsio::temporary_beside(&folder))?;
        remove_tree(&folder)
    }

    /// The kernel drops the lock when this process ends.
    fn lock(&self, name: &str) -> Result<Flock<File>> {
        let path = self.folder.join(format!("{name}.lock"));
        let file = File::create(&path).trying(|| format!("cannot create {}", path.display()))?;
        Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| errno)
            .trying(|| format!("cannot lock {}", path.display()))
    }
}

/// Files that a crash has emptied would keep their size and time, and so pass for whole.
fn write_to_disk(folder: &Path) -> Result<()> {
    let what = || format!("cannot write {} to the disk", folder.display());
    let handle = File::open(folder).trying(what)?;
    nix::unistd::syncfs(&handle).trying(what)
}

/// Removes a folder and all in it; one that is not there is as wanted.
pub(crate) fn remove_tree(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed.trying(|| format!("cannot remove {}", folder.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, text: &str) -> Result<()> {
        fsio::replace(&folder.join("data"), text.as_bytes(), 0o644)
    }

    #[test]
    fn a_thing_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().join("cache"));
        assert!(cache.ensure("thing", |folder| write(folder, "one")).unwrap().is_changed());
        let again = cache.ensure("thing", |_| panic!("it is there")).unwrap();
        assert!(!again.is_changed());
    }

    #[test]
    fn a_damaged_thing_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path());
        let thing = cache.ensure("thing", |folder| write(folder, "whole")).unwrap().into_inner();
        std::fs::write(thing.join("data"), "who").unwrap();
        assert_eq!(cache.find("thing"), None);
        cache.ensure("thing", |folder| write(folder, "new")).unwrap();
        assert_eq!(std::fs::read_to_string(thing.join("data")).unwrap(), "new");
    }

    #[test]
    fn what_a_killed_run_left_is_cleared_away() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(".thing.kld-new")).unwrap();
        std::fs::write(dir.path().join(".thing.kld-new/half"), "half").unwrap();
        let cache = Cache::new(dir.path());
        let thing = cache.ensure("thing", |folder| write(folder, "whole")).unwrap().into_inner();
        assert!(!thing.join("half").exists() && !dir.path().join(".thing.kld-new").exists());
    }

    #[test]
    fn what_could_not_be_made_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path());
        let made = cache.ensure("thing", |folder| {
            write(folder, "half")?;
            Err(kld_core::Error::message("no more"))
        });
        assert_eq!(made.unwrap_err().to_string(), "no more");
        let left: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().flatten().map(|it| it.file_name()).collect();
        assert_eq!(left, ["thing.lock"]);
    }
}
