//! Names for contents, and a quick proof that a folder is as it was made.

use std::fs::{File, Metadata};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use kld_core::Result;
use kld_core::error::Trying;
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

/// A digest that notices accidents, the same with every compiler (FNV-1a). It is no protection against malice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Digest(0xcbf2_9ce4_8422_2325)
    }
}

impl Digest {
    /// The digest of parts, which are kept apart: `ab` `c` differs from `a` `bc`.
    pub fn of<B: AsRef<[u8]>>(parts: impl IntoIterator<Item = B>) -> Digest {
        parts.into_iter().fold(Digest::default(), |digest, part| digest.with(part.as_ref()))
    }

    /// This digest with one more part.
    #[must_use]
    pub fn with(self, part: &[u8]) -> Digest {
        let length = (part.len() as u64).to_le_bytes();
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        Digest(length.iter().chain(part).fold(self.0, step))
    }

    /// This digest with one more piece of a long part, eight bytes at a time.
    fn with_words(self, piece: &[u8]) -> Digest {
        let (words, rest) = piece.as_chunks::<8>();
        // Turned, so that the upper bits of a word reach the lower ones.
        let step = |hash: u64, word: &[u8; 8]| {
            (hash.rotate_left(29) ^ u64::from_le_bytes(*word)).wrapping_mul(0x0100_0000_01b3)
        };
        Digest(words.iter().fold(self.0, step)).with(rest)
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A digest of how a folder's files look: path, type, size and times of each. It finds what was removed, cut short or
/// written to, in the time of a walk; a copy of the folder looks different.
pub(crate) fn look(root: &Path) -> Result<String> {
    walk(root, |digest, _, meta| {
        let times = [(meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec())];
        Ok(digest.with(format!("{:o} {} {times:?}", meta.mode(), meta.size()).as_bytes()))
    })
}

/// A digest of what a folder's files hold: path, type and contents of each. It reads every byte.
pub(crate) fn contents(root: &Path) -> Result<String> {
    walk(root, |digest, path, meta| {
        let digest = digest.with(format!("{:o}", meta.mode()).as_bytes());
        let what = || format!("cannot read {}", path.display());
        if meta.is_symlink() {
            let target = std::fs::read_link(path).trying(what)?;
            return Ok(digest.with(target.as_os_str().as_encoded_bytes()));
        }
        if !meta.is_file() {
            return Ok(digest.with(meta.rdev().to_string().as_bytes()));
        }
        read_file(path, meta.size(), digest).trying(what)
    })
}

/// Adds something of each file to a digest, in a fixed order. A folder's own size and times change when anything in it
/// does, which is seen anyway.
fn walk(root: &Path, add: impl Fn(Digest, &Path, &Metadata) -> Result<Digest>) -> Result<String> {
    let mut digest = Digest::default();
    let mut folders = vec![root.to_path_buf()];
    let mut count = 0;
    while let Some(folder) = folders.pop() {
        let what = || format!("cannot read {}", folder.display());
        let entries: std::io::Result<Vec<_>> = std::fs::read_dir(&folder).trying(what)?.collect();
        let mut entries = entries.trying(what)?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            if folder == root && crate::cache::is_stamp(&path) {
                continue;
            }
            let meta = entry.metadata().trying(|| format!("cannot read {}", path.display()))?;
            digest = digest.with(path.strip_prefix(root).unwrap_or(&path).as_os_str().as_encoded_bytes());
            if meta.is_dir() {
                digest = digest.with(format!("{:o}", meta.mode()).as_bytes());
                folders.push(path);
            } else {
                digest = add(digest, &path, &meta)?;
            }
            count += 1;
        }
    }
    Ok(format!("{digest} {count}"))
}

/// A page of a file, the least that a hole can be.
const PAGE: usize = 4096;

/// Adds a file's pages with their places, those of zeros left out: a copy may have holes elsewhere.
fn read_file(path: &Path, size: u64, mut digest: Digest) -> std::io::Result<Digest> {
    let file = File::open(path)?;
    let (mut buffer, mut at) = (vec![0; 256 * PAGE], 0);
    while let Some((data, hole)) = next_data(&file, at)? {
        at = data - data % PAGE as u64;
        while at < hole.min(size) {
            let most = usize::try_from(size - at).unwrap_or(usize::MAX).min(buffer.len());
            file.read_exact_at(&mut buffer[..most], at)?;
            for page in buffer[..most].chunks(PAGE) {
                if page != &[0; PAGE][..page.len()] {
                    digest = digest.with_words(&at.to_le_bytes()).with_words(page);
                }
                at += page.len() as u64;
            }
        }
    }
    Ok(digest.with(&size.to_le_bytes()))
}

/// Where the next data from `at` on begins and ends.
fn next_data(file: &File, at: u64) -> std::io::Result<Option<(u64, u64)>> {
    let seek = |at: u64, whence| {
        lseek(file, i64::try_from(at).unwrap_or(i64::MAX), whence)
            .map(|at| u64::try_from(at).unwrap_or_default())
    };
    match seek(at, Whence::SeekData) {
        Err(Errno::ENXIO) => Ok(None),
        data => {
            let data = data?;
            Ok(Some((data, seek(data, Whence::SeekHole)?)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a test does to a thing in its folder.
    type Damage = fn(&Path);

    #[test]
    fn parts_are_kept_apart() {
        assert_ne!(Digest::of(["ab", "c"]), Digest::of(["a", "bc"]));
        assert_eq!(Digest::of(["ab", "c"]), Digest::of(["ab", "c"]));
    }

    /// A folder with a program, a link and a file that is mostly a hole.
    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("usr/bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::write(bin.join("qemu"), vec![7; 3 << 20]).unwrap();
        std::os::unix::fs::symlink("qemu", bin.join("link")).unwrap();
        let memory = File::create(dir.path().join("memory")).unwrap();
        memory.write_all_at(b"begin", 0).unwrap();
        memory.write_all_at(b"end", 8 << 20).unwrap();
        dir
    }

    /// Until file systems give another time.
    fn tick() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }

    fn write(path: &Path, at: u64, byte: u8) {
        File::options().write(true).open(path).unwrap().write_all_at(&[byte], at).unwrap();
    }

    #[test]
    fn every_kind_of_damage_changes_look_and_contents() {
        let damages: [(&str, Damage); 6] = [
            ("a bit flipped", |root| write(&root.join("usr/bin/qemu"), (3 << 20) - 1, 7 ^ 0x80)),
            ("a byte written into a hole", |root| write(&root.join("memory"), 4 << 20, 1)),
            ("cut short", |root| {
                File::options().write(true).open(root.join("memory")).unwrap().set_len(8 << 20).unwrap();
            }),
            ("removed", |root| std::fs::remove_file(root.join("usr/bin/qemu")).unwrap()),
            ("a link turned", |root| {
                std::fs::remove_file(root.join("usr/bin/link")).unwrap();
                std::os::unix::fs::symlink("echo", root.join("usr/bin/link")).unwrap();
            }),
            ("added", |root| std::fs::write(root.join("usr/more"), "").unwrap()),
        ];
        for (what, damage) in damages {
            let dir = folder();
            let whole = (look(dir.path()).unwrap(), contents(dir.path()).unwrap());
            assert_eq!(whole, (look(dir.path()).unwrap(), contents(dir.path()).unwrap()));
            tick();
            damage(dir.path());
            assert_ne!(look(dir.path()).unwrap(), whole.0, "{what}");
            assert_ne!(contents(dir.path()).unwrap(), whole.1, "{what}");
        }
    }

    #[test]
    fn the_same_contents_look_different_after_they_were_written_again() {
        let dir = folder();
        let (looked, held) = (look(dir.path()).unwrap(), contents(dir.path()).unwrap());
        tick();
        write(&dir.path().join("usr/bin/qemu"), 0, 7);
        assert_ne!(look(dir.path()).unwrap(), looked);
        assert_eq!(contents(dir.path()).unwrap(), held);
    }
}
