//! How changes are carried out, so that a kill at any point loses nothing.
//!
//! All that a stage makes bears the change's id: state datasets and snapshots as `org.kld:change`, which volumes inherit,
//! and files of state in a marker beside them. So a second stage knows its own, and reverting removes exactly
//! what was made. A commit consists of deeds that may be done twice, in an order in which each finds what it needs.
//!
//! Every deed that ZFS makes durable waits for a transaction group. Those that do not need each other are done at
//! once, from threads, and share one.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use kld_core::error::Trying;
use kld_core::exec::Exec;
use kld_core::store::{Moment, StateContent, StateFile, StoreChange};
use kld_core::timing::phase;
use kld_core::{ByteSize, Error, MachineName, Result, fsio};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::layout::{HIDDEN, Layout};
use super::plan::BLOCK;
use super::work::{Alone, Back, Born, Content, Gone, NewZvol, Work};
use super::{birth, record};
use crate::engine::{Failure, Forgive, Kind, Kinds, Listing, Outcome, Property};
use crate::held::Held;
use crate::mounts;
use crate::{DatasetName, SnapshotName, device, pool};

/// How long a device that was just closed may stay busy: udev and blkid look at it.
const BUSY: Duration = Duration::from_secs(20);
/// How long a full pool may take to give back what was destroyed.
const FREEING: Duration = Duration::from_secs(30);
/// Copying an image.
const COPYING: Duration = Duration::from_secs(24 * 3600);
const FILE_MODE: u32 = 0o600;
const LARGEST_MARKER: u64 = 16 << 20;

/// What a change has put into a machine's state.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Marker {
    /// State files, by their path in the folder.
    files: BTreeSet<PathBuf>,
    /// True when the machine's new disks hold what they should. It may write to them from then on.
    filled: bool,
}

impl Marker {
    /// An empty one, in the state of a machine that comes to be. It need not be on the disk before what follows it.
    pub(super) fn begin(layout: &Layout, name: &MachineName, id: Uuid) -> Result<()> {
        let path = layout.marker(name, id);
        if path.symlink_metadata().is_ok() {
            return Ok(());
        }
        let text = serde_json::to_vec(&Marker::default())
            .map_err(|cause| Error::failed("cannot list what is staged", cause))?;
        let mut file = fsio::create_new(&path, FILE_MODE)?;
        std::io::Write::write_all(&mut file, &text).trying(|| format!("cannot write {}", path.display()))
    }

    fn read(layout: &Layout, name: &MachineName, id: Uuid) -> Result<Option<Marker>> {
        let path = layout.marker(name, id);
        let Some(text) = fsio::read_text(&path, LARGEST_MARKER)? else { return Ok(None) };
        let marker = serde_json::from_str(&text);
        marker.map(Some).map_err(|cause| Error::failed(format!("cannot use {}", path.display()), cause))
    }

    fn write(&self, layout: &Layout, name: &MachineName, id: Uuid) -> Result<()> {
        let text =
            serde_json::to_vec(self).map_err(|cause| Error::failed("cannot list what is staged", cause))?;
        layout.deed()?;
        fsio::replace(&layout.marker(name, id), &text, FILE_MODE)
    }

    fn remove(layout: &Layout, name: &MachineName, id: Uuid) -> Result<()> {
        let path = layout.marker(name, id);
        fsio::remove_if_exists(&fsio::temporary_beside(&path))?;
        if path.symlink_metadata().is_ok() {
            layout.deed()?;
            fsio::remove_if_exists(&path)?;
        }
        Ok(())
    }
}

/// Does the same with each of many, at once; the first failure counts.
pub(super) fn each<T: Sync>(many: &[T], deed: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    /// Far more share a transaction group than a host has processors.
    const AT_ONCE: usize = 64;
    if let [one] = many {
        return deed(one);
    }
    many.chunks(AT_ONCE).try_for_each(|some| {
        std::thread::scope(|scope| {
            let threads: Vec<_> = some.iter().map(|one| scope.spawn(|| deed(one))).collect();
            let ended = threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            ended.collect::<Vec<_>>().into_iter().collect()
        })
    })
}

