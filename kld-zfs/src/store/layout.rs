//! Where everything is.

use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use kld_core::{Error, MachineName, Result, SnapshotTag};
use uuid::Uuid;

use crate::DatasetName;
use crate::engine::Engine;

/// The names of snapshots that kld takes for itself begin so; no tag may.
pub(super) const HIDDEN: &str = "kld-";

/// As long as any of them.
const LONGEST_HIDDEN: &str = "kld-clone-00000000";

#[derive(Clone)]
pub(super) struct Layout {
    pub root: DatasetName,
    /// The folder under which state datasets are mounted.
    mounts: PathBuf,
    pub engine: Arc<dyn Engine>,
    /// How many deeds a test still allows.
    pub fuse: Arc<Mutex<Option<usize>>>,
}

impl Layout {
    pub(super) fn new(root: DatasetName, mounts: PathBuf, engine: Arc<dyn Engine>) -> Self {
        Layout { root, mounts, engine, fuse: Arc::default() }
    }

    /// Comes before everything that changes something, so that tests can end a run there as a kill would.
    pub(super) fn deed(&self) -> Result<()> {
        let mut fuse = self.fuse.lock().unwrap_or_else(PoisonError::into_inner);
        match *fuse {
            Some(0) => Err(Error::message("the test ends the run here")),
            Some(left) => {
                *fuse = Some(left - 1);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// The dataset of a machine's state, and above its volumes.
    pub(super) fn machine(&self, name: &MachineName) -> Result<DatasetName> {
        self.root.child(name.as_str())
    }

    /// Refuses a machine whose volumes, or the bases that they may become, would have no room in their names for the
    /// snapshots that clones need: it could be made, and not be cloned or deleted.
    pub(super) fn check_room(&self, name: &MachineName, disks: &[&str]) -> Result<()> {
        let volumes = disks.iter().map(|disk| self.volume(name, disk)?.snapshot(LONGEST_HIDDEN));
        let base = self.base(Uuid::nil(), 99).and_then(|base| base.snapshot(LONGEST_HIDDEN));
        volumes.chain([base]).try_for_each(|fits| fits.map(drop)).map_err(|error| {
            error.with_hint(format!(
                "choose shorter names for machines, or a shorter zfs-root than {}",
                self.root
            ))
        })
    }

    /// The volume of a machine.
    pub(super) fn volume(&self, name: &MachineName, disk: &str) -> Result<DatasetName> {
        self.machine(name)?.child(disk)
    }

    /// Volumes that have lost their machine, or their place in it, and on which clones stand. No machine's name
    /// begins with a dot.
    pub(super) fn bases(&self) -> Result<DatasetName> {
        self.root.child(".bases")
    }

    /// A new place among the bases for the `number`th volume of a change.
    pub(super) fn base(&self, change: Uuid, number: usize) -> Result<DatasetName> {
        self.bases()?.child(&format!("{}-{number}", change.simple()))
    }

    pub(super) fn state_dir(&self, name: &MachineName) -> PathBuf {
        self.mounts.join(self.root.as_str()).join(name)
    }

    pub(super) fn record(&self, name: &MachineName) -> PathBuf {
        self.state_dir(name).join("set.json")
    }

    /// What a change under way has put into the state of a machine that was there before.
    pub(super) fn marker(&self, name: &MachineName, change: Uuid) -> PathBuf {
        self.state_dir(name).join(format!(".kld-{}", change.simple()))
    }

    /// A state file by its path within a machine's folder; an error for one that would leave it, or that would
    /// hide among the store's own files.
    pub(super) fn state_file(&self, name: &MachineName, path: &Path) -> Result<PathBuf> {
        let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
        let hidden = path.to_string_lossy().starts_with('.');
        if !plain || hidden || path.as_os_str().is_empty() || path == Path::new("set.json") {
            return Err(Error::message(format!("'{}' cannot be a state file of {name}", path.display())));
        }
        Ok(self.state_dir(name).join(path))
    }
}

/// The folder of a snapshot's state files, within the machine's.
pub(super) fn snapshot_folder(tag: &SnapshotTag) -> PathBuf {
    Path::new("snapshots").join(tag)
}
