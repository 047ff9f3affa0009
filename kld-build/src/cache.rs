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

/// The file in each folder that bears two digests, of the folder's look and of its contents, each in a line.
const STAMP: &str = "stamp";

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
        if let Some(folder) = self.find(name) {
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
            if let Some(lock) =
                self.lock_as(name, FlockArg::LockExclusive)?.filter(|lock| self.is_current(name, lock))
            {
                let touched = lock.set_modified(SystemTime::now());
                touched.trying(|| format!("cannot touch {}", self.lock_file(name).display()))?;
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

/// What a thing in a cache holds, as a digest; `None` for other folders.
pub(crate) fn held(folder: &Path) -> Option<String> {
    Stamp::read(folder).map(|stamp| stamp.contents)
}

/// Whether this file is a folder's stamp, or the one that is being put in its place.
pub(crate) fn is_stamp(path: &Path) -> bool {
    let stamp = path.with_file_name(STAMP);
    path == stamp || path == fsio::temporary_beside(&stamp)
}

/// What a folder's stamp says.
struct Stamp {
    look: String,
    contents: String,
}

impl Stamp {
    fn of(folder: &Path) -> Result<Stamp> {
        Ok(Stamp { look: look(folder)?, contents: contents(folder)? })
    }

    fn read(folder: &Path) -> Option<Stamp> {
        let text = fsio::read_text(&folder.join(STAMP), 256).ok()??;
        let (look, contents) = text.split_once('\n')?;
        Some(Stamp { look: look.to_string(), contents: contents.to_string() })
    }

    fn write(&self, folder: &Path) -> Result<()> {
        fsio::replace(&folder.join(STAMP), format!("{}\n{}", self.look, self.contents).as_bytes(), 0o644)
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

    /// What a test does to a thing in its folder.
    type Damage = fn(&Path);

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
    fn a_thing_that_was_removed_cut_short_changed_or_added_to_is_made_again() {
        let damages: [(&str, Damage); 6] = [
            ("removed", |thing| std::fs::remove_dir_all(thing).unwrap()),
            ("emptied", |thing| std::fs::remove_file(thing.join("data")).unwrap()),
            ("cut short", |thing| std::fs::write(thing.join("data"), "who").unwrap()),
            ("a byte flipped", |thing| std::fs::write(thing.join("data"), "whale").unwrap()),
            ("added to", |thing| std::fs::write(thing.join("more"), "").unwrap()),
            ("made by a version that stamped otherwise", |thing| {
                std::fs::write(thing.join(STAMP), "00c0ffee00c0ffee 1").unwrap();
            }),
        ];
        for (what, damage) in damages {
            let dir = tempfile::tempdir().unwrap();
            let cache = Cache::new(dir.path());
            let thing = cache.ensure("thing", |folder| write(folder, "whole")).unwrap().into_inner();
            tick();
            damage(&thing);
            assert_eq!(cache.find("thing"), None, "{what}");
            assert!(cache.ensure("thing", |folder| write(folder, "new")).unwrap().is_changed(), "{what}");
            assert_eq!(std::fs::read_to_string(thing.join("data")).unwrap(), "new", "{what}");
            assert!(!thing.join("more").exists(), "{what}");
        }
    }

    /// Until file systems give another time.
    fn tick() {
        std::thread::sleep(Duration::from_millis(20));
    }

    /// As a disk does that loses a bit: size and times stay.
    fn flip_unseen(thing: &Path) {
        std::fs::write(thing.join("data"), "whale").unwrap();
        let stamp = Stamp::read(thing).unwrap();
        Stamp { look: look(thing).unwrap(), ..stamp }.write(thing).unwrap();
    }

    #[test]
    fn a_flipped_byte_that_does_not_show_is_found_by_the_check() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path());
        let thing = cache.ensure("thing", |folder| write(folder, "whole")).unwrap().into_inner();
        assert!(cache.check("thing").unwrap());
        flip_unseen(&thing);
        assert!(cache.find("thing").is_some(), "it does show");
        assert!(!cache.check("thing").unwrap());
        assert_eq!(cache.find("thing"), None);
        assert!(cache.ensure("thing", |folder| write(folder, "new")).unwrap().is_changed());
    }

    #[test]
    fn a_copy_is_taken_for_what_it_holds_though_it_looks_different() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path());
        let thing = cache.ensure("thing", |folder| write(folder, "whole")).unwrap().into_inner();
        tick();
        std::fs::write(thing.join("data"), "whole").unwrap();
        let looks = |thing| Stamp::read(thing).unwrap().look;
        let before = looks(&thing);
        assert!(!cache.ensure("thing", |_| panic!("it is whole")).unwrap().is_changed());
        assert_ne!(looks(&thing), before, "every look reads all of it again");
    }

    /// Says that the thing of this name was last wanted so many days ago.
    fn wanted(cache: &Cache, name: &str, days: u64) {
        let lock = File::options().write(true).open(cache.lock_file(name)).unwrap();
        lock.set_modified(SystemTime::now() - Duration::from_secs(days * 24 * 60 * 60)).unwrap();
    }

    #[test]
    fn what_nobody_has_wanted_for_long_is_pruned_unless_somebody_is_at_it() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path());
        for name in ["new", "old", "used"] {
            cache.ensure(name, |folder| write(folder, name)).unwrap();
        }
        std::fs::create_dir(cache.place("foreign")).unwrap();
        let held = cache.lock("used").unwrap();
        ["old", "used"].into_iter().for_each(|name| wanted(&cache, name, 15));
        wanted(&cache, "new", 13);

        assert_eq!(cache.prune(UNUSED).unwrap(), ["old"]);
        assert_eq!(["new", "old", "used"].map(|name| cache.find(name).is_some()), [true, false, true]);
        assert!(cache.place("foreign").exists());
        drop(held);
        // Wanting it makes it new.
        cache.ensure("used", |_| panic!("it is there")).unwrap();
        assert_eq!(cache.prune(UNUSED).unwrap(), [""; 0]);
        assert!(cache.ensure("old", |folder| write(folder, "again")).unwrap().is_changed());
    }

    #[test]
    fn who_waits_for_a_thing_that_is_removed_meanwhile_makes_it_alone() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path());
        cache.ensure("thing", |folder| write(folder, "whole")).unwrap();
        let made = std::sync::atomic::AtomicU32::new(0);
        for _ in 0..20 {
            made.store(0, std::sync::atomic::Ordering::SeqCst);
            std::thread::scope(|scope| {
                let lock = cache.lock("thing").unwrap();
                for _ in 0..3 {
                    scope.spawn(|| {
                        let make = |folder: &Path| {
                            made.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                            write(folder, "again")
                        };
                        cache.ensure("thing", make).unwrap()
                    });
                }
                std::thread::sleep(Duration::from_millis(5));
                cache.clear("thing", lock).unwrap();
            });
            assert_eq!(made.load(std::sync::atomic::Ordering::SeqCst), 1);
        }
    }

    #[test]
    fn what_a_killed_run_left_is_cleared_away() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path());
        let left = cache.place(".thing.kld-new");
        std::fs::create_dir_all(&left).unwrap();
        std::fs::write(left.join("half"), "half").unwrap();
        let thing = cache.ensure("thing", |folder| write(folder, "whole")).unwrap().into_inner();
        assert!(!thing.join("half").exists() && !left.exists());
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
            std::fs::read_dir(cache.place("")).unwrap().flatten().map(|it| it.file_name()).collect();
        assert_eq!(left, ["thing.lock"]);
    }
}
