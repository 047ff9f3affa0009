//! Whether the store can serve here.

use kld_core::Probe;

use super::layout::Layout;
use crate::engine::{Kinds, Listing};
use crate::parse::PoolState;
use crate::pool;

/// Below this much room the next guest's write may be the one that finds none.
const ROOM: u64 = 1 << 30;

pub(super) fn probe(layout: &Layout) -> Probe {
    let (subject, root) = (format!("store zfs ({})", layout.root), &layout.root);
    let pool = root.pool();
    if !pool::module_is_loaded() {
        return Probe::absent(
            subject,
            "the kernel module zfs is not loaded",
            "install OpenZFS (zfsutils-linux and zfs-dkms on Debian) and run 'modprobe zfs'",
        );
    }
    match pool::state(&pool) {
        Ok(None) => {
            return Probe::absent(
                subject,
                format!("no pool '{pool}' is imported"),
                format!("'zpool import {pool}' imports it; or set zfs-root to a dataset of another pool"),
            );
        }
        Ok(Some(PoolState::Suspended)) => {
            return Probe::absent(
                subject,
                format!("the pool {pool} is suspended: its disks do not answer"),
                format!("bring the disks back and run 'zpool clear {pool}'"),
            );
        }
        Ok(Some(PoolState::Faulted)) => {
            return Probe::absent(
                subject,
                format!("the pool {pool} is faulted"),
                format!("see 'zpool status {pool}'"),
            );
        }
        Err(error) => return Probe::absent(subject, error.to_string(), "look at /proc/spl/kstat/zfs"),
        Ok(Some(_)) => {}
    }
    let found = match layout.engine.exists(root.as_str()) {
        Ok(true) => root.clone(),
        Ok(false) => match root.parent() {
            Some(parent) if layout.engine.exists(parent.as_str()).unwrap_or(false) => parent,
            _ => {
                return Probe::absent(
                    subject,
                    format!("there is no dataset {root}, nor one above it"),
                    format!("'zfs create -p {root}' makes it"),
                );
            }
        },
        Err(error) => return Probe::absent(subject, error.to_string(), "load zfs.ko, and run it as root"),
    };
    let of = [found.as_str()];
    let listing = Listing { of: &of, kinds: Kinds::Filesystems, depth: Some(0), columns: &["available"] };
    let room = layout.engine.list(&listing).and_then(|rows| rows.first().map_or(Ok(0), |row| row.number(0)));
    let by = layout.engine.name();
    match room {
        Err(error) => Probe::absent(
            subject,
            error.to_string(),
            "run it as root, with the programs zfs and zpool installed",
        ),
        Ok(_) if is_readonly(&pool) => Probe::absent(
            subject,
            format!("the pool {pool} is imported read-only"),
            format!("'zpool export {pool}' and import it without readonly=on"),
        ),
        // What is there can still be deleted.
        Ok(0) => Probe::limited(
            subject,
            format!("there is no room left in {found}"),
            "free some space, or raise its quota",
        ),
        Ok(room) if room < ROOM => Probe::limited(
            subject,
            format!("there are {} left in {found}", kld_core::ByteSize::new(room)),
            "free some space, or raise its quota",
        ),
        Ok(room) => Probe::serves(
            subject,
            format!("there are {} left in {found}; carried out by {by}", kld_core::ByteSize::new(room)),
        ),
    }
}

fn is_readonly(pool: &crate::PoolName) -> bool {
    let exec =
        kld_core::exec::Exec::new("zpool").args(["get", "-Hp", "-o", "value", "readonly", pool.as_str()]);
    exec.run().is_ok_and(|finished| finished.stdout.starts_with(b"on"))
}
