//! libzfs_core: no program is started, and many deeds of one process share a transaction group.

use std::ffi::c_int;
use std::ptr::null_mut;

use kld_core::{Error, Result};
use nix::errno::Errno;

use super::errno::{ended, ended_each, other};
use super::nvlist::{Functions, List, c_text, functions};
use super::{Engine, Listing, Outcome, Programs, Property};
use crate::parse::Row;
use crate::{DatasetName, SnapshotName, pool};

// From libzfs_core.h and sys/fs/zfs.h.
const FILESYSTEM: c_int = 2;
const VOLUME: c_int = 3;
const VOLMODE_DEV: u64 = 2;
const SNAPDEV_HIDDEN: u64 = 0;

/// The engine that calls the library.
pub struct Library {
    functions: &'static Functions,
    programs: Programs,
}

impl std::fmt::Debug for Library {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Library").field("programs", &self.programs).finish_non_exhaustive()
    }
}

impl Library {
    /// Loads the library, if it is there and has all that is called.
    pub fn load() -> Result<Self> {
        Ok(Library { functions: functions()?, programs: Programs::new() })
    }

    /// The native properties are numbers to the library, which knows none of their words.
    fn properties(&self, properties: &[Property]) -> Result<List> {
        let mut list = List::new(self.functions)?;
        for property in properties {
            match property {
                Property::Mountpoint(path) => list.add_text("mountpoint", path)?,
                Property::VolmodeDev => list.add_number("volmode", VOLMODE_DEV)?,
                Property::SnapdevHidden => list.add_number("snapdev", SNAPDEV_HIDDEN)?,
                Property::User(name, value) => list.add_text(name, value)?,
                Property::Native(name, _) => {
                    return Err(Error::message(format!("libzfs_core cannot set the property {name}")));
                }
            }
        }
        Ok(list)
    }

    fn snapshots(&self, names: &[SnapshotName]) -> Result<List> {
        let mut list = List::new(self.functions)?;
        names.iter().try_for_each(|name| list.add_flag(name.as_str()))?;
        Ok(list)
    }
}

/// Whether a property has to be left to the programs.
fn beyond(properties: &[Property]) -> bool {
    properties.iter().any(|property| matches!(property, Property::Native(..)))
}

