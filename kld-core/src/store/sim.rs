//! A volume store in memory, to test what stands on one.

mod files;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::conformance::Bench;
use super::{
    CloneKind, Consistency, NewClone, NewVolume, Origin, Repoint, Set, Snapshot, Space, StateContent,
    StateFile, StoreCapabilities, StoreChange, Volume, VolumeFormat, VolumeStore,
};
use crate::error::Trying;
use crate::{ByteSize, Error, MachineName, Plan, Probe, Result, SnapshotTag, fsio, time};
use files::Files;

/// A [`VolumeStore`] whose volumes are in memory. State files are real, in a folder, since others read them there.
///
/// It keeps shared bases, as qcow2 files do, so that sources move; [`SimStore::in_place`] freezes them where they
/// stand, as ZFS does.
#[derive(Debug)]
pub struct SimStore {
    folder: PathBuf,
    shared_bases: bool,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    files: Files,
    sets: BTreeMap<MachineName, Set>,
    /// What to undo in the state folders, by the change that did it, in the order of doing.
    state: BTreeMap<u64, Vec<StateUndo>>,
    /// Makes names that were never used before.
    counter: u64,
    /// Steps until a simulated kill.
    fuse: Option<usize>,
}

#[derive(Debug)]
enum StateUndo {
    RemoveFolder(PathBuf),
    Restore(PathBuf, Option<Vec<u8>>),
}

/// A deed that may be done twice.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Act {
    Create { path: PathBuf, size: u64, base: Option<PathBuf> },
    Copy { path: PathBuf, size: u64, from: PathBuf },
    Freeze { path: PathBuf, layer: PathBuf },
    Remove { path: PathBuf },
    Thaw { layer: PathBuf },
    Flatten { path: PathBuf },
    Reset { path: PathBuf, to: PathBuf },
    Record { set: Box<Set> },
    Forget { name: MachineName },
    Release { candidates: Vec<PathBuf> },
    RemoveState { folder: PathBuf },
}

impl Act {
    fn undo(&self) -> Option<Act> {
        match self {
            Act::Create { path, .. } | Act::Copy { path, .. } => Some(Act::Remove { path: path.clone() }),
            Act::Freeze { layer, .. } => Some(Act::Thaw { layer: layer.clone() }),
            _ => None,
        }
    }
}

/// What the store notes in a [`StoreChange`].
#[derive(Debug, Default, Serialize, Deserialize)]
struct Notes {
    id: u64,
    stage: Vec<Act>,
    commit: Vec<Act>,
}

