//! Names for contents, and a quick proof that a folder is as it was made.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use kld_core::Result;
use kld_core::error::Trying;

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
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A digest of what is in a folder: each file's path, type, size and time of change. It finds what was removed, cut
/// short or edited, in the time of a walk.
pub(crate) fn fingerprint(root: &Path) -> Result<String> {
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
            if path == root.join(crate::cache::STAMP) {
                continue;
            }
            let meta = entry.metadata().trying(|| format!("cannot read {}", path.display()))?;
            digest = digest.with(path.strip_prefix(root).unwrap_or(&path).as_os_str().as_encoded_bytes());
            // A folder's size and time change when anything below it does, which is seen anyway.
            let (size, time) = if meta.is_dir() { (0, 0) } else { (meta.size(), meta.mtime()) };
            digest = digest.with(format!("{:o} {size} {time}", meta.mode()).as_bytes());
            count += 1;
            if meta.is_dir() {
                folders.push(path);
            }
        }
    }
    Ok(format!("{digest} {count}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_kept_apart() {
        assert_ne!(Digest::of(["ab", "c"]), Digest::of(["a", "bc"]));
        assert_eq!(Digest::of(["ab", "c"]), Digest::of(["ab", "c"]));
    }

    #[test]
    fn a_file_cut_short_or_removed_changes_the_fingerprint() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("usr/bin/qemu");
        std::fs::create_dir_all(program.parent().unwrap()).unwrap();
        std::fs::write(&program, b"0123456789").unwrap();
        let whole = fingerprint(dir.path()).unwrap();
        assert_eq!(whole, fingerprint(dir.path()).unwrap());
        std::fs::write(&program, b"01234").unwrap();
        let cut = fingerprint(dir.path()).unwrap();
        std::fs::remove_file(&program).unwrap();
        let removed = fingerprint(dir.path()).unwrap();
        assert!(whole != cut && cut != removed && whole != removed);
    }
}
