//! Volumes that become what they were, or stand on their own feet.

use kld_core::Result;
use uuid::Uuid;

use super::destroy::{destroy_with_snapshots, patiently, set_aside, settle, snapshots};
use super::layout::{HIDDEN, Layout};
use super::marks::{maker, marks};
use super::root::{ensure, uninherited};
use super::work::{Alone, Back};
use crate::engine::{Forgive, Kinds};
use crate::{SnapshotName, device};

/// Makes a volume what it was at a snapshot. Where clones stand on newer ones, the volume is set aside with them,
/// a clone of the snapshot takes its place, and is then promoted: the older snapshots become its own.
pub(super) fn roll_back(layout: &Layout, back: &Back) -> Result<()> {
    let (engine, dataset) = (&layout.engine, back.to.dataset());
    let moved = engine.exists(back.aside.as_str())?;
    if !moved {
        let all = snapshots(layout, &dataset)?;
        let newer: Vec<_> = all.into_iter().skip_while(|(name, _)| *name != back.to).skip(1).collect();
        if !newer.iter().any(|(_, clones)| *clones) {
            let names: Vec<SnapshotName> = newer.into_iter().map(|(name, _)| name).collect();
            layout.deed()?;
            patiently(|| engine.destroy_snapshots(&names)).or_missing()?;
            layout.deed()?;
            return Ok(patiently(|| engine.rollback(&back.to))?);
        }
        set_aside(layout, &dataset, &back.aside)?;
    }
    if !engine.exists(dataset.as_str())? {
        layout.deed()?;
        engine.clone_of(&back.aside.snapshot(back.to.name())?, &dataset, uninherited(layout)).or_exists()?;
    }
    if !engine.exists(back.to.as_str())? {
        layout.deed()?;
        engine.promote(&dataset)?;
    }
    settle(layout, &back.aside)?;
    device::wait(&dataset).map(drop)
}

/// Copies a clone with its snapshots, and puts the copy in its place.
pub(super) fn stand_alone(layout: &Layout, alone: &Alone, id: Uuid) -> Result<()> {
    let (engine, dataset) = (&layout.engine, &alone.dataset);
    let properties = [&marks(alone.machine, id), uninherited(layout)].concat();
    if maker(layout, dataset.as_str(), Kinds::Volumes)? != Some(id) {
        ensure(layout, &layout.bases()?)?;
        layout.deed()?;
        engine.snapshot(std::slice::from_ref(&alone.last), &[]).or_exists()?;
        // What a killed run has begun is not trusted.
        destroy_with_snapshots(layout, &alone.copy)?;
        let all = snapshots(layout, dataset)?;
        let first = all.first().map_or(&alone.last, |(name, _)| name);
        layout.deed()?;
        engine.copy(first, None, &alone.copy, &properties)?;
        if *first != alone.last {
            layout.deed()?;
            engine.copy(&alone.last, Some(first), &alone.copy, &[])?;
        }
        set_aside(layout, dataset, &alone.aside)?;
    }
    if engine.exists(alone.copy.as_str())? && !engine.exists(dataset.as_str())? {
        layout.deed()?;
        patiently(|| engine.rename(&alone.copy, dataset)).or_missing()?;
    }
    // Hidden snapshots belong to clones, which stay on what was set aside.
    let hidden = snapshots(layout, dataset)?.into_iter().map(|(name, _)| name);
    let hidden: Vec<SnapshotName> = hidden.filter(|name| name.name().starts_with(HIDDEN)).collect();
    if !hidden.is_empty() {
        layout.deed()?;
        patiently(|| engine.destroy_snapshots(&hidden)).or_missing()?;
    }
    settle(layout, &alone.aside)?;
    device::wait(dataset).map(drop)
}
