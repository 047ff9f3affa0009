//! What goes, and what of it stays for the clones that stand on it.

use std::collections::BTreeSet;
use std::time::Duration;

use kld_core::retry::Patience;
use kld_core::{MachineName, Result, fsio};
use uuid::Uuid;

use super::at_once::each;
use super::layout::{HIDDEN, Layout};
use super::marks::owner;
use super::record;
use super::root::ensure;
use super::work::Gone;
use crate::engine::{Forgive, Kind, Kinds, Listing, Outcome};
use crate::{DatasetName, SnapshotName, mounts};

/// How long a device that was just closed may stay busy: udev and blkid look at it.
const BUSY: Duration = Duration::from_secs(20);

/// A machine that goes is not in the store any more, whatever is left of it.
pub(super) fn forget(layout: &Layout, gone: &Gone) -> Result<()> {
    // Looks whether it is there and ours, and mounts it.
    if record::read(layout, &gone.name)?.is_some_and(|set| set.machine == gone.machine) {
        layout.deed()?;
        fsio::remove_if_exists(&layout.record(&gone.name))?;
    }
    Ok(())
}

pub(super) fn destroy_machine(layout: &Layout, gone: &Gone) -> Result<()> {
    let state = layout.machine(&gone.name)?;
    if layout.engine.exists(state.as_str())? && owner(layout, &state)? == Some(gone.machine) {
        each(&gone.own, |(dataset, place)| {
            match snapshots(layout, dataset)?.iter().any(|(_, clones)| *clones) {
                true => set_aside(layout, dataset, place),
                false => destroy_with_snapshots(layout, dataset),
            }
        })?;
        destroy_state(layout, &gone.name)?;
    }
    for (_, place) in &gone.own {
        settle(layout, place)?;
    }
    for dataset in &gone.adopted {
        let ours = |name: &SnapshotName| {
            name.name().starts_with(HIDDEN) || gone.tags.iter().any(|tag| tag.as_str() == name.name())
        };
        let names =
            snapshots(layout, dataset)?.into_iter().map(|(name, _)| name).filter(ours).collect::<Vec<_>>();
        if !names.is_empty() {
            layout.deed()?;
            patiently(|| layout.engine.destroy_snapshots(&names)).or_missing()?;
        }
    }
    Ok(())
}

/// A dataset's snapshots, oldest first, and whether clones stand on each.
pub(super) fn snapshots(layout: &Layout, dataset: &DatasetName) -> Result<Vec<(SnapshotName, bool)>> {
    let of = [dataset.as_str()];
    let listing = Listing { of: &of, kinds: Kinds::Snapshots, depth: Some(1), columns: &["clones"] };
    let rows = layout.engine.list(&listing)?;
    let own =
        rows.iter().filter_map(|row| Some((SnapshotName::parse(&row.name).ok()?, row.text(0).is_some())));
    Ok(own.filter(|(name, _)| name.dataset() == *dataset).collect())
}

pub(super) fn destroy_with_snapshots(layout: &Layout, dataset: &DatasetName) -> Result<()> {
    if !layout.engine.exists(dataset.as_str())? {
        return Ok(());
    }
    let names: Vec<SnapshotName> = snapshots(layout, dataset)?.into_iter().map(|(name, _)| name).collect();
    if !names.is_empty() {
        layout.deed()?;
        patiently(|| layout.engine.destroy_snapshots(&names)).or_missing()?;
    }
    layout.deed()?;
    patiently(|| layout.engine.destroy(dataset)).or_missing()
}

pub(super) fn destroy_state(layout: &Layout, name: &MachineName) -> Result<()> {
    let dataset = layout.machine(name)?;
    layout.deed()?;
    mounts::unmount(&dataset, &layout.state_dir(name))?;
    destroy_with_snapshots(layout, &dataset)
}

/// Moves a volume that clones stand on out of its machine.
pub(super) fn set_aside(layout: &Layout, dataset: &DatasetName, place: &DatasetName) -> Result<()> {
    ensure(layout, &layout.bases()?)?;
    layout.deed()?;
    patiently(|| layout.engine.rename(dataset, place)).or_missing()
}

/// Frees all of a volume that was set aside which no clone needs. What clones do need goes with the last of them.
pub(super) fn settle(layout: &Layout, place: &DatasetName) -> Result<()> {
    if !layout.engine.exists(place.as_str())? {
        return Ok(());
    }
    let all = snapshots(layout, place)?;
    let names: Vec<SnapshotName> = all.iter().map(|(name, _)| name.clone()).collect();
    layout.deed()?;
    patiently(|| layout.engine.destroy_snapshots(&names)).or_missing()?;
    match all.iter().rev().find(|(_, clones)| *clones) {
        Some((newest, _)) => {
            layout.deed()?;
            patiently(|| layout.engine.rollback(newest)).or_missing()
        }
        None => Ok(()),
    }
}

/// Destroys the bases that nothing stands on any more, and then those that they stood on.
pub(super) fn collect(layout: &Layout) -> Result<()> {
    let bases = layout.bases()?;
    if !layout.engine.exists(bases.as_str())? {
        return Ok(());
    }
    loop {
        let of = [bases.as_str()];
        let listing = Listing { of: &of, kinds: Kinds::All, depth: None, columns: &["type"] };
        let rows = layout.engine.list(&listing)?;
        let names = || rows.iter().map(|row| row.name.as_str());
        let with_snapshots: BTreeSet<&str> =
            names().filter_map(|name| name.split_once('@')).map(|(dataset, _)| dataset).collect();
        let useless = names().filter(|name| !name.contains('@') && *name != bases.as_str());
        let useless: Vec<&str> = useless.filter(|name| !with_snapshots.contains(name)).collect();
        if useless.is_empty() {
            return Ok(());
        }
        for name in useless {
            let name = DatasetName::parse(name)?;
            layout.deed()?;
            patiently(|| layout.engine.destroy(&name)).or_missing()?;
        }
    }
}

/// Destroys snapshots. A tag's is renamed first where clones stand on it, so that the tag can be given again.
pub(super) fn give_up(layout: &Layout, names: &[SnapshotName], id: Uuid) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let of: Vec<&str> = names.iter().map(SnapshotName::as_str).collect();
    let listing = Listing { of: &of, kinds: Kinds::Snapshots, depth: Some(0), columns: &["clones"] };
    let with_clones: Vec<String> = match names.iter().any(|name| !name.name().starts_with(HIDDEN)) {
        true => layout
            .engine
            .list(&listing)?
            .into_iter()
            .filter(|row| row.text(0).is_some())
            .map(|row| row.name)
            .collect(),
        false => Vec::new(),
    };
    let hidden = format!("{HIDDEN}drop-{}", &id.simple().to_string()[..8]);
    let mut going = Vec::new();
    for name in names {
        let aside = name.dataset().snapshot(&hidden)?;
        if with_clones.iter().any(|known| known == name.as_str()) && !name.name().starts_with(HIDDEN) {
            layout.deed()?;
            layout.engine.rename_snapshot(name, &aside).or_missing()?;
        }
        going.push(name.clone());
        // A killed run may have renamed it.
        if !name.name().starts_with(HIDDEN) {
            going.push(aside);
        }
    }
    layout.deed()?;
    patiently(|| layout.engine.destroy_snapshots(&going)).or_missing()
}

/// Waits until a device that was just closed can go.
pub(super) fn patiently(deed: impl FnMut() -> Outcome) -> Outcome {
    let patience = Patience::of(BUSY).pausing(Duration::from_millis(5), Duration::from_millis(250));
    patience.retry(|failure| failure.kind == Kind::Busy, deed)
}