impl SimStore {
    /// An empty store with shared bases, whose state files are under `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        SimStore { folder: folder.into(), shared_bases: true, inside: Mutex::default() }
    }

    /// An empty store that freezes volumes where they stand: nothing is ever moved, and a source with clones is
    /// not deleted.
    pub fn in_place(folder: impl Into<PathBuf>) -> Self {
        SimStore { shared_bases: false, ..Self::new(folder) }
    }

    /// Puts a file there that the store did not make: an image, or the disk of a machine made by hand.
    pub fn add_file(&self, path: impl Into<PathBuf>, size: ByteSize, bytes: &[u8]) {
        self.inside().files.add_foreign(path.into(), size.bytes(), bytes);
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        // A test that panicked while it held the lock says so itself.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_dir(&self, name: &MachineName) -> PathBuf {
        self.folder.join(name)
    }

    /// A path in a set's folder that was never used before.
    fn fresh(&self, set: &MachineName, volume: &str) -> PathBuf {
        let mut inside = self.inside();
        inside.counter += 1;
        self.folder.join(set).join(format!("{volume}.{}", inside.counter))
    }

    fn format(&self) -> VolumeFormat {
        if self.shared_bases { VolumeFormat::Qcow2 } else { VolumeFormat::Block }
    }

    fn refuse_taken(&self, name: &MachineName) -> Result<()> {
        if self.inside().sets.contains_key(name) {
            return Err(Error::failed(
                format!("cannot make the volumes of '{name}'"),
                "the store has a set of this name",
            ));
        }
        Ok(())
    }

    /// The names of all files that the set uses, those beneath others too.
    fn used_by(&self, set: &Set) -> Vec<PathBuf> {
        let inside = self.inside();
        let volumes = set.volumes.iter().chain(set.snapshots.iter().flat_map(|snapshot| &snapshot.volumes));
        let files: BTreeSet<PathBuf> = volumes.flat_map(|volume| inside.files.chain(&volume.path)).collect();
        files.into_iter().collect()
    }

    fn run(&self, acts: impl IntoIterator<Item = Act>) -> Result<()> {
        let mut inside = self.inside();
        acts.into_iter().try_for_each(|act| {
            inside.burn()?;
            inside.act(act)
        })
    }

    fn notes(&self, change: &StoreChange) -> Result<Notes> {
        let what = "cannot carry out the change of the store";
        if change.store != self.name() {
            return Err(Error::failed(what, format!("it was planned by the store '{}'", change.store)));
        }
        serde_json::from_value(change.inner.clone()).map_err(|cause| Error::failed(what, cause))
    }

    fn write_state(&self, id: u64, change: &StoreChange, file: &StateFile) -> Result<()> {
        let what = || format!("cannot make the state file '{}' of '{}'", file.path.display(), file.set);
        let inside_folder = file.path.components().all(|part| matches!(part, Component::Normal(_)));
        if !inside_folder || file.path.as_os_str().is_empty() {
            return Err(Error::failed(what(), "it is not a path within the state folder"));
        }
        let set = change.sets.iter().find(|set| set.name == file.set);
        let set = set.ok_or_else(|| Error::failed(what(), "the change has no set of this name"))?;
        let content = match &file.content {
            StateContent::Bytes(bytes) => bytes.clone(),
            StateContent::CopyOf(path) => std::fs::read(path).trying(what)?,
        };
        let path = set.state_dir.join(&file.path);
        if let Some(folder) = path.parent() {
            self.make_folder(id, folder)?;
        }
        let mut inside = self.inside();
        inside.burn()?;
        let undo = inside.state.entry(id).or_default();
        if !undo.iter().any(|known| matches!(known, StateUndo::Restore(known, _) if *known == path)) {
            undo.push(StateUndo::Restore(path.clone(), std::fs::read(&path).ok()));
        }
        fsio::replace(&path, &content, 0o600)
    }

    /// Makes a folder and those above it, remembering which were not there.
    fn make_folder(&self, id: u64, folder: &Path) -> Result<()> {
        let ours = folder.ancestors().take_while(|above| *above != self.folder);
        let missing: Vec<&Path> = ours.filter(|above| !above.exists()).collect();
        let undo = missing.into_iter().rev().map(|path| StateUndo::RemoveFolder(path.to_path_buf()));
        self.inside().state.entry(id).or_default().extend(undo);
        fsio::create_dir_all(folder, 0o700)
    }
}

impl Inside {
    fn burn(&mut self) -> Result<()> {
        match &mut self.fuse {
            Some(0) => {
                self.fuse = None;
                Err(Error::message("the simulated store was interrupted"))
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn act(&mut self, act: Act) -> Result<()> {
        match act {
            Act::Create { path, size, base } => self.files.create(&path, size, base.as_deref())?,
            Act::Copy { path, size, from } => self.files.copy(&path, &from, size)?,
            Act::Freeze { path, layer } => self.files.freeze(&path, &layer)?,
            Act::Remove { path } => self.files.remove(&path),
            Act::Thaw { layer } => self.files.merge_up(&layer),
            Act::Flatten { path } => self.files.flatten(&path)?,
            Act::Reset { path, to } => self.files.reset(&path, &to)?,
            Act::Record { set } => drop(self.sets.insert(set.name.clone(), *set)),
            Act::Forget { name } => drop(self.sets.remove(&name)),
            Act::Release { candidates } => {
                let volumes = self.sets.values().flat_map(|set| {
                    set.volumes.iter().chain(set.snapshots.iter().flat_map(|snapshot| &snapshot.volumes))
                });
                let kept = volumes.map(|volume| volume.path.clone()).collect();
                self.files.release(&candidates, &kept);
            }
            Act::RemoveState { folder } => match std::fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).trying(|| format!("cannot remove {}", folder.display()));
                }
                _ => {}
            },
        }
        Ok(())
    }
}

/// A [`StoreChange`] in the making.
struct Draft<'a> {
    store: &'a SimStore,
    plan: Plan,
    notes: Notes,
    sets: Vec<Set>,
    repoints: Vec<Repoint>,
}

impl<'a> Draft<'a> {
    fn new(store: &'a SimStore) -> Self {
        let mut inside = store.inside();
        inside.counter += 1;
        let notes = Notes { id: inside.counter, ..Notes::default() };
        Draft { store, plan: Plan::default(), notes, sets: Vec::new(), repoints: Vec::new() }
    }

