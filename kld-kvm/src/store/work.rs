use std::path::{Path, PathBuf};

use kld_core::store::{StoreChange, VolumeFormat};
use kld_core::{Error, MachineName, Result};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::NAME;
use crate::image::{Backing, DiskFormat};

/// The version of [`Work`] that this program writes and reads. Journals live short, so there is only one.
const VERSION: u32 = 1;

/// The store's notes in a change: all that is done to files and is not seen from the sets.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Work {
    version: u32,
    /// The store's folder: the state folder's journal may serve several.
    root: PathBuf,
    /// Of this change.
    pub id: Uuid,
    /// Sets that come to be; none of them may be there before.
    pub born: Vec<MachineName>,
    /// Sets that go.
    pub gone: Vec<MachineName>,
    /// Volumes to be made, in this order.
    pub make: Vec<NewFile>,
    /// Our files that become read-only bases.
    pub freeze: Vec<PathBuf>,
    /// Layers that are taken out of chains.
    pub merge: Vec<Merge>,
    /// State files to be removed, by set.
    pub forget: Vec<(MachineName, PathBuf)>,
    /// Files that may have become useless: each one that no set reaches is removed.
    pub candidates: Vec<PathBuf>,
}

/// A volume to be made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct NewFile {
    pub path: PathBuf,
    pub content: Content,
}

/// What a new volume holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Content {
    /// Zeros.
    Empty { size: u64 },
    /// What its base holds.
    Overlay { base: Layer, size: u64 },
    /// A copy that stands alone, grown where `size` says so.
    Copy { from: Layer, size: Option<u64> },
}

/// A file as a base.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Layer {
    pub path: PathBuf,
    pub format: VolumeFormat,
}

impl Layer {
    pub(super) fn backing(&self) -> Backing {
        Backing { path: self.path.clone(), format: disk_format(self.format) }
    }
}

/// Layers to be taken out of a chain: what `child` sees of them is copied into it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Merge {
    pub child: PathBuf,
    /// True where the child is itself a read-only base.
    pub frozen: bool,
    /// What it stands on afterwards.
    pub onto: Option<Layer>,
    /// What goes, top first.
    pub layers: Vec<PathBuf>,
}

impl Work {
    pub(super) fn new(root: &Path) -> Self {
        Work {
            version: VERSION,
            root: root.to_path_buf(),
            id: Uuid::new_v4(),
            born: Vec::new(),
            gone: Vec::new(),
            make: Vec::new(),
            freeze: Vec::new(),
            merge: Vec::new(),
            forget: Vec::new(),
            candidates: Vec::new(),
        }
    }

    /// The notes in a change of the store in this folder.
    pub(super) fn of(change: &StoreChange, root: &Path) -> Result<Work> {
        let what = "cannot carry out the change";
        if change.store != NAME {
            let store: String = change.store.escape_debug().take(40).collect();
            return Err(Error::failed(
                what,
                format!("it is one of the store '{store}', and this is '{NAME}'"),
            ));
        }
        if change.inner.get("version").and_then(serde_json::Value::as_u64) != Some(VERSION.into()) {
            return Err(Error::failed(what, "it was computed by another version of kld")
                .with_hint("run that version to finish or undo it"));
        }
        let work = Work::deserialize(&change.inner).map_err(|cause| Error::failed(what, cause))?;
        if work.root != root {
            let (its, ours) = (work.root.display(), root.display());
            return Err(Error::failed(
                what,
                format!("it is one of the store in {its}, and this is the one in {ours}"),
            )
            .with_hint(format!("run a tool with --set store-root={its}")));
        }
        Ok(work)
    }

    pub(super) fn to_value(&self) -> Result<serde_json::Value> {
        serde_json::to_value(self).map_err(|cause| Error::failed("cannot write down the change", cause))
    }
}

/// The image format that a file of a set has.
pub(super) fn disk_format(format: VolumeFormat) -> DiskFormat {
    match format {
        VolumeFormat::Qcow2 => DiskFormat::Qcow2,
        VolumeFormat::Raw | VolumeFormat::Block => DiskFormat::Raw,
    }
}

/// The volume format of an image.
pub(super) fn volume_format(format: DiskFormat) -> VolumeFormat {
    match format {
        DiskFormat::Qcow2 => VolumeFormat::Qcow2,
        DiskFormat::Raw => VolumeFormat::Raw,
    }
}
