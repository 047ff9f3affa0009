//! A pool's state, asked of the kernel module in a way that never hangs.

use std::path::Path;

use kld_core::{Error, Result, fsio};

use crate::parse::{PoolState, pool_state};
use crate::{DatasetName, PoolName};

const KSTAT: &str = "/proc/spl/kstat/zfs";

/// Whether the kernel module is loaded.
pub fn module_is_loaded() -> bool {
    Path::new("/sys/module/zfs").is_dir()
}

/// The state of an imported pool; `None` where no pool of this name is imported. Every other way to ask hangs while
/// a pool is suspended.
pub fn state(pool: &PoolName) -> Result<Option<PoolState>> {
    let path = Path::new(KSTAT).join(pool.as_str()).join("state");
    Ok(fsio::read_text(&path, 64)?.map(|text| pool_state(&text)))
}

/// The imported pools.
pub fn imported() -> Vec<PoolName> {
    let folders = std::fs::read_dir(KSTAT).into_iter().flatten().flatten();
    let names = folders.filter(|entry| entry.path().join("state").is_file());
    let mut names: Vec<PoolName> =
        names.filter_map(|entry| PoolName::parse(&entry.file_name().to_string_lossy()).ok()).collect();
    names.sort();
    names
}

/// Refuses to go on where a call about this dataset would hang or cannot succeed.
pub fn guard(dataset: &DatasetName) -> Result<()> {
    guard_pool(&dataset.pool())
}

/// As [`guard`], for a pool.
pub fn guard_pool(pool: &PoolName) -> Result<()> {
    match state(pool)? {
        Some(PoolState::Suspended) => Err(Error::message(format!("the pool {pool} is suspended")).with_hint(
            format!("bring its disks back and run 'zpool clear {pool}'; zpool itself may hang until then"),
        )),
        Some(_) => Ok(()),
        None if !module_is_loaded() => Err(Error::message("the kernel module zfs is not loaded")
            .with_hint("install OpenZFS (zfsutils-linux and zfs-dkms on Debian) and run 'modprobe zfs'")),
        None => Err(Error::message(format!("no pool '{pool}' is imported"))
            .with_hint(format!("'zpool import {pool}' imports it; 'zpool list' shows those that are"))),
    }
}