    /// A volume as it is at this moment, read-only, and the volume that the machine goes on with.
    fn freeze(&mut self, set: &Set, volume: &Volume) -> (Volume, Volume) {
        if self.store.shared_bases {
            return (volume.clone(), self.overlay(&set.name, volume, true));
        }
        let layer = self.store.fresh(&set.name, &volume.name);
        self.plan.step("freeze", volume.path.display(), "");
        self.notes.stage.push(Act::Freeze { path: volume.path.clone(), layer: layer.clone() });
        (Volume { path: layer, adopted: false, ..volume.clone() }, volume.clone())
    }

    /// A new volume of `set` that stands on `base`.
    fn overlay(&mut self, set: &MachineName, base: &Volume, repoint: bool) -> Volume {
        let path = self.store.fresh(set, &base.name);
        self.plan.step("create", path.display(), format!("on {}", base.path.display()));
        let (size, on) = (base.size.bytes(), Some(base.path.clone()));
        self.notes.stage.push(Act::Create { path: path.clone(), size, base: on });
        let volume = Volume { path, format: self.store.format(), adopted: false, ..base.clone() };
        if repoint {
            self.repoints.push(Repoint { set: set.clone(), volume: volume.clone() });
        }
        volume
    }

    /// A new volume of `set` with a copy of what `from` holds.
    fn copy(&mut self, set: &MachineName, from: &Volume) -> Volume {
        let path = self.store.fresh(set, &from.name);
        self.plan.step("copy", path.display(), format!("from {}", from.path.display()));
        let size = from.size.bytes();
        self.notes.stage.push(Act::Copy { path: path.clone(), size, from: from.path.clone() });
        Volume { path, format: self.store.format(), adopted: false, ..from.clone() }
    }

    /// The set as it will be.
    fn record(&mut self, set: Set) {
        self.notes.commit.push(Act::Record { set: Box::new(set.clone()) });
        self.sets.push(set);
    }

    /// Frees what `before` used and nobody uses any more.
    fn release(&mut self, before: &Set) {
        self.notes.commit.push(Act::Release { candidates: self.store.used_by(before) });
    }

    fn remove_state(&mut self, folder: PathBuf) {
        self.plan.step("remove", folder.display(), "");
        self.notes.commit.push(Act::RemoveState { folder });
    }

    fn finish(self) -> Result<StoreChange> {
        let inner = serde_json::to_value(&self.notes)
            .map_err(|cause| Error::failed("cannot write down the plan", cause))?;
        Ok(StoreChange {
            store: self.store.name().to_string(),
            steps: self.plan.steps,
            sets: self.sets,
            repoints: self.repoints,
            frees: Vec::new(),
            inner,
        })
    }
}

fn snapshot_of<'a>(set: &'a Set, tag: &SnapshotTag) -> Result<&'a Snapshot> {
    set.snapshot(tag).ok_or_else(|| Error::message(format!("'{}' has no snapshot '{tag}'", set.name)))
}

fn snapshot_folder(set: &Set, tag: &SnapshotTag) -> PathBuf {
    set.state_dir.join("snapshots").join(tag)
}

