//! The ZFS store: machines' disks as thin volumes of a pool.
//!
//! ```text
//! ROOT                                 such as tank/kld
//! ROOT/NAME                            a machine's state: a file system, mounted under /var/lib/kld/zfs/ROOT/NAME
//! ROOT/NAME/vda ...                    its disks: volumes, /dev/zvol/ROOT/NAME/vda
//! ROOT/NAME@TAG, ROOT/NAME/vda@TAG     a snapshot of the whole: one transaction
//! ROOT/NAME/vda@kld-clone-XXXXXXXX     what clones stand on; it goes with the last of them
//! ROOT/.bases/XXXX-N                   a volume that has lost its machine, and on which clones stand
//! ```
//!
//! A machine's state carries `org.kld:machine` and `org.kld:change`, which says which change made it; its volumes
//! inherit them. From the root they inherit `volmode` and `snapdev`: a property that is set as a dataset is made costs
//! a transaction group of its own. A dataset under the root without `org.kld:machine` is somebody else's, and is
//! neither shown nor touched.
//!
//! A volume never moves: a snapshot is taken where it stands. Yet a source may go without its clones. What they
//! stand on is then moved among the bases, freed of all that no clone needs, and goes with the last clone: ZFS
//! itself destroys a snapshot that was given up when its last clone goes (`zfs destroy -d`), and a base without
//! snapshots is useless, which is all that has to be looked for.
//!
//! State datasets are made new for each clone: nothing in the source's (its seed, its UEFI variables, its
//! snapshots' definitions) may be seen by the clone, and what it needs is written by the caller.

mod at_once;
mod birth;
mod carry_out;
mod destroy;
mod files;
mod layout;
mod marker;
mod marks;
mod plan;
mod probe;
mod record;
mod reset;
mod root;
mod space;
mod volumes;
mod work;

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use kld_core::store::{
    CloneKind, Consistency, Moment, NewClone, NewVolume, Set, Space, StateFile, StoreCapabilities,
    StoreChange, Volume, VolumeStore,
};
use kld_core::{ByteSize, MachineName, Probe, Result, SnapshotTag};
use uuid::Uuid;

use crate::engine::{self, Engine};
use crate::{DatasetName, device, pool};
use layout::Layout;

/// The store's name.
const NAME: &str = "zfs";

/// A store of ZFS volumes.
#[derive(Clone)]
pub struct ZvolStore {
    layout: Layout,
}

impl std::fmt::Debug for ZvolStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ZvolStore").field("root", &self.layout.root).finish_non_exhaustive()
    }
}

impl ZvolStore {
    /// The store under this dataset, which is made when something is first put into it; `mounts` is the folder under
    /// which machines' state is mounted.
    pub fn new(root: DatasetName, mounts: impl Into<PathBuf>) -> Self {
        Self::with_engine(root, mounts, engine::best())
    }

    /// The same, with another engine.
    pub fn with_engine(root: DatasetName, mounts: impl Into<PathBuf>, engine: Arc<dyn Engine>) -> Self {
        ZvolStore { layout: Layout::new(root, mounts.into(), engine) }
    }

    /// The root that this host has, where nobody names one: a dataset `kld` directly in an imported pool. `None`
    /// where there is none, or more than one.
    pub fn found_root() -> Option<DatasetName> {
        if !pool::module_is_loaded() {
            return None;
        }
        let engine = engine::best();
        let roots =
            pool::imported().into_iter().filter_map(|pool| DatasetName::parse(&format!("{pool}/kld")).ok());
        let mut roots = roots.filter(|root| engine.exists(root.as_str()).unwrap_or(false));
        roots.next().filter(|_| roots.next().is_none())
    }

    /// Its root dataset.
    pub fn root(&self) -> &DatasetName {
        &self.layout.root
    }

    /// Makes the next `stage`, `commit` or `revert` fail before its step number `steps`, as a kill would. For tests.
    #[doc(hidden)]
    pub fn interrupt(&self, steps: usize) {
        *self.layout.fuse.lock().unwrap_or_else(PoisonError::into_inner) = Some(steps);
    }

    /// What a test has prepared to end a run is for this run only.
    fn whole_run(&self, outcome: Result<()>) -> Result<()> {
        self.layout.fuse.lock().unwrap_or_else(PoisonError::into_inner).take();
        outcome
    }
}

impl VolumeStore for ZvolStore {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities {
            atomic_sets: true,
            atomicity: "all of a machine's disks and its state are snapshot in one transaction of the pool"
                .to_string(),
            shared_bases: true,
        }
    }

    fn probe(&self) -> Probe {
        probe::probe(&self.layout)
    }

    fn sets(&self) -> Result<Vec<Set>> {
        record::read_all(&self.layout)
    }

    fn set(&self, name: &MachineName) -> Result<Option<Set>> {
        record::read(&self.layout, name)
    }

    fn adopt(&self, name: &MachineName, machine: Uuid, volumes: Vec<Volume>) -> Result<Set> {
        plan::adopt(&self.layout, name, machine, volumes)
    }

    fn in_use(&self, volume: &Volume) -> Result<bool> {
        pool::guard(&self.layout.root)?;
        device::in_use(&volume.path)
    }

    fn clones(&self, set: &Set) -> Result<Vec<MachineName>> {
        let stands_on =
            |other: &Set| other.origin.as_ref().is_some_and(|origin| origin.machine == set.machine);
        Ok(self.sets()?.into_iter().filter(stands_on).map(|other| other.name).collect())
    }

    fn ready(&self, set: &Set) -> Result<()> {
        pool::guard(&self.layout.root)?;
        let mut datasets = set.volumes.iter().filter_map(|volume| device::dataset_of(&volume.path));
        datasets.try_for_each(|dataset| device::wait(&dataset).map(drop))
    }

    fn space(&self, set: &Set) -> Result<Space> {
        self.spaces(std::slice::from_ref(set)).map(|spaces| spaces.into_iter().next().unwrap_or_default())
    }

    fn spaces(&self, sets: &[Set]) -> Result<Vec<Space>> {
        space::spaces(&self.layout, sets)
    }

    fn freeing(&self) -> Result<ByteSize> {
        space::freeing(&self.layout.root.pool())
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
        self.stage_at(change, files, &|take| take())
    }

    fn stage_at(&self, change: &StoreChange, files: &[StateFile], moment: Moment) -> Result<()> {
        self.whole_run(carry_out::stage(&self.layout, change, files, moment))
    }

    fn commit(&self, change: &StoreChange) -> Result<()> {
        self.whole_run(carry_out::commit(&self.layout, change))
    }

    fn revert(&self, change: &StoreChange) -> Result<()> {
        self.whole_run(carry_out::revert(&self.layout, change))
    }
}
