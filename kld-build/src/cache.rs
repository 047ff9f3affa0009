//! A cache of costly things, each a folder under a name that says what went into it. A thing is made beside its
//! place and renamed when it is whole; it is looked over before each use, and made again where it is damaged.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use kld_core::error::Trying;
use kld_core::{Change, Result, fsio};
use nix::fcntl::{Flock, FlockArg};

use crate::digest::{contents, look};

mod stamp;
#[cfg(test)]
mod tests;

use stamp::Stamp;
pub(crate) use stamp::{held, is_stamp};

/// What nobody has wanted for this time is taken away.
pub const UNUSED: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// A folder of such things, in its folder `parts`.
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

    fn place(&self, name: &str) -> PathBuf {
        self.folder.join("parts").join(name)
    }

    /// The thing of this name, where it is there and whole. Where it looks other than when it was made, as a copy does,
    /// every byte of it is read.
    pub fn find(&self, name: &str) -> Option<PathBuf> {
        // While it is held it stays; who makes it meanwhile is not waited for.
        let _lock = self.place(name).exists().then(|| self.try_lock(name).ok()?.inspect(|lock| touch(lock)));
        self.whole(name)
    }

    fn whole(&self, name: &str) -> Option<PathBuf> {
        let folder = self.place(name);
        let stamp = Stamp::read(&folder)?;
        let looks = look(&folder).ok()?;
        if looks != stamp.look {
            (contents(&folder).ok()? == stamp.contents).then_some(())?;
            // The next look is a quick one again.
            let _ = Stamp { look: looks, ..stamp }.write(&folder);
        }
        Some(folder)
    }

    /// Reads every byte of the thing of this name, and removes it where it is damaged; false where it is not there or
    /// was removed.
    pub fn check(&self, name: &str) -> Result<bool> {
        fsio::create_dir_all(&self.place(""), 0o755)?;
        let _lock = self.lock(name)?;
        let folder = self.place(name);
        let whole =
            Stamp::read(&folder).is_some_and(|stamp| contents(&folder).is_ok_and(|it| it == stamp.contents));
        if !whole {
            remove_tree(&folder)?;
        }
        Ok(whole)
    }

    /// The thing of this name; made by `make` in an empty folder where it is missing or damaged. Of several
    /// processes that want it, one makes it.
    pub fn ensure(&self, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<Change<PathBuf>> {
        fsio::create_dir_all(&self.place(""), 0o755)?;
        let _lock = self.lock(name)?;
        if let Some(folder) = self.whole(name) {
            return Ok(Change::Unchanged(folder));
        }
        let folder = self.place(name);
        let new = fsio::temporary_beside(&folder);
        // A run that was killed, or a damaged thing.
        for leftover in [&folder, &new] {
            remove_tree(leftover)?;
        }
        fsio::create_dir_new(&new, 0o755)?;
        let made = make(&new).and_then(|()| write_to_disk(&new)).and_then(|()| Stamp::of(&new)?.write(&new));
        made.inspect_err(|_| drop(std::fs::remove_dir_all(&new)))?;
        std::fs::rename(&new, &folder).trying(|| format!("cannot make {}", folder.display()))?;
        Ok(Change::Changed(folder))
    }

    /// Removes the thing of this name, and what a killed run left of it.
    pub fn remove(&self, name: &str) -> Result<()> {
        fsio::create_dir_all(&self.place(""), 0o755)?;
        let lock = self.lock(name)?;
        self.clear(name, lock)
    }

    /// Removes what nobody has wanted for longer than `unused`, and names it. What is being made or looked at stays,
    /// and so does what a guest runs from, since that has its files open.
    pub fn prune(&self, unused: Duration) -> Result<Vec<String>> {
        let mut gone = Vec::new();
        for entry in std::fs::read_dir(self.place("")).into_iter().flatten().flatten() {
            let Some(name) =
                entry.file_name().to_str().and_then(|name| name.strip_suffix(".lock")).map(String::from)
            else {
                continue;
            };
            if self.idle(&name) < unused {
                continue;
            }
            // Whoever wanted it meanwhile has touched it.
            match self.try_lock(&name)? {
                Some(lock) if self.idle(&name) >= unused => self.clear(&name, lock)?,
                _ => continue,
            }
            gone.push(name);
        }
        gone.sort();
        Ok(gone)
    }

    /// For how long nobody has wanted the thing of this name.
    fn idle(&self, name: &str) -> Duration {
        let touched = self.lock_file(name).metadata().and_then(|meta| meta.modified());
        let idle = touched.ok().and_then(|touched| SystemTime::now().duration_since(touched).ok());
        idle.unwrap_or_default()
    }

    fn clear(&self, name: &str, lock: Flock<File>) -> Result<()> {
        let folder = self.place(name);
        remove_tree(&fsio::temporary_beside(&folder))?;
        remove_tree(&folder)?;
        fsio::remove_if_exists(&self.lock_file(name))?;
        drop(lock);
        Ok(())
    }

    fn lock_file(&self, name: &str) -> PathBuf {
        self.place(&format!("{name}.lock"))
    }

    /// The kernel drops the lock when this process ends.
    fn lock(&self, name: &str) -> Result<Flock<File>> {
        loop {
            let lock = self.lock_as(name, FlockArg::LockExclusive)?;
            if let Some(lock) = lock.filter(|lock| self.is_current(name, lock)) {
                touch(&lock);
                return Ok(lock);
            }
        }
    }

    /// The lock, where nobody has it; it is not touched.
    fn try_lock(&self, name: &str) -> Result<Option<Flock<File>>> {
        let lock = self.lock_as(name, FlockArg::LockExclusiveNonblock)?;
        Ok(lock.filter(|lock| self.is_current(name, lock)))
    }

    fn lock_as(&self, name: &str, how: FlockArg) -> Result<Option<Flock<File>>> {
        let path = self.lock_file(name);
        let file = File::options().write(true).create(true).truncate(false).open(&path);
        let file = file.trying(|| format!("cannot create {}", path.display()))?;
        match Flock::lock(file, how) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(errno).trying(|| format!("cannot lock {}", path.display())),
        }
    }

    /// Whether a lock is still on the file of this name: who held it before may have removed that.
    fn is_current(&self, name: &str, lock: &Flock<File>) -> bool {
        let inode = |meta: std::io::Result<std::fs::Metadata>| meta.ok().map(|meta| (meta.dev(), meta.ino()));
        inode(lock.metadata()) == inode(self.lock_file(name).metadata())
    }
}

/// Somebody wants the thing of this lock.
fn touch(lock: &File) {
    let _ = lock.set_modified(SystemTime::now());
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
