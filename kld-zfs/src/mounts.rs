//! Mounting file systems of ZFS by the system call itself: it takes a millisecond, and the program a hundred.

use std::path::Path;
use std::time::Duration;

use kld_core::error::Trying;
use kld_core::retry::Patience;
use kld_core::{Error, Result, fsio};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount as mount_call, umount2};

use crate::DatasetName;

const LARGEST: u64 = 64 << 20;
/// As in the directory store: passed through by everybody, listed by root.
const FOLDER_MODE: u32 = 0o711;
/// The longest that ZFS may hold a file system that it has just made or is about to list.
const BUSY: Duration = Duration::from_secs(10);

/// What is mounted where, as the kernel says.
#[derive(Debug, Clone, Default)]
pub struct Mounts {
    /// The dataset or device, and the path.
    all: Vec<(String, String)>,
}

impl Mounts {
    /// Looks.
    pub fn read() -> Result<Self> {
        let path = Path::new("/proc/self/mounts");
        Ok(Mounts { all: parse(&fsio::read_text(path, LARGEST)?.unwrap_or_default()) })
    }

    /// Whether the dataset is mounted there, and nothing above it.
    pub fn has(&self, dataset: &DatasetName, path: &Path) -> bool {
        let there = self.all.iter().rev().find(|(_, place)| Path::new(place) == path);
        there.is_some_and(|(what, _)| what == dataset.as_str())
    }
}

/// Reads /proc/self/mounts; escapes of spaces and their like are undone.
fn parse(text: &str) -> Vec<(String, String)> {
    let two = |line: &str| {
        let mut words = line.split(' ');
        Some((unescape(words.next()?), unescape(words.next()?)))
    };
    text.lines().filter_map(two).collect()
}

fn unescape(word: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(word.to_string(), |word, (escape, plain)| word.replace(escape, plain))
}

/// Mounts a file system at its place. One that is there already is left; one that ZFS itself holds for a moment, as it
/// does while it makes it, is waited for.
pub fn mount(dataset: &DatasetName, path: &Path) -> Result<()> {
    if Mounts::read()?.has(dataset, path) {
        return Ok(());
    }
    fsio::create_dir_all(path, FOLDER_MODE)?;
    let what = || format!("cannot mount {dataset} at {}", path.display());
    let mounting = || {
        let mounted =
            mount_call(Some(dataset.as_str()), path, Some("zfs"), MsFlags::empty(), Some("zfsutil"));
        // Somebody else may have mounted it meanwhile.
        mounted.or_else(|errno| match Mounts::read() {
            Ok(mounts) if errno == Errno::EBUSY && mounts.has(dataset, path) => Ok(()),
            _ => Err(errno),
        })
    };
    Patience::of(BUSY).retry(|errno| *errno == Errno::EBUSY, mounting).trying(what)?;
    fsio::set_mode(path, FOLDER_MODE)
}

/// Unmounts a file system, and removes the folder that it was mounted at. One that is not mounted is as wanted.
pub fn unmount(dataset: &DatasetName, path: &Path) -> Result<()> {
    if Mounts::read()?.has(dataset, path) {
        let what = || format!("cannot unmount {dataset}");
        // Somebody may stand in it, in a shell; it is being destroyed.
        match umount2(path, MntFlags::empty()) {
            Err(Errno::EBUSY) => umount2(path, MntFlags::MNT_DETACH).trying(what)?,
            other => other.trying(what)?,
        }
    }
    match fsio::remove_dir_if_empty(path) {
        // A folder that is in use by another mount, or that holds what was written below it: neither is ours.
        Err(Error::Failed { .. }) => Ok(()),
        other => other.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_mount_at_a_place_counts() {
        let mounts = Mounts {
            all: parse(
                "tank/a /m/a zfs rw 0 0\ntmpfs /m/a tmpfs rw 0 0\ntank/b\\040c /m/b\\040c zfs rw 0 0\n",
            ),
        };
        let name = |text: &str| DatasetName::parse(text).unwrap();
        assert!(!mounts.has(&name("tank/a"), Path::new("/m/a")));
        assert_eq!(mounts.all[2], ("tank/b c".to_string(), "/m/b c".to_string()));
    }

    proptest::proptest! {
        #[test]
        fn foreign_text_never_panics(text in ".{0,200}") {
            let _ = parse(&text);
        }
    }
}