impl VolumeStore for SimStore {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities {
            atomic_sets: true,
            atomicity: "everything is atomic, in memory".to_string(),
            shared_bases: self.shared_bases,
        }
    }

    fn probe(&self) -> Probe {
        Probe::serves("store sim", "volumes live in this process's memory")
    }

    fn sets(&self) -> Result<Vec<Set>> {
        Ok(self.inside().sets.values().cloned().collect())
    }

    fn set(&self, name: &MachineName) -> Result<Option<Set>> {
        Ok(self.inside().sets.get(name).cloned())
    }

    fn adopt(&self, name: &MachineName, machine: Uuid, volumes: Vec<Volume>) -> Result<Set> {
        self.refuse_taken(name)?;
        let mut adopted = Vec::new();
        for volume in volumes {
            let size = ByteSize::new(self.inside().files.get(&volume.path)?.size);
            adopted.push(Volume { adopted: true, size, ..volume });
        }
        Ok(Set {
            name: name.clone(),
            machine,
            store: self.name().to_string(),
            state_dir: self.state_dir(name),
            volumes: adopted,
            snapshots: Vec::new(),
            origin: None,
            created: time::now(),
        })
    }

    fn clones(&self, set: &Set) -> Result<Vec<MachineName>> {
        let stands_on_it =
            |other: &&Set| other.origin.as_ref().is_some_and(|origin| origin.machine == set.machine);
        Ok(self.inside().sets.values().filter(stands_on_it).map(|other| other.name.clone()).collect())
    }

    fn space(&self, set: &Set) -> Result<Space> {
        let own = self.used_by(set);
        let others = self.sets()?;
        let others = others.iter().filter(|other| other.machine != set.machine);
        let elsewhere: BTreeSet<PathBuf> = others.flat_map(|other| self.used_by(other)).collect();
        let bare = Set { volumes: Vec::new(), ..set.clone() };
        let in_snapshots = self.used_by(&bare);
        let inside = self.inside();
        let mut space = Space { used: folder_size(&set.state_dir), ..Space::default() };
        for path in own {
            let taken = ByteSize::new(inside.files.taken(&path));
            let account = if elsewhere.contains(&path) {
                &mut space.shared
            } else if in_snapshots.contains(&path) {
                &mut space.snapshots
            } else {
                &mut space.used
            };
            *account = *account + taken;
        }
        Ok(space)
    }

    fn plan_create(&self, name: &MachineName, machine: Uuid, volumes: &[NewVolume]) -> Result<StoreChange> {
        self.refuse_taken(name)?;
        let mut draft = Draft::new(self);
        let mut set = self.adopt(name, machine, Vec::new())?;
        for new in volumes {
            let what = || format!("cannot make the volume '{}' of '{name}'", new.name);
            if set.volumes.iter().any(|volume| volume.name == new.name) {
                return Err(Error::failed(what(), "there are two of this name"));
            }
            let image = match &new.image {
                Some((path, _)) => Some((path.clone(), self.inside().files.get(path)?.size)),
                None => None,
            };
            let size = new.size.map(ByteSize::bytes).or(image.as_ref().map(|(_, size)| *size));
            let size = size.ok_or_else(|| Error::usage(format!("{}: it has no size", what())))?;
            let path = self.fresh(name, &new.name);
            draft.plan.step("create", path.display(), ByteSize::new(size));
            draft.notes.stage.push(match image {
                Some((_, least)) if size < least => {
                    let cause = format!("the image has {}", ByteSize::new(least));
                    return Err(Error::usage(format!("{}: {cause}", what())));
                }
                Some((from, _)) => Act::Copy { path: path.clone(), size, from },
                None => Act::Create { path: path.clone(), size, base: None },
            });
            let (name, format, size) = (new.name.clone(), self.format(), ByteSize::new(size));
            set.volumes.push(Volume { name, path, format, size, adopted: false });
        }
        draft.record(set);
        draft.finish()
    }

    fn plan_clone(
        &self,
        source: &Set,
        from: Option<&SnapshotTag>,
        clones: &[NewClone],
        kind: CloneKind,
    ) -> Result<StoreChange> {
        let mut names = BTreeSet::from([&source.name]);
        for clone in clones {
            self.refuse_taken(&clone.name)?;
            if !names.insert(&clone.name) {
                return Err(Error::usage(format!("'{}' is named twice", clone.name)));
            }
        }
        let mut draft = Draft::new(self);
        let mut after = source.clone();
        let bases: Vec<Volume> = match (from, kind) {
            (Some(tag), _) => snapshot_of(source, tag)?.volumes.clone(),
            (None, CloneKind::Full) => source.volumes.clone(),
            (None, CloneKind::Linked) => {
                let frozen = source.volumes.iter().map(|volume| draft.freeze(source, volume));
                let (bases, volumes) = frozen.unzip();
                after.volumes = volumes;
                bases
            }
        };
        draft.record(after);
        for new in clones {
            let mut clone = self.adopt(&new.name, new.machine, Vec::new())?;
            for base in &bases {
                clone.volumes.push(match kind {
                    CloneKind::Linked => draft.overlay(&new.name, base, false),
                    CloneKind::Full => draft.copy(&new.name, base),
                });
            }
            let (name, machine, snapshot) = (source.name.clone(), source.machine, from.cloned());
            clone.origin = (kind == CloneKind::Linked).then_some(Origin { name, machine, snapshot });
            draft.record(clone);
        }
        draft.finish()
    }

    fn plan_snapshot(&self, set: &Set, tag: &SnapshotTag, consistency: Consistency) -> Result<StoreChange> {
        if set.snapshot(tag).is_some() {
            return Err(Error::message(format!("'{}' already has a snapshot '{tag}'", set.name)));
        }
        let mut draft = Draft::new(self);
        let (frozen, volumes) = set.volumes.iter().map(|volume| draft.freeze(set, volume)).unzip();
        let mut after = Set { volumes, ..set.clone() };
        after.snapshots.push(Snapshot {
            tag: tag.clone(),
            created: time::now(),
            consistency,
            volumes: frozen,
        });
        draft.record(after);
        draft.finish()
    }

    fn plan_rollback(&self, set: &Set, tag: &SnapshotTag) -> Result<StoreChange> {
        let snapshot = snapshot_of(set, tag)?;
        let mut draft = Draft::new(self);
        let mut after = set.clone();
        if self.shared_bases {
            after.volumes =
                snapshot.volumes.iter().map(|base| draft.overlay(&set.name, base, true)).collect();
        } else {
            for (volume, base) in set.volumes.iter().zip(&snapshot.volumes) {
                draft.plan.step("rollback", volume.path.display(), tag);
                draft.notes.commit.push(Act::Reset { path: volume.path.clone(), to: base.path.clone() });
            }
        }
        let kept = set.snapshots.iter().position(|known| known.tag == *tag).map_or(0, |at| at + 1);
        for newer in after.snapshots.split_off(kept) {
            draft.remove_state(snapshot_folder(set, &newer.tag));
        }
        draft.record(after);
        draft.release(set);
        draft.finish()
    }

    fn plan_drop_snapshot(&self, set: &Set, tag: &SnapshotTag) -> Result<StoreChange> {
        snapshot_of(set, tag)?;
        let mut draft = Draft::new(self);
        let mut after = set.clone();
        after.snapshots.retain(|snapshot| snapshot.tag != *tag);
        draft.record(after);
        draft.remove_state(snapshot_folder(set, tag));
        draft.release(set);
        draft.finish()
    }

    fn plan_promote(&self, set: &Set) -> Result<StoreChange> {
        let mut draft = Draft::new(self);
        let snapshots = set.snapshots.iter().flat_map(|snapshot| &snapshot.volumes);
        for volume in set.volumes.iter().chain(snapshots) {
            draft.plan.step("flatten", volume.path.display(), "");
            draft.notes.commit.push(Act::Flatten { path: volume.path.clone() });
        }
        draft.record(Set { origin: None, ..set.clone() });
        draft.release(set);
        draft.finish()
    }

    fn plan_delete(&self, set: &Set) -> Result<StoreChange> {
        let mut draft = Draft::new(self);
        draft.notes.commit.push(Act::Forget { name: set.name.clone() });
        draft.remove_state(set.state_dir.clone());
        draft.release(set);
        draft.finish()
    }

    fn stage(&self, change: &StoreChange, files: &[StateFile]) -> Result<()> {
        let notes = self.notes(change)?;
        let staged = self.run(notes.stage).and_then(|()| {
            change.sets.iter().try_for_each(|set| self.make_folder(notes.id, &set.state_dir))?;
            files.iter().try_for_each(|file| self.write_state(notes.id, change, file))
        });
        self.inside().fuse = None;
        staged
    }

    fn commit(&self, change: &StoreChange) -> Result<()> {
        let notes = self.notes(change)?;
        for name in notes.commit.iter().filter_map(|act| match act {
            Act::Forget { name } => Some(name),
            _ => None,
        }) {
            let clones = self.set(name)?.map(|set| self.clones(&set)).transpose()?.unwrap_or_default();
            if let (false, Some(clone)) = (self.shared_bases, clones.first()) {
                return Err(Error::refused(format!("cannot delete '{name}': '{clone}' stands on it")));
            }
        }
        let corrected = |act| match act {
            Act::Record { set } => {
                let given = change.sets.iter().find(|given| given.name == set.name);
                Act::Record { set: given.cloned().map_or(set, Box::new) }
            }
            other => other,
        };
        let committed = self.run(notes.commit.into_iter().map(corrected));
        let mut inside = self.inside();
        inside.fuse = None;
        inside.state.remove(&notes.id);
        committed
    }

    fn revert(&self, change: &StoreChange) -> Result<()> {
        let notes = self.notes(change)?;
        let undone = self.run(notes.stage.iter().rev().filter_map(Act::undo));
        let mut inside = self.inside();
        inside.fuse = None;
        for undo in inside.state.remove(&notes.id).unwrap_or_default().iter().rev() {
            match undo {
                StateUndo::RemoveFolder(path) => drop(fsio::remove_dir_if_empty(path)?),
                StateUndo::Restore(path, None) => drop(fsio::remove_if_exists(path)?),
                StateUndo::Restore(path, Some(bytes)) => fsio::replace(path, bytes, 0o600)?,
            }
        }
        undone
    }
}