/// Does two things at once. The failure of the second counts before that of the first, which may wait for it.
pub(super) fn both(
    one: impl FnOnce() -> Result<()> + Send,
    other: impl FnOnce() -> Result<()>,
) -> Result<()> {
    std::thread::scope(|scope| {
        let one = scope.spawn(one);
        let other = other();
        other.and(one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// The marks of what a change makes.
pub(super) fn marks(machine: Uuid, change: Uuid) -> [Property; 2] {
    [
        Property::User("org.kld:machine", machine.to_string()),
        Property::User("org.kld:change", change.to_string()),
    ]
}

/// How every volume appears on the host. They inherit it: each property that is set on a volume costs a transaction
/// group of its own.
const OF_ROOT: [Property; 2] = [Property::VolmodeDev, Property::SnapdevHidden];

/// What volumes cannot inherit, as the root is a pool's, where others' volumes would too.
fn uninherited(layout: &Layout) -> &'static [Property] {
    if layout.root.parent().is_some() { &[] } else { &OF_ROOT }
}

/// The change that made a dataset or snapshot, where kld did and it is there.
pub(super) fn maker(layout: &Layout, name: &str, kinds: Kinds) -> Result<Option<Uuid>> {
    let of = [name];
    let rows =
        layout.engine.list(&Listing { of: &of, kinds, depth: Some(0), columns: &["org.kld:change"] })?;
    Ok(rows.first().and_then(|row| row.text(0)).and_then(|id| id.parse().ok()))
}

/// Those of some snapshots that this change has taken.
fn ours(layout: &Layout, names: &[SnapshotName], id: Uuid) -> Result<Vec<SnapshotName>> {
    let of: Vec<&str> = names.iter().map(SnapshotName::as_str).collect();
    let listing = Listing { of: &of, kinds: Kinds::Snapshots, depth: Some(0), columns: &["org.kld:change"] };
    let rows = layout.engine.list(&listing)?.into_iter();
    let made = rows.filter(|row| row.text(0).and_then(|made| made.parse().ok()) == Some(id));
    made.map(|row| SnapshotName::parse(&row.name)).collect()
}

/// Lets a thing be there already that this change made before; a stranger's is an error.
pub(super) fn or_ours(layout: &Layout, done: Outcome, name: &str, kinds: Kinds, id: Uuid) -> Result<()> {
    match done {
        Err(Failure { kind: Kind::Exists, error }) => match maker(layout, name, kinds)? {
            Some(found) if found == id => Ok(()),
            _ => Err(error.with_hint("kld did not make it for this machine; destroy or rename it yourself")),
        },
        other => Ok(other?),
    }
}

/// What those who make machines wait for. Each is held for writing until then.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// The snapshots are about to be taken: what begins now shares their transaction group.
    pub begin: RwLock<()>,
    /// True when they are there, false when they will not be.
    taken: RwLock<bool>,
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

/// Before anything is begun that could not be written down.
fn refuse_read_only(layout: &Layout, name: &MachineName) -> Result<()> {
    let place = layout.state_dir(name);
    match nix::sys::statvfs::statvfs(&place) {
        Ok(state) if state.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY) => {
            let cause = "the pool is imported read-only, or the property readonly is on";
            Err(Error::failed(format!("cannot change {}", layout.machine(name)?), cause)
                .with_hint("import it without readonly=on"))
        }
        _ => Ok(()),
    }
}

/// The machines among the born ones whose disks are filled from images.
fn filled_sets(layout: &Layout, work: &Work) -> Vec<MachineName> {
    let from_images = work.make.iter().filter(|new| matches!(new.content, Content::Image { .. }));
    let parents: BTreeSet<_> = from_images.filter_map(|new| new.dataset.parent()).collect();
    let of_image = |born: &&Born| layout.machine(&born.name).is_ok_and(|state| parents.contains(&state));
    work.born.iter().filter(of_image).map(|born| born.name.clone()).collect()
}

/// Makes the store's root where it is missing, and has volumes inherit from it what they need. Once a machine of the
/// store is cloned, that has been done.
fn prepare(layout: &Layout, work: &Work) -> Result<()> {
    let (engine, root) = (&layout.engine, &layout.root);
    if !engine.exists(root.as_str())? {
        let [mode, snapshots] = OF_ROOT;
        layout.deed()?;
        return engine
            .create_filesystem(root, &[Property::Mountpoint("none".to_string()), mode, snapshots])
            .or_exists();
    }
    let of_the_store = |new: &NewZvol| match &new.content {
        Content::Clone { of } | Content::Copy { of } => is_of_the_store(layout, &of.dataset()),
        Content::Empty { .. } | Content::Image { .. } => false,
    };
    if work.born.is_empty() || root.parent().is_none() || work.make.iter().any(of_the_store) {
        return Ok(());
    }
    let of = [root.as_str()];
    let columns = &["volmode", "snapdev"];
    let rows = engine.list(&Listing { of: &of, kinds: Kinds::Filesystems, depth: Some(0), columns })?;
    let is_so = |row: &crate::parse::Row| row.text(0) == Some("dev") && row.text(1) == Some("hidden");
    if rows.iter().all(is_so) {
        return Ok(());
    }
    refuse_root_of_others(layout)?;
    layout.deed()?;
    Ok(engine.set(root, &OF_ROOT)?)
}

/// Whether a volume is a machine's of the store, and not one of others that may lie below the root too.
fn is_of_the_store(layout: &Layout, volume: &DatasetName) -> bool {
    let Some(state) = volume.parent().filter(|state| state.parent().as_ref() == Some(&layout.root)) else {
        return false;
    };
    let machine = MachineName::parse(state.leaf());
    machine.is_ok_and(|name| layout.record(&name).symlink_metadata().is_ok())
}

/// What is set on the root, others' volumes below it would inherit too, and their devices would be made anew.
fn refuse_root_of_others(layout: &Layout) -> Result<()> {
    let root = &layout.root;
    let of = [root.as_str()];
    let columns = &["org.kld:machine"];
    let rows = layout.engine.list(&Listing { of: &of, kinds: Kinds::Volumes, depth: None, columns })?;
    match rows.iter().find(|row| row.text(0).is_none()) {
        None => Ok(()),
        Some(row) => Err(Error::refused(format!(
            "{root} holds volumes that kld did not make, such as {}, and whose devices would change",
            row.name
        ))
        .with_hint(format!("set zfs-root to a dataset of kld's own, such as {root}/kld"))),
    }
}

/// Makes a dataset of the store's own that is a mere place for others, where it is missing.
fn ensure(layout: &Layout, place: &DatasetName) -> Result<()> {
    if layout.engine.exists(place.as_str())? {
        return Ok(());
    }
    layout.deed()?;
    layout.engine.create_filesystem(place, &[Property::Mountpoint("none".to_string())]).or_exists()
}

/// Takes the snapshots, and says so just before: a hypervisor may be asked first whether the machine runs.
fn take(layout: &Layout, work: &Work, moment: Moment, now: &mut dyn FnMut()) -> Result<()> {
    let Some(first) = work.snapshot.first() else { return Ok(()) };
    layout.deed()?;
    let mut properties = vec![Property::User("org.kld:change", work.id.to_string())];
    properties.extend(work.tag.as_ref().map(|tag| Property::User("org.kld:tag", tag.to_string())));
    moment(&mut || {
        now();
        let done = layout.engine.snapshot(&work.snapshot, &properties);
        or_ours(layout, done, first.as_str(), Kinds::Snapshots, work.id)
    })
}

/// Makes a volume; its marks it inherits from its machine's state.
pub(super) fn make_volume(layout: &Layout, work: &Work, new: &NewZvol) -> Result<()> {
    let properties = uninherited(layout);
    let engine = &layout.engine;
    layout.deed()?;
    let done = match &new.content {
        Content::Empty { size } | Content::Image { size, .. } => {
            engine.create_volume(&new.dataset, *size, BLOCK, properties)
        }
        Content::Clone { of } => engine.clone_of(of, &new.dataset, properties),
        // A stream is not begun only to find that its place is taken.
        Content::Copy { .. } if engine.exists(new.dataset.as_str())? => exists(&new.dataset),
        Content::Copy { of } => engine.copy(of, None, &new.dataset, properties),
    };
    or_ours(layout, done, new.dataset.as_str(), Kinds::Volumes, work.id)?;
    if let Content::Copy { of } = &new.content {
        let came_along = new.dataset.snapshot(of.name())?;
        patiently(|| engine.destroy_snapshots(std::slice::from_ref(&came_along))).or_missing()?;
    }
    Ok(())
}

fn exists(dataset: &DatasetName) -> Outcome {
    let error = Error::failed(format!("cannot create {dataset}"), "it is there already");
    Err(Failure { kind: Kind::Exists, error })
}

fn fill(layout: &Layout, work: &Work, new: &NewZvol) -> Result<()> {
    let Content::Image { path, format, size } = &new.content else { return Ok(()) };
    let born = work.born.iter().find(|born| born.machine == new.machine);
    if let Some(born) = born
        && Marker::read(layout, &born.name, work.id)?.is_some_and(|marker| marker.filled)
    {
        return Ok(());
    }
    let device = Held::open(&new.dataset)?;
    layout.deed()?;
    // The volume reads as zeros wherever nothing was written. One that a killed run had begun to fill has been
    // given the same bytes.
    let exec = Exec::new("qemu-img")
        .args(["convert", "-n", "--target-is-zero", "-t", "none", "-f", format.driver(), "-O", "raw", "--"])
        .arg(path)
        .arg(device.node())
        .limit(COPYING);
    exec.run().map(drop).map_err(|error| {
        let size = ByteSize::new(*size);
        Error::failed(format!("cannot copy {} to {} ({size})", path.display(), new.dataset), error)
    })
}

/// Writes the state files of one machine; they are on the disk when this returns.
pub(super) fn write_files(
    layout: &Layout,
    work: &Work,
    name: &MachineName,
    files: &[StateFile],
) -> Result<()> {
    let files = || files.iter().filter(|file| file.set == *name);
    let before = Marker::read(layout, name, work.id)?;
    let listed = before.as_ref().map(|marker| marker.files.clone()).unwrap_or_default();
    // All that is in a born machine's state was made by this change.
    let born = work.is_born(name);
    for file in files().filter(|file| !born && !listed.contains(&file.path)) {
        let path = layout.state_file(name, &file.path)?;
        if path.symlink_metadata().is_ok() {
            return Err(Error::failed(format!("cannot create {}", path.display()), "it exists already")
                .with_hint("kld did not make it for this machine; move it away"));
        }
    }
    if !born {
        let mut marker = before.unwrap_or_default();
        marker.files.extend(files().map(|file| file.path.clone()));
        marker.write(layout, name, work.id)?;
    }
    for file in files() {
        let path = layout.state_file(name, &file.path)?;
        if let Some(folder) = path.parent() {
            fsio::create_dir_all(folder, 0o711)?;
        }
        fsio::remove_if_exists(&path)?;
        layout.deed()?;
        write_file(&path, &file.content)?;
    }
    let place = layout.state_dir(name);
    let folder = File::open(&place).trying(|| format!("cannot open {}", place.display()))?;
    nix::unistd::syncfs(folder).trying(|| format!("cannot write {} to the disk", place.display()))
}

fn write_file(path: &Path, content: &StateContent) -> Result<()> {
    let mut file = fsio::create_new(path, FILE_MODE)?;
    match content {
        StateContent::Bytes(bytes) => {
            std::io::Write::write_all(&mut file, bytes).trying(|| format!("cannot write {}", path.display()))
        }
        StateContent::CopyOf(source) => {
            let what = || format!("cannot copy {} to {}", source.display(), path.display());
            // Before it is opened: opening a pipe waits, and opening a device may do something.
            if !source.metadata().trying(what)?.is_file() {
                return Err(Error::failed(what(), "it is not a regular file"));
            }
            let copied = File::open(source).and_then(|mut source| std::io::copy(&mut source, &mut file));
            copied.map(drop).trying(what)
        }
    }
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

/// Removes what a change has put into the state of a machine that was there before.
fn remove_files(layout: &Layout, name: &MachineName, id: Uuid) -> Result<()> {
    let place = layout.state_dir(name);
    for path in Marker::read(layout, name, id)?.unwrap_or_default().files {
        let path = layout.state_file(name, &path)?;
        if path.symlink_metadata().is_ok() {
            layout.deed()?;
            fsio::remove_if_exists(&path)?;
        }
        for folder in path.ancestors().skip(1).take_while(|above| *above != place) {
            fsio::remove_dir_if_empty(folder)?;
        }
    }
    Marker::remove(layout, name, id)?;
    settle_state(layout, name)
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
fn with_room(mut write: impl FnMut() -> Result<()>) -> Result<()> {
    let deadline = Instant::now() + FREEING;
    loop {
        match write() {
            Err(error) if is_full(&error) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(500));
            }
            written => return written,
        }
    }
}

fn is_full(error: &Error) -> bool {
    [Errno::ENOSPC, Errno::EDQUOT].iter().any(|errno| error.to_string().ends_with(errno.desc()))
}

/// What was written to a machine's state survives a power cut when this returns: records and their like are renamed
/// into their place, and ZFS takes seconds to write that of its own accord.
fn settle_state(layout: &Layout, name: &MachineName) -> Result<()> {
    let place = layout.state_dir(name);
    if place.is_dir() { phase("settle", || fsio::sync_dir(&place)) } else { Ok(()) }
}

/// A machine that goes is not in the store any more, whatever is left of it.
fn forget(layout: &Layout, gone: &Gone) -> Result<()> {
    // Looks whether it is there and ours, and mounts it.
    if record::read(layout, &gone.name)?.is_some_and(|set| set.machine == gone.machine) {
        layout.deed()?;
        fsio::remove_if_exists(&layout.record(&gone.name))?;
    }
    Ok(())
}

/// Whose a machine's state dataset is.
fn owner(layout: &Layout, dataset: &DatasetName) -> Result<Option<Uuid>> {
    let of = [dataset.as_str()];
    let listing =
        Listing { of: &of, kinds: Kinds::Filesystems, depth: Some(0), columns: &["org.kld:machine"] };
    let rows = layout.engine.list(&listing)?;
    Ok(rows.first().and_then(|row| row.text(0)).and_then(|id| id.parse().ok()))
}

fn destroy_machine(layout: &Layout, gone: &Gone) -> Result<()> {
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
fn snapshots(layout: &Layout, dataset: &DatasetName) -> Result<Vec<(SnapshotName, bool)>> {
    let of = [dataset.as_str()];
    let listing = Listing { of: &of, kinds: Kinds::Snapshots, depth: Some(1), columns: &["clones"] };
    let rows = layout.engine.list(&listing)?;
    let own =
        rows.iter().filter_map(|row| Some((SnapshotName::parse(&row.name).ok()?, row.text(0).is_some())));
    Ok(own.filter(|(name, _)| name.dataset() == *dataset).collect())
}

/// Waits until a device that was just closed can go.
fn patiently(mut deed: impl FnMut() -> Outcome) -> Outcome {
    let deadline = Instant::now() + BUSY;
    let mut pause = Duration::from_millis(5);
    loop {
        match deed() {
            Err(Failure { kind: Kind::Busy, .. }) if Instant::now() < deadline => std::thread::sleep(pause),
            other => return other,
        }
        pause = (pause * 2).min(Duration::from_millis(250));
    }
}

fn destroy_with_snapshots(layout: &Layout, dataset: &DatasetName) -> Result<()> {
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

fn destroy_state(layout: &Layout, name: &MachineName) -> Result<()> {
    let dataset = layout.machine(name)?;
    layout.deed()?;
    mounts::unmount(&dataset, &layout.state_dir(name))?;
    destroy_with_snapshots(layout, &dataset)
}

/// Moves a volume that clones stand on out of its machine.
fn set_aside(layout: &Layout, dataset: &DatasetName, place: &DatasetName) -> Result<()> {
    ensure(layout, &layout.bases()?)?;
    layout.deed()?;
    patiently(|| layout.engine.rename(dataset, place)).or_missing()
}

/// Frees all of a volume that was set aside which no clone needs. What clones do need goes with the last of them.
fn settle(layout: &Layout, place: &DatasetName) -> Result<()> {
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
fn collect(layout: &Layout) -> Result<()> {
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
fn give_up(layout: &Layout, names: &[SnapshotName], id: Uuid) -> Result<()> {
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

/// Makes a volume what it was at a snapshot. Where clones stand on newer ones, the volume is set aside with them,
/// a clone of the snapshot takes its place, and is then promoted: the older snapshots become its own.
fn roll_back(layout: &Layout, back: &Back) -> Result<()> {
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
fn stand_alone(layout: &Layout, alone: &Alone, id: Uuid) -> Result<()> {
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
