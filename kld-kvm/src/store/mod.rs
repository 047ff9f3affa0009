//! The directory store: machines' disks as plain qcow2 files, on any file system.
//!
//! ```text
//! ROOT/machines/NAME/set.json                  the record of a machine's set
//! ROOT/machines/NAME/...                       its state files: seed.iso, nvram.fd, snapshots/TAG/domain.xml
//! ROOT/volumes/NAME.DISK.XXXXXXXX.qcow2        volumes; such a file never moves and is never given another meaning
//! ROOT/staged/ID.json                          what a change under way has made (see `carry_out`)
//! ROOT/lock                                    held while records change and while useless files are collected
//! ```
//!
//! A file in `ROOT/volumes` is the store's own. Any other is *adopted*: kld lets machines stand on it, and never
//! removes it or changes its mode.
//!
//! A qcow2 file that something stands on is never written again. So the first clone or snapshot makes a base of the
//! source's file, and source and clones each get an overlay on it. Nobody owns a base: it is there as long as a
//! set reaches it, which is why a source may go without its clones. What that takes is in `carry_out`.

mod carry_out;
mod copy;
mod draft;
mod layout;
mod plan;
mod probe;
mod reach;
mod record;
mod space;
mod sync;
mod work;

#[cfg(test)]
mod tests;

use std::path::Path;

use kld_core::store::{
    CloneKind, Consistency, NewClone, NewVolume, Set, Space, StateFile, StoreCapabilities, StoreChange,
    Volume, VolumeStore,
};
use kld_core::{Error, MachineName, Probe, Result, SnapshotTag};
use uuid::Uuid;

use crate::image::ImageError;
use layout::Layout;
use record::Record;

/// The store's name.
const NAME: &str = "dir";

/// A directory store.
#[derive(Debug, Clone)]
pub struct DirStore {
    layout: Layout,
}

impl DirStore {
    /// Where the store is unless the configuration says otherwise.
    pub const DEFAULT_ROOT: &str = "/var/lib/kld/store";

    /// The store in this folder, which is made when something is first put into it.
    pub fn new(root: impl AsRef<Path>) -> Self {
        DirStore { layout: Layout::new(root.as_ref()) }
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        self.layout.root()
    }

    /// What a test has prepared to end a run is for this run only.
    fn whole_run(&self, outcome: Result<()>) -> Result<()> {
        #[cfg(test)]
        self.layout.fuse.lock().expect("nobody panics with it").take();
        outcome
    }
}

impl VolumeStore for DirStore {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities {
            atomic_sets: false,
            atomicity: "the disks of a stopped machine stand still, so a snapshot of them is of one moment; \
                        those of a running one are switched at one moment by QEMU's transaction over all of them"
                .to_string(),
            shared_bases: true,
        }
    }

    fn probe(&self) -> Probe {
        probe::probe(&self.layout)
    }

    fn sets(&self) -> Result<Vec<Set>> {
        Ok(Record::read_all(&self.layout)?.into_iter().map(|record| record.set).collect())
    }

    fn set(&self, name: &MachineName) -> Result<Option<Set>> {
        Ok(Record::read(&self.layout, name)?.map(|record| record.set))
    }

    fn adopt(&self, name: &MachineName, machine: Uuid, volumes: Vec<Volume>) -> Result<Set> {
        plan::adopt(&self.layout, name, machine, volumes)
    }

    fn clones(&self, set: &Set) -> Result<Vec<MachineName>> {
        let stands_on =
            |other: &Set| other.origin.as_ref().is_some_and(|origin| origin.machine == set.machine);
        Ok(self.sets()?.into_iter().filter(stands_on).map(|other| other.name).collect())
    }

    fn in_use(&self, volume: &Volume) -> Result<bool> {
        crate::image::in_use(&volume.path).map_err(told)
    }

    fn space(&self, set: &Set) -> Result<Space> {
        self.spaces(std::slice::from_ref(set)).map(|spaces| spaces.into_iter().next().unwrap_or_default())
    }

    fn spaces(&self, sets: &[Set]) -> Result<Vec<Space>> {
        space::spaces(&self.layout, sets)
    }

    fn plan_create(&self, name: &MachineName, machine: Uuid, volumes: &[NewVolume]) -> Result<StoreChange> {
        plan::create(&self.layout, name, machine, volumes)
    }

    fn plan_clone(
        &self,
        source: &Set,
        from: Option<&SnapshotTag>,
        clones: &[NewClone],
        kind: CloneKind,
    ) -> Result<StoreChange> {
        plan::clone(&self.layout, source, from, clones, kind)
    }

    fn plan_snapshot(&self, set: &Set, tag: &SnapshotTag, consistency: Consistency) -> Result<StoreChange> {
        plan::snapshot(&self.layout, set, tag, consistency)
    }

    fn plan_rollback(&self, set: &Set, tag: &SnapshotTag) -> Result<StoreChange> {
        plan::rollback(&self.layout, set, tag)
    }

    fn plan_drop_snapshot(&self, set: &Set, tag: &SnapshotTag) -> Result<StoreChange> {
        plan::drop_snapshot(&self.layout, set, tag)
    }

    fn plan_promote(&self, set: &Set) -> Result<StoreChange> {
        plan::promote(&self.layout, set)
    }

    fn plan_delete(&self, set: &Set) -> Result<StoreChange> {
        plan::delete(&self.layout, set)
    }

    fn stage(&self, change: &StoreChange, files: &[StateFile]) -> Result<()> {
        self.whole_run(carry_out::stage(&self.layout, change, files))
    }

    fn commit(&self, change: &StoreChange) -> Result<()> {
        self.whole_run(carry_out::commit(&self.layout, change))
    }

    fn revert(&self, change: &StoreChange) -> Result<()> {
        self.whole_run(carry_out::revert(&self.layout, change))
    }
}

/// The house's error for one about an image.
fn told(error: ImageError) -> Error {
    error.into()
}