/// The bytes of all files under a folder.
fn folder_size(folder: &Path) -> ByteSize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => folder_size(&entry.path()),
            Ok(meta) => ByteSize::new(meta.len()),
            Err(_) => ByteSize::default(),
        })
        .sum()
}

/// What tests do to the store; see [`Bench`].
impl Bench for SimStore {
    fn store(&self) -> &dyn VolumeStore {
        self
    }

    fn image(&self, size: ByteSize, bytes: &[u8]) -> (PathBuf, VolumeFormat) {
        let mut inside = self.inside();
        inside.counter += 1;
        let path = self.folder.with_extension("images").join(inside.counter.to_string());
        inside.files.add_foreign(path.clone(), size.bytes(), bytes);
        (path, self.format())
    }

    #[allow(clippy::expect_used, reason = "a test's deed: it panics as an assertion does")]
    fn write(&self, volume: &Volume, offset: u64, bytes: &[u8]) {
        self.inside().files.write(&volume.path, offset, bytes).expect("a guest can write its volume");
    }

    #[allow(clippy::expect_used, reason = "a test's deed: it panics as an assertion does")]
    fn read(&self, volume: &Volume, offset: u64, len: usize) -> Vec<u8> {
        self.inside().files.read(&volume.path, offset, len).expect("a guest can read its volume")
    }

