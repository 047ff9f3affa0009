//! The small files that belong to a machine beside its volumes.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::error::Trying;
use crate::{Error, MachineName, Result, fsio};

/// A small file in a set's state folder, made while a change is staged.
///
/// What is under `snapshots/TAG` in the folder goes with that snapshot; the whole folder goes with the set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateFile {
    /// Whose.
    pub set: MachineName,
    /// Its path within the state folder, such as `seed.iso` or `snapshots/before/domain.xml`.
    pub path: PathBuf,
    /// What is in it.
    pub content: StateContent,
}

/// What is in a state file.
#[derive(Clone, PartialEq, Eq)]
pub enum StateContent {
    /// These bytes.
    Bytes(Vec<u8>),
    /// What is in another file.
    CopyOf(PathBuf),
}

impl StateContent {
    /// Makes a file with this content, which its owner alone may read. It is not yet on the disk when this returns.
    ///
    /// # Errors
    /// Where the file is there already, or what it is to be a copy of is no regular file.
    pub fn write_new(&self, path: &Path) -> Result<()> {
        let mut file = fsio::create_new(path, 0o600)?;
        match self {
            StateContent::Bytes(bytes) => {
                file.write_all(bytes).trying(|| format!("cannot write {}", path.display()))
            }
            StateContent::CopyOf(source) => {
                let what = || format!("cannot copy {} to {}", source.display(), path.display());
                // Before it is opened: opening a pipe waits, and opening a device may do something.
                if !source.metadata().trying(what)?.is_file() {
                    return Err(Error::failed(what(), "it is not a regular file"));
                }
                let copied = File::open(source).and_then(|mut source| io::copy(&mut source, &mut file));
                copied.map(drop).trying(what)
            }
        }
    }
}

/// Says how much, not what: a seed may hold secrets.
impl std::fmt::Debug for StateContent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StateContent::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
            StateContent::CopyOf(path) => f.debug_tuple("CopyOf").field(path).finish(),
        }
    }
}
