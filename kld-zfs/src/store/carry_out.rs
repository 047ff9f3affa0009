//! How changes are carried out, so that a kill at any point loses nothing.
//!
//! All that a stage makes bears the change's id: state datasets and snapshots as `org.kld:change`, which volumes inherit,
//! and files of state in a marker beside them. So a second stage knows its own, and reverting removes exactly
//! what was made. A commit consists of deeds that may be done twice, in an order in which each finds what it needs.
//!
//! Every deed that ZFS makes durable waits for a transaction group. Those that do not need each other are done at
//! once, from threads, and share one.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::Duration;

use kld_core::error::Trying;
use kld_core::retry::Patience;
use kld_core::store::{Moment, StateFile, StoreChange};
use kld_core::timing::phase;
use kld_core::{Error, MachineName, Result};
use nix::errno::Errno;

use super::at_once::{both, each};
use super::birth::{self, Turns};
use super::destroy::{
    collect, destroy_machine, destroy_state, destroy_with_snapshots, forget, give_up, patiently,
};
use super::files::{refuse_read_only, remove_files, settle_state, write_files};
use super::layout::Layout;
use super::marker::Marker;
use super::marks::ours;
use super::record;
use super::reset::{roll_back, stand_alone};
use super::root::prepare;
use super::volumes::{fill, filled_sets, take};
use super::work::{Content, Work};
use crate::engine::Forgive;
use crate::{DatasetName, pool};

/// How long a full pool may take to give back what was destroyed.
const FREEING: Duration = Duration::from_secs(30);

/// Makes what nobody uses yet. See [`kld_core::store::VolumeStore::stage`].
pub(super) fn stage(
    layout: &Layout,
    change: &StoreChange,
    files: &[StateFile],
    moment: Moment,
) -> Result<()> {
    let work = &Work::of(change)?;
    let nothing =
        work.born.is_empty() && work.snapshot.is_empty() && work.make.is_empty() && files.is_empty();
    if nothing {
        return Ok(());
    }
    pool::guard(&layout.root)?;
    for file in files {
        layout.state_file(&file.set, &file.path)?;
    }
    let mut existing = change.sets.iter().filter(|set| !work.is_born(&set.name));
    existing.try_for_each(|set| refuse_read_only(layout, &set.name))?;
    prepare(layout, work)?;
    let tagged = work.tag.is_some();
    let turns = Turns::default();
    let mut waiting = Some(turns.begin.write());
    let mut untaken = turns.taken.write().unwrap_or_else(PoisonError::into_inner);
    both(
        || phase("machines", || each(&work.born, |born| birth::raise(layout, work, born, files, &turns))),
        move || {
            if !tagged {
                phase("snapshot", || take(layout, work, moment, &mut || drop(waiting.take())))?;
            }
            *untaken = true;
            Ok(())
        },
    )?;
    let sets: BTreeSet<&MachineName> = files.iter().map(|file| &file.set).collect();
    let others: Vec<&MachineName> = sets.into_iter().filter(|name| !work.is_born(name)).collect();
    phase("files", || each(&others, |name| write_files(layout, work, name, files)))?;
    for new in work.make.iter().filter(|new| matches!(new.content, Content::Image { .. })) {
        phase("copy image", || fill(layout, work, new))?;
    }
    if tagged {
        phase("snapshot", || take(layout, work, moment, &mut || ()))?;
    }
    for name in filled_sets(layout, work) {
        let marker = Marker::read(layout, &name, work.id)?.unwrap_or_default();
        if !marker.filled {
            Marker { filled: true, ..marker }.write(layout, &name, work.id)?;
        }
    }
    Ok(())
}

/// Removes what was staged. See [`kld_core::store::VolumeStore::revert`].
pub(super) fn revert(layout: &Layout, change: &StoreChange) -> Result<()> {
    let work = Work::of(change)?;
    if work.born.is_empty() && work.snapshot.is_empty() && change.sets.is_empty() {
        return Ok(());
    }
    pool::guard(&layout.root)?;
    for born in &work.born {
        let dataset = layout.machine(&born.name)?;
        if !layout.engine.exists(dataset.as_str())? || !birth::is_of(layout, &work, born)? {
            continue;
        }
        let volumes: Vec<DatasetName> = work.make.iter().map(|new| new.dataset.clone()).collect();
        let volumes: Vec<_> = volumes.into_iter().filter(|volume| volume.is_below(&dataset)).collect();
        for volume in &volumes {
            destroy_with_snapshots(layout, volume)?;
        }
        destroy_state(layout, &born.name)?;
    }
    let taken = ours(layout, &work.snapshot, work.id)?;
    if !taken.is_empty() {
        layout.deed()?;
        patiently(|| layout.engine.destroy_snapshots(&taken)).or_missing()?;
    }
    for set in change.sets.iter().filter(|set| !work.is_born(&set.name)) {
        remove_files(layout, &set.name, work.id)?;
    }
    Ok(())
}

/// Makes the change count. See [`kld_core::store::VolumeStore::commit`].
pub(super) fn commit(layout: &Layout, change: &StoreChange) -> Result<()> {
    let work = Work::of(change)?;
    pool::guard(&layout.root)?;
    for gone in &work.gone {
        forget(layout, gone)?;
    }
    work.back.iter().try_for_each(|back| roll_back(layout, back))?;
    work.alone.iter().try_for_each(|alone| stand_alone(layout, alone, work.id))?;
    let mut given_up = work.drop.clone();
    given_up.extend(work.temporary.iter().cloned());
    for (name, folder) in &work.folders {
        let folder = layout.state_dir(name).join(folder);
        if folder.symlink_metadata().is_ok() {
            layout.deed()?;
            std::fs::remove_dir_all(&folder).trying(|| format!("cannot remove {}", folder.display()))?;
        }
    }
    work.gone.iter().try_for_each(|gone| destroy_machine(layout, gone))?;
    give_up(layout, &given_up, work.id)?;
    // Last, since on a full pool only what was destroyed before gives a record room.
    phase("records", || with_room(|| each(&change.sets, |set| record::write(layout, set))))?;
    if !given_up.is_empty() || !work.gone.is_empty() || !work.back.is_empty() || !work.alone.is_empty() {
        collect(layout)?;
    }
    each(&change.sets, |set| {
        Marker::remove(layout, &set.name, work.id)?;
        settle_state(layout, &set.name)
    })
}

/// Waits for the space of what was destroyed, which comes free some transaction groups later.
fn with_room(write: impl FnMut() -> Result<()>) -> Result<()> {
    let pause = Duration::from_millis(500);
    Patience::of(FREEING).pausing(pause, pause).retry(is_full, write)
}

fn is_full(error: &Error) -> bool {
    [Errno::ENOSPC, Errno::EDQUOT].iter().any(|errno| error.to_string().ends_with(errno.desc()))
}
