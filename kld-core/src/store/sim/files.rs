//! Disks in memory: sparse bytes in layers, as qcow2 files stand on each other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// One layer: what was written to it, over what its base holds.
#[derive(Debug, Clone, Default)]
pub(super) struct File {
    /// What a guest sees, in bytes.
    pub(super) size: u64,
    /// What was written, by offset.
    bytes: BTreeMap<u64, u8>,
    /// The layer beneath.
    base: Option<PathBuf>,
    /// False for a file that the store did not make: it is never removed.
    owned: bool,
}

/// All layers, by path.
#[derive(Debug, Clone, Default)]
pub(super) struct Files(BTreeMap<PathBuf, File>);

impl Files {
    pub(super) fn get(&self, path: &Path) -> Result<&File> {
        self.0.get(path).ok_or_else(|| missing(path))
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.0.keys()
    }

    /// A file from elsewhere.
    pub(super) fn add_foreign(&mut self, path: PathBuf, size: u64, bytes: &[u8]) {
        let bytes = (0..).zip(bytes.iter().copied()).collect();
        self.0.insert(path, File { size, bytes, base: None, owned: false });
    }

    /// A new blank file, or an overlay; one that is there already is as wanted.
    pub(super) fn create(&mut self, path: &Path, size: u64, base: Option<&Path>) -> Result<()> {
        if let Some(base) = base {
            self.get(base)?;
        }
        let file = File { size, base: base.map(Path::to_path_buf), owned: true, ..File::default() };
        self.0.entry(path.to_path_buf()).or_insert(file);
        Ok(())
    }

    /// An independent copy.
    pub(super) fn copy(&mut self, path: &Path, from: &Path, size: u64) -> Result<()> {
        let bytes = self.flat(from)?;
        self.0.insert(path.to_path_buf(), File { size, bytes, base: None, owned: true });
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) {
        self.0.remove(path);
    }

    /// Keeps what `path` holds now in a new layer beneath it, so that `path` goes on empty.
    pub(super) fn freeze(&mut self, path: &Path, layer: &Path) -> Result<()> {
        if self.0.contains_key(layer) {
            return Ok(());
        }
        let file = self.0.get_mut(path).ok_or_else(|| missing(path))?;
        let on_layer = File { base: Some(layer.to_path_buf()), bytes: BTreeMap::new(), ..*file };
        let kept = std::mem::replace(file, on_layer);
        self.0.insert(layer.to_path_buf(), File { owned: true, ..kept });
        Ok(())
    }

    /// Takes a layer's contents into the one file that stands on it, and the layer away.
    pub(super) fn merge_up(&mut self, layer: &Path) {
        if let [one] = self.dependents(layer).as_slice()
            && let Some(lower) = self.0.remove(layer)
            && let Some(upper) = self.0.get_mut(one)
        {
            let written = std::mem::replace(&mut upper.bytes, lower.bytes);
            upper.bytes.extend(written);
            upper.base = lower.base;
        }
    }

    /// Makes a file stand alone, with the contents that it has.
    pub(super) fn flatten(&mut self, path: &Path) -> Result<()> {
        let bytes = self.flat(path)?;
        if let Some(file) = self.0.get_mut(path) {
            (file.bytes, file.base) = (bytes, None);
        }
        Ok(())
    }

    /// Forgets what was written to a file, and puts it on a layer.
    pub(super) fn reset(&mut self, path: &Path, to: &Path) -> Result<()> {
        self.get(to)?;
        let file = self.0.get_mut(path).ok_or_else(|| missing(path))?;
        (file.bytes, file.base) = (BTreeMap::new(), Some(to.to_path_buf()));
        Ok(())
    }

    /// Frees those of `candidates` that are not `kept`: removes what nothing stands on, and merges what one file
    /// stands on into it.
    pub(super) fn release(&mut self, candidates: &[PathBuf], kept: &BTreeSet<PathBuf>) {
        let mut before = usize::MAX;
        while self.0.len() != before {
            before = self.0.len();
            for path in candidates.iter().filter(|path| !kept.contains(*path)) {
                if !self.0.get(path).is_some_and(|file| file.owned) {
                    continue;
                }
                match self.dependents(path).len() {
                    0 => self.remove(path),
                    1 => self.merge_up(path),
                    _ => {}
                }
            }
        }
    }

    /// The files that stand directly on this one.
    pub(super) fn dependents(&self, path: &Path) -> Vec<PathBuf> {
        let on_it = self.0.iter().filter(|(_, file)| file.base.as_deref() == Some(path));
        on_it.map(|(path, _)| path.clone()).collect()
    }

    /// The file and what it stands on, topmost first.
    pub(super) fn chain(&self, path: &Path) -> Vec<PathBuf> {
        let base_of = |path: &PathBuf| self.0.get(path).and_then(|file| file.base.clone());
        std::iter::successors(Some(path.to_path_buf()), base_of).collect()
    }

    /// What a file takes, in bytes.
    pub(super) fn taken(&self, path: &Path) -> u64 {
        self.0.get(path).map_or(0, |file| file.bytes.len() as u64)
    }

    pub(super) fn read(&self, path: &Path, offset: u64, len: usize) -> Result<Vec<u8>> {
        let bytes = self.flat(path)?;
        Ok((offset..).take(len).map(|at| bytes.get(&at).copied().unwrap_or(0)).collect())
    }

    /// Writes as a guest does.
    ///
    /// # Errors
    /// Where the bytes do not fit, and where another file stands on this one: a base is never written again.
    pub(super) fn write(&mut self, path: &Path, offset: u64, bytes: &[u8]) -> Result<()> {
        if let Some(other) = self.dependents(path).first() {
            let cause = format!("{} stands on it", other.display());
            return Err(Error::failed(format!("cannot write {}", path.display()), cause));
        }
        let file = self.0.get_mut(path).ok_or_else(|| missing(path))?;
        if offset + bytes.len() as u64 > file.size {
            return Err(Error::failed(format!("cannot write {}", path.display()), "it ends before"));
        }
        file.bytes.extend((offset..).zip(bytes.iter().copied()));
        Ok(())
    }

    /// All bytes that were written to a file or to what it stands on.
    fn flat(&self, path: &Path) -> Result<BTreeMap<u64, u8>> {
        let size = self.get(path)?.size;
        let mut bytes = BTreeMap::new();
        for layer in self.chain(path).iter().rev() {
            bytes.extend(self.get(layer)?.bytes.iter().map(|(at, byte)| (*at, *byte)));
        }
        bytes.retain(|at, _| *at < size);
        Ok(bytes)
    }
}

fn missing(path: &Path) -> Error {
    Error::failed(format!("cannot open {}", path.display()), "No such file or directory")
}
