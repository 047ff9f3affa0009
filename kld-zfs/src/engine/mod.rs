//! What is asked of ZFS, and who carries it out.
//!
//! [`Programs`] runs `zfs` and `zpool`. [`Library`] calls libzfs_core, loaded when it is first needed, and leaves to
//! the programs what the library cannot do (listings, streams). With the feature `libzetta` there is `Zetta` too, which
//! links libzfs_core and calls it through that crate. All pass one suite (`tests/lab.rs`).

mod errno;
mod library;
mod nvlist;
mod programs;
#[cfg(feature = "libzetta")]
mod zetta;

use std::sync::Arc;

use kld_core::{Error, Result};

use crate::parse::Row;
use crate::{DatasetName, SnapshotName};

pub use library::Library;
pub use programs::Programs;
#[cfg(feature = "libzetta")]
pub use zetta::Zetta;

/// A property to be set. Which ones there are is decided here, so that no text of a user becomes a property.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Property {
    /// `mountpoint`.
    Mountpoint(String),
    /// `volmode=dev`: the host does not look for partitions in a guest's disk.
    VolmodeDev,
    /// `snapdev=hidden`: snapshots get no devices. With them OpenZFS 2.3.9 was seen to remove one twice, which stops
    /// the kernel, where a snapshot and its volume are destroyed while udev looks at them.
    SnapdevHidden,
    /// A user property, such as `org.kld:machine`.
    User(&'static str, String),
    /// Any other native property with its value, as `zfs get -p` prints it; set by the programs alone.
    Native(String, String),
}

/// What a listing shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kinds {
    /// File systems.
    Filesystems,
    /// Volumes.
    Volumes,
    /// Snapshots.
    Snapshots,
    /// File systems and volumes.
    Datasets,
    /// All three.
    All,
}

impl Kinds {
    fn word(self) -> &'static str {
        match self {
            Kinds::Filesystems => "filesystem",
            Kinds::Volumes => "volume",
            Kinds::Snapshots => "snapshot",
            Kinds::Datasets => "filesystem,volume",
            Kinds::All => "filesystem,volume,snapshot",
        }
    }
}

/// A listing that is wanted.
#[derive(Debug, Clone)]
pub struct Listing<'a> {
    /// Where it starts. One that is not there gives nothing.
    pub of: &'a [&'a str],
    /// What it shows.
    pub kinds: Kinds,
    /// How deep it goes; 0: the named things alone, `None`: all that is below.
    pub depth: Option<u32>,
    /// The properties. A user property must be the last.
    pub columns: &'a [&'a str],
}

/// What a deed met with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It is there already.
    Exists,
    /// It is not there.
    Missing,
    /// Somebody has it open or mounted, or holds it.
    Busy,
    /// Any other failure.
    Other,
}

/// A deed that failed.
#[derive(Debug)]
pub struct Failure {
    /// What it met with.
    pub kind: Kind,
    /// What is told about it.
    pub error: Error,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        failure.error
    }
}

/// How a deed ended.
pub type Outcome = std::result::Result<(), Failure>;

/// Lets a deed end well where it had been done already, or there is nothing to do.
pub trait Forgive {
    /// What is there already is as wanted.
    fn or_exists(self) -> Result<()>;
    /// What is not there is as wanted.
    fn or_missing(self) -> Result<()>;
}

impl Forgive for Outcome {
    fn or_exists(self) -> Result<()> {
        self.or_else(|failure| if failure.kind == Kind::Exists { Ok(()) } else { Err(failure.error) })
    }

    fn or_missing(self) -> Result<()> {
        self.or_else(|failure| if failure.kind == Kind::Missing { Ok(()) } else { Err(failure.error) })
    }
}

/// The few deeds that a store needs. Each refuses at once where its pool is suspended.
pub trait Engine: Send + Sync {
    /// Its name, for people.
    fn name(&self) -> &'static str;
    /// Whether a dataset or snapshot is there.
    fn exists(&self, name: &str) -> Result<bool>;
    /// Lists, in the order of names, snapshots in the order of their making.
    fn list(&self, listing: &Listing) -> Result<Vec<Row>>;
    /// Makes a file system. It is not mounted. ZFS makes it in one transaction group and sets its properties in
    /// the next, so it may be seen by others before this returns.
    fn create_filesystem(&self, name: &DatasetName, properties: &[Property]) -> Outcome;
    /// Makes a thin volume.
    fn create_volume(&self, name: &DatasetName, size: u64, block: u32, properties: &[Property]) -> Outcome;
    /// Sets properties of a dataset.
    fn set(&self, name: &DatasetName, properties: &[Property]) -> Outcome;
    /// Takes snapshots in one transaction: all of them or none, at one moment. All are of one pool, and no two of
    /// one dataset.
    fn snapshot(&self, names: &[SnapshotName], properties: &[Property]) -> Outcome;
    /// Makes a dataset from a snapshot.
    fn clone_of(&self, origin: &SnapshotName, name: &DatasetName, properties: &[Property]) -> Outcome;
    /// Destroys snapshots of one pool; those that are not there are as wanted. What clones stand on goes by itself
    /// with the last of them.
    fn destroy_snapshots(&self, names: &[SnapshotName]) -> Outcome;
    /// Destroys a dataset that has no snapshots and nothing below it.
    fn destroy(&self, name: &DatasetName) -> Outcome;
    /// Gives a dataset another name in its pool.
    fn rename(&self, from: &DatasetName, to: &DatasetName) -> Outcome;
    /// Gives a snapshot another name.
    fn rename_snapshot(&self, from: &SnapshotName, to: &SnapshotName) -> Outcome;
    /// Turns a clone and its origin round: the snapshots up to the origin's become the clone's.
    fn promote(&self, name: &DatasetName) -> Outcome;
    /// Makes a dataset what it was at its newest snapshot.
    fn rollback(&self, to: &SnapshotName) -> Outcome;
    /// Copies a snapshot into a new dataset that stands alone; or, into one that ends with a copy of `after`, all
    /// snapshots that follow it up to `from`.
    fn copy(
        &self,
        from: &SnapshotName,
        after: Option<&SnapshotName>,
        to: &DatasetName,
        properties: &[Property],
    ) -> Outcome;
}

/// The best engine of this host.
pub fn best() -> Arc<dyn Engine> {
    match Library::load() {
        Ok(library) => Arc::new(library),
        Err(_) => Arc::new(Programs::new()),
    }
}
