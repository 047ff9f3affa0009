//! Volume stores: where machines' disks live, and how a whole set of them is snapshotted, cloned and dropped.
//!
//! A *set* is everything that one machine owns in a store: its volumes, and a folder of small state files (NVRAM,
//! cloud-init seed, copies of its definition). A store never acts at once: it computes a [`StoreChange`] (data
//! that can be printed and written to a journal), then [`stages`](VolumeStore::stage) it (makes new things that
//! nobody uses yet), and then either [`commits`](VolumeStore::commit) or [`reverts`](VolumeStore::revert) it. All
//! three may be run twice, by another process, after a kill at any point. Between staging and committing the
//! caller makes the hypervisor follow the change's [`Repoint`]s.

pub mod conformance;
mod sim;
mod state;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::plan::Step;
use crate::{ByteSize, MachineName, Probe, Result, SnapshotTag};

pub use sim::SimStore;
pub use state::{StateContent, StateFile};

/// How a volume is presented to a hypervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeFormat {
    /// A qcow2 file.
    Qcow2,
    /// A raw file.
    Raw,
    /// A block device.
    Block,
}

impl VolumeFormat {
    /// The word in a libvirt definition's `<driver type=…>`.
    pub fn driver(self) -> &'static str {
        match self {
            VolumeFormat::Qcow2 => "qcow2",
            VolumeFormat::Raw | VolumeFormat::Block => "raw",
        }
    }
}

/// One volume of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name in the set: the disk's target in the machine, such as `vda`.
    pub name: String,
    /// What the hypervisor opens.
    pub path: PathBuf,
    /// How it opens it.
    pub format: VolumeFormat,
    /// What the guest sees, in bytes.
    pub size: ByteSize,
    /// True for a file that was there before kld: it is never removed.
    #[serde(default)]
    pub adopted: bool,
}

/// How the volumes of a snapshot fit together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consistency {
    /// The machine was not running.
    Stopped,
    /// The guest's agent froze its file systems for the moment.
    Frozen,
    /// All disks at one moment of a running guest, as after a power cut.
    CrashConsistent,
}

impl std::fmt::Display for Consistency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Consistency::Stopped => "stopped",
            Consistency::Frozen => "frozen by the guest agent",
            Consistency::CrashConsistent => "crash-consistent",
        })
    }
}

/// A snapshot of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its tag.
    pub tag: SnapshotTag,
    /// When it was taken, in seconds since 1970.
    pub created: u64,
    /// How its volumes fit together.
    pub consistency: Consistency,
    /// The volumes as they were: read-only.
    pub volumes: Vec<Volume>,
}

/// Where a set was cloned from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The source's name when the clone was made.
    pub name: MachineName,
    /// The source's UUID.
    pub machine: Uuid,
    /// The source's snapshot, where it was cloned from one.
    pub snapshot: Option<SnapshotTag>,
}

/// A machine's volumes and what the store knows about them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set {
    /// The machine's name.
    pub name: MachineName,
    /// The machine's UUID.
    pub machine: Uuid,
    /// The store's name.
    pub store: String,
    /// The folder of the machine's small state files.
    pub state_dir: PathBuf,
    /// The volumes that the machine uses now.
    pub volumes: Vec<Volume>,
    /// Its snapshots, oldest first.
    pub snapshots: Vec<Snapshot>,
    /// What it was cloned from and still stands on.
    pub origin: Option<Origin>,
    /// When the set came to be, in seconds since 1970.
    pub created: u64,
}

impl Set {
    /// The snapshot with this tag.
    pub fn snapshot(&self, tag: &SnapshotTag) -> Option<&Snapshot> {
        self.snapshots.iter().find(|snapshot| snapshot.tag == *tag)
    }
}

/// A volume to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVolume {
    /// Its name in the set, such as `vda`.
    pub name: String,
    /// What the guest sees; `None` takes the image's size. Never smaller than the image.
    pub size: Option<ByteSize>,
    /// An image file to start from, with its format.
    pub image: Option<(PathBuf, VolumeFormat)>,
}

/// A set to be made by cloning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewClone {
    /// The clone's name.
    pub name: MachineName,
    /// The clone's UUID.
    pub machine: Uuid,
}

/// A volume of a machine is now at another place: its definition must say so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repoint {
    /// The machine's name.
    pub set: MachineName,
    /// Its new volume, by the volume's name.
    pub volume: Volume,
}

/// A change of a store, as data. The store that computed it is the only one that reads `inner`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoreChange {
    /// The name of the store that carries it out.
    pub store: String,
    /// What is done, for people.
    pub steps: Vec<Step>,
    /// The sets as they will be, with the sources among them. The caller may correct the consistency of a new
    /// snapshot here before the commit: it is known only when a running machine's disks have been switched.
    pub sets: Vec<Set>,
    /// Volumes of existing machines that move.
    pub repoints: Vec<Repoint>,
    /// Files that the commit may remove or rewrite, unless something else that the store knows of needs them.
    #[serde(default)]
    pub frees: Vec<PathBuf>,
    /// The store's own notes.
    pub inner: serde_json::Value,
}

