//! How a machine comes to be: its state, its volumes and its files, all at once.
//!
//! What changes datasets waits for a transaction group, which is most of the time that a clone takes. ZFS makes the
//! dataset of the state in one group and marks it in the next; what is made below it and in it does not wait for its
//! marks, but begins as soon as it can be seen. So the first group has the snapshots and the states of all new
//! machines, the second their volumes, marks and files.

use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use kld_core::error::Trying;
use kld_core::store::StateFile;
use kld_core::timing::phase;
use kld_core::{Error, Result};

use super::at_once::{both, each};
use super::files::write_files;
use super::layout::Layout;
use super::marker::Marker;
use super::marks::{maker, marks, or_ours};
use super::volumes::make_volume;
use super::work::{Born, NewZvol, Work};
use crate::engine::{Kinds, Listing, Property};
use crate::mounts;

/// The pauses between looks whether a dataset is there: each look holds up the pool a little.
const PAUSES: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(50)];

/// What those who make machines wait for. Each is held for writing until then.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// The snapshots are about to be taken: what begins now shares their transaction group.
    pub begin: RwLock<()>,
    /// True when they are there, false when they will not be.
    pub taken: RwLock<bool>,
}

impl Turns {
    /// Waits for the snapshots; an error where they will not be there.
    pub(super) fn snapshots(&self) -> Result<()> {
        match *self.taken.read().unwrap_or_else(PoisonError::into_inner) {
            true => Ok(()),
            false => Err(Error::message("the snapshots to be cloned were not taken")),
        }
    }
}

/// Makes a machine, with its volumes as soon as the snapshots are there that they stand on.
pub(super) fn raise(
    layout: &Layout,
    work: &Work,
    born: &Born,
    files: &[StateFile],
    turns: &Turns,
) -> Result<()> {
    let dataset = layout.machine(&born.name)?;
    let there = || layout.engine.exists(dataset.as_str());
    let fill = || both(|| volumes(layout, work, born), || state(layout, work, born, files));
    if there()? {
        // An earlier run has made it; or it is a stranger's, which is an error.
        make(layout, work, born)?;
        return turns.snapshots().and_then(|()| fill());
    }
    drop(turns.begin.read());
    std::thread::scope(|scope| {
        let making = scope.spawn(|| phase("state: create", || make(layout, work, born)));
        let made = |making: std::thread::ScopedJoinHandle<'_, Result<()>>| {
            making.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        // As a rule this comes with the same transaction group as the dataset.
        if let Err(error) = turns.snapshots() {
            return made(making).and(Err(error));
        }
        let [mut pause, longest] = PAUSES;
        loop {
            let ended = making.is_finished();
            match there()? {
                true if ended => return made(making).and_then(|()| fill()),
                true => break,
                false if ended => return made(making),
                false => std::thread::sleep(pause),
            }
            pause = (2 * pause).min(longest);
        }
        let filled = fill();
        made(making).and(filled)
    })
}

fn make(layout: &Layout, work: &Work, born: &Born) -> Result<()> {
    let (dataset, place) = (layout.machine(&born.name)?, layout.state_dir(&born.name));
    let mut properties = marks(born.machine, work.id).to_vec();
    properties.push(Property::Mountpoint(place.display().to_string()));
    layout.deed()?;
    let done = layout.engine.create_filesystem(&dataset, &properties);
    or_ours(layout, done, dataset.as_str(), Kinds::Filesystems, work.id)
}

fn volumes(layout: &Layout, work: &Work, born: &Born) -> Result<()> {
    let own: Vec<&NewZvol> = work.make.iter().filter(|new| new.machine == born.machine).collect();
    phase("volumes", || each(&own, |new| make_volume(layout, work, new)))
}

fn state(layout: &Layout, work: &Work, born: &Born, files: &[StateFile]) -> Result<()> {
    layout.deed()?;
    phase("state: mount", || mounts::mount(&layout.machine(&born.name)?, &layout.state_dir(&born.name)))?;
    layout.deed()?;
    Marker::begin(layout, &born.name, work.id)?;
    match files.iter().any(|file| file.set == born.name) {
        true => phase("files", || write_files(layout, work, &born.name, files)),
        false => Ok(()),
    }
}

/// Whether the dataset of a born machine's state was made by this change. A power cut may come between its making and
/// its marking. Then it holds nothing yet, or our marker; and below it there is nothing but our volumes.
pub(super) fn is_of(layout: &Layout, work: &Work, born: &Born) -> Result<bool> {
    let (dataset, place) = (layout.machine(&born.name)?, layout.state_dir(&born.name));
    let of = [dataset.as_str()];
    if let Some(change) = maker(layout, dataset.as_str(), Kinds::Filesystems)? {
        return Ok(change == work.id);
    }
    let listing = Listing { of: &of, kinds: Kinds::Datasets, depth: None, columns: &["type"] };
    let below = layout.engine.list(&listing)?;
    let ours =
        |name: &str| name == dataset.as_str() || work.make.iter().any(|new| new.dataset.as_str() == name);
    if !below.iter().all(|row| ours(&row.name)) {
        return Ok(false);
    }
    mounts::mount(&dataset, &place)?;
    let what = || format!("cannot look into {}", place.display());
    let entries =
        std::fs::read_dir(&place).trying(what)?.collect::<std::io::Result<Vec<_>>>().trying(what)?;
    let marker = layout.marker(&born.name, work.id);
    let ours = entries.is_empty() || entries.iter().any(|entry| entry.path() == marker);
    if !ours {
        mounts::unmount(&dataset, &place)?;
    }
    Ok(ours)
}
