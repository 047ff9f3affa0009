//! What a change notes in a machine's state while it is carried out.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;

use kld_core::error::Trying;
use kld_core::{Error, MachineName, Result, fsio};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::layout::Layout;

const FILE_MODE: u32 = 0o600;
const LARGEST: u64 = 16 << 20;

/// What a change has put into a machine's state.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Marker {
    /// State files, by their path in the folder.
    pub(super) files: BTreeSet<PathBuf>,
    /// True when the machine's new disks hold what they should. It may write to them from then on.
    pub(super) filled: bool,
}

impl Marker {
    /// An empty one, in the state of a machine that comes to be. It need not be on the disk before what follows it.
    pub(super) fn begin(layout: &Layout, name: &MachineName, id: Uuid) -> Result<()> {
        let path = layout.marker(name, id);
        if path.symlink_metadata().is_ok() {
            return Ok(());
        }
        let text = serde_json::to_vec(&Marker::default())
            .map_err(|cause| Error::failed("cannot list what is staged", cause))?;
        let mut file = fsio::create_new(&path, FILE_MODE)?;
        file.write_all(&text).trying(|| format!("cannot write {}", path.display()))
    }

    pub(super) fn read(layout: &Layout, name: &MachineName, id: Uuid) -> Result<Option<Marker>> {
        let path = layout.marker(name, id);
        let Some(text) = fsio::read_text(&path, LARGEST)? else { return Ok(None) };
        let marker = serde_json::from_str(&text);
        marker.map(Some).map_err(|cause| Error::failed(format!("cannot use {}", path.display()), cause))
    }

    pub(super) fn write(&self, layout: &Layout, name: &MachineName, id: Uuid) -> Result<()> {
        let text =
            serde_json::to_vec(self).map_err(|cause| Error::failed("cannot list what is staged", cause))?;
        layout.deed()?;
        fsio::replace(&layout.marker(name, id), &text, FILE_MODE)
    }

    pub(super) fn remove(layout: &Layout, name: &MachineName, id: Uuid) -> Result<()> {
        let path = layout.marker(name, id);
        fsio::remove_if_exists(&fsio::temporary_beside(&path))?;
        if path.symlink_metadata().is_ok() {
            layout.deed()?;
            fsio::remove_if_exists(&path)?;
        }
        Ok(())
    }
}