/// What a store can do, for people to know and for tools to choose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreCapabilities {
    /// A set's snapshot is one transaction of the storage itself.
    pub atomic_sets: bool,
    /// One sentence: what is atomic here, and by what means.
    pub atomicity: String,
    /// Source and clones stand beside each other on a shared base, so a source may go without its clones.
    pub shared_bases: bool,
}

/// Space of a set, in bytes of the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// Freed when the machine alone is deleted: written since the last snapshot or clone, and its state files.
    pub used: ByteSize,
    /// Held in common with the origin or with clones.
    pub shared: ByteSize,
    /// Held by its snapshots alone.
    pub snapshots: ByteSize,
}

/// How a full copy or a rebase should be told; see [`VolumeStore::plan_clone`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CloneKind {
    /// Shares what is not written with its origin.
    Linked,
    /// Copies everything and stands alone.
    Full,
}

/// Does what it is given at a moment when the guest stands still; see [`VolumeStore::stage_at`].
pub type Moment<'a> = &'a (dyn Fn(&mut dyn FnMut() -> Result<()>) -> Result<()> + Sync);

/// Where machines' disks live.
///
/// The `plan_*` methods look and compute; they change nothing. They take a [`Set`] as the caller knows it, which
/// need not have been in the store before (a machine that was defined by hand: see
/// [`adopt`](VolumeStore::adopt)).
pub trait VolumeStore: Send + Sync {
    /// The name under which it is chosen, and which is recorded with what it made.
    fn name(&self) -> &'static str;
    /// What it can do.
    fn capabilities(&self) -> StoreCapabilities;
    /// Whether it can serve on this host.
    fn probe(&self) -> Probe;

    /// Every set in the store, by name.
    fn sets(&self) -> Result<Vec<Set>>;
    /// One set.
    fn set(&self, name: &MachineName) -> Result<Option<Set>>;
    /// A set for a machine whose disks were made by other means. Nothing is written until a change is committed.
    /// An error where the store cannot serve these disks.
    fn adopt(&self, name: &MachineName, machine: Uuid, volumes: Vec<Volume>) -> Result<Set>;
    /// Whether somebody has a volume open, as far as the store can tell: a machine, or another program.
    fn in_use(&self, _volume: &Volume) -> Result<bool> {
        Ok(false)
    }
    /// The sets that stand on this one: its clones, not theirs.
    fn clones(&self, set: &Set) -> Result<Vec<MachineName>>;
    /// Makes sure that a machine which is started now finds its volumes, and no others.
    ///
    /// # Errors
    /// [`crate::Error::Refused`] where what is at a volume's path is another machine's.
    fn ready(&self, set: &Set) -> Result<()> {
        let _ = set;
        Ok(())
    }
    /// The space that a set takes.
    fn space(&self, set: &Set) -> Result<Space>;
    /// The space that each of many sets takes, in their order. A store that must look at every disk to tell one
    /// set's space does so once here.
    fn spaces(&self, sets: &[Set]) -> Result<Vec<Space>> {
        sets.iter().map(|set| self.space(set)).collect()
    }

    /// What was given up, and is still being freed in the background.
    fn freeing(&self) -> Result<ByteSize> {
        Ok(ByteSize::default())
    }

    /// A new set with new volumes. A name that has a set already is refused.
    fn plan_create(&self, name: &MachineName, machine: Uuid, volumes: &[NewVolume]) -> Result<StoreChange>;
    /// Clones of a set as it is now, or of one of its snapshots. A name that has a set already is refused.
    fn plan_clone(
        &self,
        source: &Set,
        from: Option<&SnapshotTag>,
        clones: &[NewClone],
        kind: CloneKind,
    ) -> Result<StoreChange>;
    /// A snapshot of the whole set.
    fn plan_snapshot(&self, set: &Set, tag: &SnapshotTag, consistency: Consistency) -> Result<StoreChange>;
    /// The set as it was at a snapshot. Newer snapshots go.
    fn plan_rollback(&self, set: &Set, tag: &SnapshotTag) -> Result<StoreChange>;
    /// One snapshot less; what only it held is freed.
    fn plan_drop_snapshot(&self, set: &Set, tag: &SnapshotTag) -> Result<StoreChange>;
    /// The set stands alone: its origin may be deleted.
    fn plan_promote(&self, set: &Set) -> Result<StoreChange>;
    /// No set any more. The caller sees to it that by the commit no clones stand on it, unless the store keeps
    /// shared bases; when it is planned, they may.
    fn plan_delete(&self, set: &Set) -> Result<StoreChange>;

    /// Makes what nobody uses yet.
    fn stage(&self, change: &StoreChange, files: &[StateFile]) -> Result<()>;
    /// As [`stage`](Self::stage). A store that takes snapshots where the volumes stand takes them within `moment`,
    /// which holds a running guest still meanwhile; others leave that to the hypervisor's switch.
    fn stage_at(&self, change: &StoreChange, files: &[StateFile], moment: Moment) -> Result<()> {
        let _ = moment;
        self.stage(change, files)
    }
    /// Makes the change count, and removes what it leaves without use.
    fn commit(&self, change: &StoreChange) -> Result<()>;
    /// Removes what was staged.
    fn revert(&self, change: &StoreChange) -> Result<()>;
}
