//! What a thing in the cache was when it was made.

use std::path::Path;

use kld_core::{Result, fsio};

use crate::digest::{contents, look};

/// The file in each folder that bears two digests, of the folder's look and of its contents, each in a line.
pub(super) const STAMP: &str = "stamp";

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
pub(super) struct Stamp {
    pub(super) look: String,
    pub(super) contents: String,
}

impl Stamp {
    pub(super) fn of(folder: &Path) -> Result<Stamp> {
        Ok(Stamp { look: look(folder)?, contents: contents(folder)? })
    }

    pub(super) fn read(folder: &Path) -> Option<Stamp> {
        let text = fsio::read_text(&folder.join(STAMP), 256).ok()??;
        let (look, contents) = text.split_once('\n')?;
        Some(Stamp { look: look.to_string(), contents: contents.to_string() })
    }

    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        fsio::replace(&folder.join(STAMP), format!("{}\n{}", self.look, self.contents).as_bytes(), 0o644)
    }
}
