//! ZFS: pools, datasets and snapshots, and machines' disks on zvols.
//!
//! [`engine`] is what is asked of ZFS, and who carries it out: the programs, or libzfs_core where it can be loaded.
//! [`store::ZvolStore`] is the volume store on it. [`device`] tells which dataset a device really is.
#![deny(missing_docs)]

pub mod device;
pub mod engine;
mod held;
pub mod mounts;
pub mod names;
pub mod parse;
pub mod pool;
pub mod store;
mod udev;

pub use names::{DatasetName, PoolName, SnapshotName};
pub use store::ZvolStore;
