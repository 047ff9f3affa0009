use std::path::PathBuf;

use kld_core::store::{StoreChange, VolumeFormat};
use kld_core::{Error, MachineName, Result, SnapshotTag};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::NAME;
use crate::{DatasetName, SnapshotName};

/// The version of [`Work`] that this program writes and reads. Journals live short, so there is only one.
const VERSION: u32 = 1;

/// The store's notes in a change: all that is done to datasets and is not seen from the sets.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Work {
    version: u32,
    /// Of this change; on what it makes as `org.kld:change`, set or inherited.
    pub id: Uuid,
    /// Machines whose state dataset is made.
    pub born: Vec<Born>,
    /// Snapshots to be taken at one moment.
    pub snapshot: Vec<SnapshotName>,
    /// Their tag, where they are a person's; hidden ones have none.
    pub tag: Option<SnapshotTag>,
    /// Volumes to be made, in the born machines.
    pub make: Vec<NewZvol>,
    /// Snapshots that go with the end of the change, whatever it is.
    pub temporary: Vec<SnapshotName>,
    /// Volumes that go back to a snapshot.
    pub back: Vec<Back>,
    /// Snapshots that go, and those whose last clone goes with this change.
    pub drop: Vec<SnapshotName>,
    /// Folders of state files that go.
    pub folders: Vec<(MachineName, PathBuf)>,
    /// Clones that come to stand alone.
    pub alone: Vec<Alone>,
    /// Machines that go.
    pub gone: Vec<Gone>,
}

/// A machine whose state dataset is made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Born {
    pub name: MachineName,
    pub machine: Uuid,
}

/// A volume to be made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct NewZvol {
    pub dataset: DatasetName,
    pub machine: Uuid,
    pub content: Content,
}

/// What a new volume holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Content {
    /// Zeros.
    Empty { size: u64 },
    /// An image's contents, and zeros after it.
    Image { size: u64, path: PathBuf, format: VolumeFormat },
    /// What a snapshot holds, shared.
    Clone { of: SnapshotName },
    /// What a snapshot holds, copied.
    Copy { of: SnapshotName },
}

/// A volume that goes back to a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Back {
    pub to: SnapshotName,
    /// Where the volume goes whose newer snapshots clones stand on.
    pub aside: DatasetName,
}

/// A clone that is copied, to stand alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Alone {
    pub dataset: DatasetName,
    pub machine: Uuid,
    /// The last snapshot, taken when it is copied.
    pub last: SnapshotName,
    /// Where the copy is made.
    pub copy: DatasetName,
    /// Where the clone goes whose snapshots other clones stand on.
    pub aside: DatasetName,
}

/// A machine that goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Gone {
    pub name: MachineName,
    pub machine: Uuid,
    /// Its volumes, each with the place where it goes if clones stand on it.
    pub own: Vec<(DatasetName, DatasetName)>,
    /// Volumes that were there before kld: they stay, without kld's snapshots.
    pub adopted: Vec<DatasetName>,
    pub tags: Vec<SnapshotTag>,
}

impl Work {
    pub(super) fn new() -> Self {
        Work {
            version: VERSION,
            id: Uuid::new_v4(),
            born: Vec::new(),
            snapshot: Vec::new(),
            tag: None,
            make: Vec::new(),
            temporary: Vec::new(),
            back: Vec::new(),
            drop: Vec::new(),
            folders: Vec::new(),
            alone: Vec::new(),
            gone: Vec::new(),
        }
    }

    pub(super) fn of(change: &StoreChange) -> Result<Work> {
        let what = "cannot carry out the change";
        if change.store != NAME {
            let store: String = change.store.escape_debug().take(40).collect();
            return Err(Error::failed(
                what,
                format!("it is one of the store '{store}', and this is '{NAME}'"),
            ));
        }
        if change.inner.get("version").and_then(serde_json::Value::as_u64) != Some(VERSION.into()) {
            return Err(Error::failed(what, "another version of kld planned it")
                .with_hint("use that version to finish or undo it"));
        }
        serde_json::from_value(change.inner.clone()).map_err(|cause| Error::failed(what, cause))
    }

    pub(super) fn is_born(&self, name: &MachineName) -> bool {
        self.born.iter().any(|born| born.name == *name)
    }
}