impl Engine for Library {
    fn name(&self) -> &'static str {
        "libzfs_core"
    }

    fn exists(&self, name: &str) -> Result<bool> {
        pool::guard(&DatasetName::parse(name.split('@').next().unwrap_or_default())?)?;
        let name = c_text(name)?;
        // SAFETY: the name is a C string.
        Ok(unsafe { (self.functions.lzc_exists)(name.as_ptr()) } != 0)
    }

    fn list(&self, listing: &Listing) -> Result<Vec<Row>> {
        self.programs.list(listing)
    }

    fn create_filesystem(&self, name: &DatasetName, properties: &[Property]) -> Outcome {
        if beyond(properties) {
            return self.programs.create_filesystem(name, properties);
        }
        pool::guard(name).map_err(other)?;
        let list = self.properties(properties).map_err(other)?;
        let text = c_text(name.as_str()).map_err(other)?;
        // SAFETY: the name is a C string, the list is alive, and no key is given.
        let errno =
            unsafe { (self.functions.lzc_create)(text.as_ptr(), FILESYSTEM, list.raw(), null_mut(), 0) };
        ended(errno, || format!("cannot create {name}"))
    }

    fn create_volume(&self, name: &DatasetName, size: u64, block: u32, properties: &[Property]) -> Outcome {
        if beyond(properties) {
            return self.programs.create_volume(name, size, block, properties);
        }
        pool::guard(name).map_err(other)?;
        let mut list = self.properties(properties).map_err(other)?;
        list.add_number("volsize", size)
            .and_then(|()| list.add_number("volblocksize", block.into()))
            .map_err(other)?;
        let text = c_text(name.as_str()).map_err(other)?;
        // SAFETY: the name is a C string, the list is alive, and no key is given.
        let errno = unsafe { (self.functions.lzc_create)(text.as_ptr(), VOLUME, list.raw(), null_mut(), 0) };
        ended(errno, || format!("cannot create {name}"))
    }

    fn set(&self, name: &DatasetName, properties: &[Property]) -> Outcome {
        self.programs.set(name, properties)
    }

    fn snapshot(&self, names: &[SnapshotName], properties: &[Property]) -> Outcome {
        let Some(first) = names.first() else { return Ok(()) };
        pool::guard(&first.dataset()).map_err(other)?;
        let snapshots = self.snapshots(names).map_err(other)?;
        let properties = self.properties(properties).map_err(other)?;
        let mut each = null_mut();
        // SAFETY: both lists are alive, and the place for what failed is given.
        let errno = unsafe { (self.functions.lzc_snapshot)(snapshots.raw(), properties.raw(), &mut each) };
        let each = List::given(each, self.functions).numbers();
        ended_each(errno, &each, first, None, |name| format!("cannot snapshot {name}"))
    }

    fn clone_of(&self, origin: &SnapshotName, name: &DatasetName, properties: &[Property]) -> Outcome {
        if beyond(properties) {
            return self.programs.clone_of(origin, name, properties);
        }
        pool::guard(name).map_err(other)?;
        let list = self.properties(properties).map_err(other)?;
        let (from, to) = (c_text(origin.as_str()).map_err(other)?, c_text(name.as_str()).map_err(other)?);
        // SAFETY: both names are C strings and the list is alive.
        let errno = unsafe { (self.functions.lzc_clone)(to.as_ptr(), from.as_ptr(), list.raw()) };
        ended(errno, || format!("cannot clone {origin} to {name}"))
    }

    fn destroy_snapshots(&self, names: &[SnapshotName]) -> Outcome {
        let Some(first) = names.first() else { return Ok(()) };
        pool::guard(&first.dataset()).map_err(other)?;
        let snapshots = self.snapshots(names).map_err(other)?;
        let mut each = null_mut();
        const DEFER: c_int = 1;
        // SAFETY: the list is alive, and the place for what failed is given.
        let errno = unsafe { (self.functions.lzc_destroy_snaps)(snapshots.raw(), DEFER, &mut each) };
        let each = List::given(each, self.functions).numbers();
        ended_each(errno, &each, first, Some(Errno::ENOENT), |name| format!("cannot destroy {name}"))
    }

    fn destroy(&self, name: &DatasetName) -> Outcome {
        pool::guard(name).map_err(other)?;
        let text = c_text(name.as_str()).map_err(other)?;
        // SAFETY: the name is a C string.
        ended(unsafe { (self.functions.lzc_destroy)(text.as_ptr()) }, || format!("cannot destroy {name}"))
    }

    fn rename(&self, from: &DatasetName, to: &DatasetName) -> Outcome {
        pool::guard(from).map_err(other)?;
        let (old, new) = (c_text(from.as_str()).map_err(other)?, c_text(to.as_str()).map_err(other)?);
        // SAFETY: both names are C strings.
        let errno = unsafe { (self.functions.lzc_rename)(old.as_ptr(), new.as_ptr()) };
        ended(errno, || format!("cannot rename {from} to {to}"))
    }

    fn rename_snapshot(&self, from: &SnapshotName, to: &SnapshotName) -> Outcome {
        self.programs.rename_snapshot(from, to)
    }

    fn promote(&self, name: &DatasetName) -> Outcome {
        pool::guard(name).map_err(other)?;
        let text = c_text(name.as_str()).map_err(other)?;
        let mut conflict = [0; 256];
        // SAFETY: the name is a C string; room for the name of a conflicting snapshot is given and said.
        let errno = unsafe {
            (self.functions.lzc_promote)(text.as_ptr(), conflict.as_mut_ptr(), conflict.len() as c_int)
        };
        ended(errno, || format!("cannot promote {name}"))
    }

    fn rollback(&self, to: &SnapshotName) -> Outcome {
        pool::guard(&to.dataset()).map_err(other)?;
        let (dataset, snapshot) =
            (c_text(to.dataset().as_str()).map_err(other)?, c_text(to.as_str()).map_err(other)?);
        // SAFETY: both names are C strings.
        let errno = unsafe { (self.functions.lzc_rollback_to)(dataset.as_ptr(), snapshot.as_ptr()) };
        ended(errno, || format!("cannot roll back to {to}"))
    }

    fn copy(
        &self,
        from: &SnapshotName,
        after: Option<&SnapshotName>,
        to: &DatasetName,
        properties: &[Property],
    ) -> Outcome {
        self.programs.copy(from, after, to, properties)
    }
}
