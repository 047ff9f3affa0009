//! libzfs_core through the crate libzetta: linked when kld is built, where [`Library`] loads it when it runs.
//!
//! It does what libzetta 0.5.0 does right: it looks for things, creates them, and takes and destroys snapshots by the
//! set. All else is left to [`Library`]: libzetta has no clones, promotions, renames and rollbacks, and knows neither
//! `volmode` nor `snapdev`. Its half that runs `zfs` and `zpool` is not used: it shortens names that hold a `:` or a
//! space, panics on values that are younger than it, and takes failures of `zpool` for success.
//!
//! Its sys crates bring their bindings, so that neither headers nor bindgen are needed, only libraries to link with. One
//! of them names libzfs too; the linker drops it, since nothing of it is called. That matters: the soname of libzfs
//! changes with every release, while `libzfs_core.so.3` is that of 2.1 to 2.4.

use std::collections::HashMap;
use std::ffi::c_int;
use std::path::PathBuf;

use kld_core::{Error, Result};
use libzetta::libnv::nvpair::Value;
use libzetta::zfs::{self, CreateDatasetRequest, CreateDatasetRequestBuilder, DatasetKind, DestroyTiming};
use libzetta::zfs::{ZfsEngine, ZfsLzc};
use nix::errno::Errno;

use super::errno::{ended, ended_each, other};
use super::{Engine, Library, Listing, Outcome, Property};
use crate::parse::Row;
use crate::{DatasetName, SnapshotName, pool};

/// The engine that calls libzetta.
#[derive(Debug)]
pub struct Zetta {
    lzc: ZfsLzc,
    library: Library,
}

impl Zetta {
    /// Opens the library, where there is OpenZFS.
    pub fn load() -> Result<Self> {
        let lzc = ZfsLzc::new().map_err(|error| Error::failed("cannot use libzetta", said(&error)))?;
        Ok(Zetta { lzc, library: Library::load()? })
    }

    fn create(&self, name: &DatasetName, request: &mut CreateDatasetRequestBuilder) -> Outcome {
        pool::guard(name).map_err(other)?;
        let what = || format!("cannot create {name}");
        let request = request.name(name.as_str()).build();
        let request = request.map_err(|cause| other(Error::failed(what(), cause)))?;
        match self.lzc.create(request) {
            Err(zfs::Error::Io(error)) => ended(number(&error), what),
            done => done.map_err(|error| other(Error::failed(what(), said(&error)))),
        }
    }
}

/// The properties, where libzetta can set all of them.
fn within(properties: &[Property]) -> Option<HashMap<String, String>> {
    let pair = |property: &Property| match property {
        Property::User(name, value) => Some((name.to_string(), value.clone())),
        // As text beside the users': the place that a request has for it is never read.
        Property::Mountpoint(path) => Some(("mountpoint".to_string(), path.clone())),
        Property::VolmodeDev | Property::SnapdevHidden | Property::Native(..) => None,
    };
    properties.iter().map(pair).collect()
}

fn paths(names: &[SnapshotName]) -> Vec<PathBuf> {
    names.iter().map(|name| PathBuf::from(name.as_str())).collect()
}

fn number(error: &std::io::Error) -> c_int {
    error.raw_os_error().unwrap_or(Errno::EIO as c_int)
}

/// Its errors have no words of their own.
fn said(error: &zfs::Error) -> String {
    match error {
        zfs::Error::LZCInitializationFailed(cause) => {
            format!("/dev/zfs cannot be opened: {}", Errno::from_raw(number(cause)).desc())
        }
        error => format!("{error:?}"),
    }
}

/// How a deed on a set of snapshots ended.
fn ended_set(
    done: zfs::Result<()>,
    asked: &SnapshotName,
    forgiven: Option<Errno>,
    what: impl Fn(&str) -> String,
) -> Outcome {
    match done {
        Ok(()) => Ok(()),
        Err(zfs::Error::Io(error)) => ended_each(number(&error), &[], asked, forgiven, what),
        Err(zfs::Error::MultiOpError(each)) => {
            let number = |(name, value)| match value {
                Value::Int32(errno) => Some((name, errno)),
                _ => None,
            };
            let mut each: Vec<(String, c_int)> = each.into_iter().filter_map(number).collect();
            each.sort();
            ended_each(Errno::EIO as c_int, &each, asked, forgiven, what)
        }
        Err(error) => Err(other(Error::failed(what(asked.as_str()), said(&error)))),
    }
}

impl Engine for Zetta {
    fn name(&self) -> &'static str {
        "libzetta"
    }

    fn exists(&self, name: &str) -> Result<bool> {
        pool::guard(&DatasetName::parse(name.split('@').next().unwrap_or_default())?)?;
        self.lzc.exists(name).map_err(|error| Error::failed(format!("cannot look for {name}"), said(&error)))
    }

    fn list(&self, listing: &Listing) -> Result<Vec<Row>> {
        self.library.list(listing)
    }

    fn create_filesystem(&self, name: &DatasetName, properties: &[Property]) -> Outcome {
        let Some(within) = within(properties) else {
            return self.library.create_filesystem(name, properties);
        };
        let mut request = CreateDatasetRequest::builder();
        self.create(name, request.kind(DatasetKind::Filesystem).user_properties(within))
    }

    fn create_volume(&self, name: &DatasetName, size: u64, block: u32, properties: &[Property]) -> Outcome {
        let Some(within) = within(properties) else {
            return self.library.create_volume(name, size, block, properties);
        };
        let mut request = CreateDatasetRequest::builder();
        request.kind(DatasetKind::Volume).user_properties(within);
        self.create(name, request.volume_size(size).volume_block_size(u64::from(block)))
    }

    fn set(&self, name: &DatasetName, properties: &[Property]) -> Outcome {
        self.library.set(name, properties)
    }

    fn snapshot(&self, names: &[SnapshotName], properties: &[Property]) -> Outcome {
        let Some(first) = names.first() else { return Ok(()) };
        let Some(within) = within(properties) else {
            return self.library.snapshot(names, properties);
        };
        pool::guard(&first.dataset()).map_err(other)?;
        let done = self.lzc.snapshot(&paths(names), Some(within));
        ended_set(done, first, None, |name| format!("cannot snapshot {name}"))
    }

    fn clone_of(&self, origin: &SnapshotName, name: &DatasetName, properties: &[Property]) -> Outcome {
        self.library.clone_of(origin, name, properties)
    }

    fn destroy_snapshots(&self, names: &[SnapshotName]) -> Outcome {
        let Some(first) = names.first() else { return Ok(()) };
        pool::guard(&first.dataset()).map_err(other)?;
        let done = self.lzc.destroy_snapshots(&paths(names), DestroyTiming::Defer);
        ended_set(done, first, Some(Errno::ENOENT), |name| format!("cannot destroy {name}"))
    }

    fn destroy(&self, name: &DatasetName) -> Outcome {
        self.library.destroy(name)
    }

    fn rename(&self, from: &DatasetName, to: &DatasetName) -> Outcome {
        self.library.rename(from, to)
    }

    fn rename_snapshot(&self, from: &SnapshotName, to: &SnapshotName) -> Outcome {
        self.library.rename_snapshot(from, to)
    }

    fn promote(&self, name: &DatasetName) -> Outcome {
        self.library.promote(name)
    }

    fn rollback(&self, to: &SnapshotName) -> Outcome {
        self.library.rollback(to)
    }

    fn copy(
        &self,
        from: &SnapshotName,
        after: Option<&SnapshotName>,
        to: &DatasetName,
        properties: &[Property],
    ) -> Outcome {
        self.library.copy(from, after, to, properties)
    }
}