    fn leftovers(&self) -> Vec<String> {
        let mut all: Vec<String> =
            self.inside().files.paths().map(|path| path.display().to_string()).collect();
        list(&self.folder, &mut all);
        all.sort();
        all
    }

    fn interrupt(&self, steps: usize) -> bool {
        self.inside().fuse = Some(steps);
        true
    }
}

fn list(folder: &Path, into: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        into.push(entry.path().display().to_string());
        if entry.path().is_dir() {
            list(&entry.path(), into);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance;
    use super::*;

    /// A store whose folder goes with it.
    struct InFolder(
        SimStore,
        #[allow(dead_code, reason = "removes the folder when it goes")] tempfile::TempDir,
    );

    impl Bench for InFolder {
        fn store(&self) -> &dyn VolumeStore {
            &self.0
        }
        fn image(&self, size: ByteSize, bytes: &[u8]) -> (PathBuf, VolumeFormat) {
            self.0.image(size, bytes)
        }
        fn write(&self, volume: &Volume, offset: u64, bytes: &[u8]) {
            self.0.write(volume, offset, bytes);
        }
        fn read(&self, volume: &Volume, offset: u64, len: usize) -> Vec<u8> {
            self.0.read(volume, offset, len)
        }
        fn leftovers(&self) -> Vec<String> {
            self.0.leftovers()
        }
        fn interrupt(&self, steps: usize) -> bool {
            self.0.interrupt(steps)
        }
    }

    fn fresh(make: fn(PathBuf) -> SimStore) -> Box<dyn Bench> {
        let folder = tempfile::tempdir().unwrap();
        Box::new(InFolder(make(folder.path().join("store")), folder))
    }

    #[test]
    fn the_store_with_shared_bases_does_what_every_store_does() {
        conformance::all(&|| fresh(SimStore::new));
    }

    #[test]
    fn the_store_that_freezes_in_place_does_what_every_store_does() {
        conformance::all(&|| fresh(SimStore::in_place));
    }

    #[test]
    fn a_base_is_never_written_again() {
        let bench = fresh(SimStore::new);
        let (store, name) = (bench.store(), MachineName::parse("a").unwrap());
        let new = NewVolume { name: "vda".to_string(), size: Some(ByteSize::mib(1)), image: None };
        let change = store.plan_create(&name, Uuid::new_v4(), &[new]).unwrap();
        store.stage(&change, &[]).unwrap();
        store.commit(&change).unwrap();
        let (tag, set) = (SnapshotTag::parse("one").unwrap(), store.set(&name).unwrap().unwrap());
        let change = store.plan_snapshot(&set, &tag, Consistency::Stopped).unwrap();
        store.stage(&change, &[]).unwrap();
        let written = std::panic::AssertUnwindSafe(|| bench.write(&set.volumes[0], 0, b"x"));
        assert!(std::panic::catch_unwind(written).is_err());
    }
}
