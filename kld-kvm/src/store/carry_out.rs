//! How changes are carried out, so that a kill at any point and two runs at once lose nothing.
//!
//! # Kills
//!
//! Staging first writes `ROOT/staged/ID.json`, which lists the state files to be made; the volumes are listed in
//! the change itself. With that list, what is there already is known to be of this very change (and is replaced)
//! or not (and is an error), and reverting removes exactly what was made. The list goes last, in both directions.
//!
//! # Two runs at once
//!
//! Callers hold the locks of the machines that they change, but a base belongs to many machines. A file is
//! therefore collected only under the store's lock, after this change's records were written under it, and only
//! if then no record of any set reaches it. Two runs that take away the last two clones of a base are thus put in
//! an order, and the later one finds nobody left.
//!
//! A clone under way cannot lose its base to another run's collection, although its own record is not written yet:
//! the base is reached by its source's record, before (as the source's volume, or below it) and after the commit
//! (below the source's new overlay, or as its snapshot), and only a change of the source itself could end that,
//! which waits for the source's machine lock. The commit writes the records of source and clones under one hold of
//! the store's lock, so no collection sees one without the other. A source that has no record yet stands on
//! adopted files, which are never collected.
//!
//! What no record tells of (a domain defined by hand on one of our files) is not seen, but for a running one: a
//! file that QEMU has open is never collected.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use kld_core::error::Trying;
use kld_core::store::{Set, StateFile, StoreChange};
use kld_core::{Error, MachineName, Result, fsio};
use serde::{Deserialize, Serialize};

use super::layout::{Layout, make_folder};
use super::reach::{Reach, file_id};
use super::record::Record;
use super::sync::{replace_all, sync_all};
use super::work::{Content, Merge, NewFile, Work, disk_format};
use super::{copy, told};
use crate::image::{self, NewImage, chain_as, inspect_as};

/// The mode of a base: nobody writes it again.
const BASE_MODE: u32 = 0o400;
const FILE_MODE: u32 = 0o600;
const LARGEST_LIST: u64 = 64 << 20;

/// `ROOT/staged/ID.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Staged {
    /// State files, by set and by path within its folder.
    files: BTreeSet<(MachineName, PathBuf)>,
    /// True when the volumes are there. Machines may write to them from then on, so they are not made again.
    volumes: bool,
}

impl Staged {
    fn read(layout: &Layout, work: &Work) -> Result<Option<Staged>> {
        let path = layout.staged(work.id);
        let Some(text) = fsio::read_text(&path, LARGEST_LIST)? else { return Ok(None) };
        if text.is_empty() {
            return Ok(None);
        }
        let staged = serde_json::from_str(&text);
        staged.map(Some).map_err(|cause| Error::failed(format!("cannot use {}", path.display()), cause))
    }

    /// Writes the list; it is on the disk when this returns.
    fn write(&self, layout: &Layout, work: &Work) -> Result<()> {
        self.replace(layout, work)?;
        layout.deed()?;
        let path = layout.staged(work.id);
        // Both at once. If the power goes now, the name may be there without the list, and nothing was made yet.
        sync_all([&path.parent().unwrap_or(layout.root()).to_path_buf(), &path])
    }

    /// Replaces the list in one step, without waiting for the disk.
    fn replace(&self, layout: &Layout, work: &Work) -> Result<()> {
        layout.deed()?;
        let path = layout.staged(work.id);
        let temporary = fsio::temporary_beside(&path);
        fsio::remove_if_exists(&temporary)?;
        let mut file = fsio::create_new(&temporary, FILE_MODE)?;
        let written = std::io::Write::write_all(&mut file, &self.to_text()?);
        written
            .and_then(|()| std::fs::rename(&temporary, &path))
            .trying(|| format!("cannot write {}", path.display()))
    }

    fn to_text(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|cause| Error::failed("cannot list what is staged", cause))
    }

    fn remove(layout: &Layout, work: &Work) -> Result<()> {
        let path = layout.staged(work.id);
        remove(layout, &fsio::temporary_beside(&path))?;
        remove(layout, &path)
    }
}

/// Removes a file; one that is not there is as wanted. Looks first, because on a read-only file system there is
/// nothing to undo, and still every removal is an error.
fn remove(layout: &Layout, path: &Path) -> Result<()> {
    if path.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        return Ok(());
    }
    layout.deed()?;
    fsio::remove_if_exists(path).map(drop)
}

/// Makes the change's files. See [`kld_core::store::VolumeStore::stage`].
pub(super) fn stage(layout: &Layout, change: &StoreChange, files: &[StateFile]) -> Result<()> {
    let work = Work::of(change, layout.root())?;
    if work.make.is_empty() && files.is_empty() {
        return Ok(());
    }
    layout.make()?;
    for name in &work.born {
        if layout.record(name).symlink_metadata().is_ok() {
            return Err(Error::message(format!("the store has a machine {name} already")));
        }
    }
    let before = Staged::read(layout, &work)?;
    let repeated = before.is_some();
    let mut staged = before.unwrap_or_default();
    let keys: Vec<_> = files.iter().map(|file| (file.set.clone(), file.path.clone())).collect();
    for (file, key) in files.iter().zip(keys) {
        let path = layout.state_file(&file.set, &file.path)?;
        if !staged.files.contains(&key) && path.symlink_metadata().is_ok() {
            return Err(Error::failed(format!("cannot create {}", path.display()), "it exists already")
                .with_hint("kld did not make it for this machine; move it away"));
        }
        staged.files.insert(key);
    }
    let exists = |file: &&NewFile| !repeated && file.path.symlink_metadata().is_ok();
    if let Some(file) = work.make.iter().find(exists) {
        return Err(Error::failed(format!("cannot create {}", file.path.display()), "it exists already"));
    }
    let volumes = if staged.volumes { &[][..] } else { &work.make };
    staged.write(layout, &work)?;

    let (mut made, mut bases) = (Vec::new(), HashSet::new());
    for file in volumes {
        remove(layout, &file.path)?;
        if let Content::Overlay { base, .. } = &file.content
            && bases.insert(&base.path)
        {
            // Looked at again: between plan and stage somebody may have moved it.
            inspect_as(&base.path, disk_format(base.format)).map_err(told)?;
        }
        layout.deed()?;
        make_volume(file)?;
        made.push(file.path.clone());
    }
    let mut folders = BTreeSet::from([layout.volumes().to_path_buf()]);
    for name in &work.born {
        layout.deed()?;
        make_folder(&layout.machine(name))?;
        folders.insert(layout.machines().to_path_buf());
    }
    for file in files {
        let path = layout.state_file(&file.set, &file.path)?;
        remove(layout, &path)?;
        let top = layout.machine(&file.set);
        folders.extend(
            path.ancestors().skip(1).take_while(|above| above.starts_with(&top)).map(Path::to_path_buf),
        );
        make_folder(path.parent().unwrap_or(&top))?;
        layout.deed()?;
        file.content.write_new(&path)?;
        made.push(path);
    }
    layout.deed()?;
    sync_all(made.iter().chain(&folders))?;
    staged.volumes = true;
    // Without waiting: if the power goes, so does who could have written to the volumes, and the older list serves.
    staged.replace(layout, &work)
}

fn make_volume(file: &NewFile) -> Result<()> {
    let (path, make) = (&file.path, |new: NewImage| image::create(&file.path, &new).map_err(told));
    match &file.content {
        Content::Empty { size } => make(NewImage::disk(*size)),
        Content::Overlay { base, size } => make(NewImage::overlay(*size, base.backing())),
        Content::Copy { from, size } => copy::copy(from, path, *size),
    }
}

/// Removes what was staged. See [`kld_core::store::VolumeStore::revert`].
pub(super) fn revert(layout: &Layout, change: &StoreChange) -> Result<()> {
    let work = Work::of(change, layout.root())?;
    if let Some(staged) = Staged::read(layout, &work)? {
        // Whoever has one open writes into it, and would go on writing into nothing.
        for file in work.make.iter().filter(|file| file.path.exists()) {
            if image::in_use(&file.path).map_err(told)? {
                return Err(Error::busy(format!("{} is open in a running machine", file.path.display())));
            }
        }
        // A commit that failed half-way may have written records of new sets.
        for set in change.sets.iter().filter(|set| work.born.contains(&set.name)) {
            remove(layout, &fsio::temporary_beside(&layout.record(&set.name)))?;
            if Record::read(layout, &set.name)?.is_some_and(|record| record.set == *set) {
                remove(layout, &layout.record(&set.name))?;
            }
        }
        for file in &work.make {
            remove(layout, &file.path)?;
        }
        remove_state_files(layout, &staged.files)?;
        for name in work.born.iter().chain(staged.files.iter().map(|(name, _)| name)) {
            layout.deed()?;
            fsio::remove_dir_if_empty(&layout.machine(name))?;
        }
        // Gone for good before the list is: a power cut must not bring back what nobody remembers.
        sync_all(&[layout.volumes().to_path_buf(), layout.machines().to_path_buf()])?;
    }
    Staged::remove(layout, &work)
}

/// Makes the change count. See [`kld_core::store::VolumeStore::commit`].
pub(super) fn commit(layout: &Layout, change: &StoreChange) -> Result<()> {
    let work = Work::of(change, layout.root())?;
    if !layout.root().exists() && change.sets.is_empty() {
        return Ok(());
    }
    layout.make()?;
    let staged = Staged::read(layout, &work)?.unwrap_or_default();
    {
        let _lock = layout.lock()?;
        write_records(layout, change, &work, &staged)?;
    }
    // Not before the records are written: where there is no room for them, the change is reverted, and its
    // source's file is no base.
    for base in work.freeze.iter().filter(|base| layout.is_ours(base) && base.is_file()) {
        layout.deed()?;
        fsio::set_mode(base, BASE_MODE)?;
    }
    remove_state_files(layout, &work.forget)?;
    for name in &work.gone {
        layout.deed()?;
        fsio::remove_dir_if_empty(&layout.machine(name))?;
    }
    for merge in &work.merge {
        carry_out_merge(layout, merge)?;
    }
    if !work.candidates.is_empty() {
        let _lock = layout.lock()?;
        collect(layout, &work.candidates)?;
    }
    Staged::remove(layout, &work)
}

fn write_records(layout: &Layout, change: &StoreChange, work: &Work, staged: &Staged) -> Result<()> {
    let (mut folders, mut texts) = (BTreeSet::new(), Vec::new());
    for name in &work.gone {
        remove(layout, &fsio::temporary_beside(&layout.record(name)))?;
        layout.deed()?;
        if fsio::remove_if_exists(&layout.record(name))?.is_changed() {
            folders.insert(layout.machine(name));
        }
    }
    // New sets first: until the record of a set that was there before is replaced, the change can be reverted.
    let (born, known): (Vec<&Set>, Vec<&Set>) =
        change.sets.iter().partition(|set| work.born.contains(&set.name));
    for set in born.into_iter().chain(known) {
        let known = Record::read(layout, &set.name)?;
        let mut files: BTreeSet<PathBuf> =
            known.iter().flat_map(|record| record.files.iter().cloned()).collect();
        let mine = |(name, path): &(MachineName, PathBuf)| (*name == set.name).then(|| path.clone());
        for forgotten in work.forget.iter().filter_map(mine) {
            files.remove(&forgotten);
        }
        files.extend(staged.files.iter().filter_map(mine));
        let record = Record::new(set.clone(), files.into_iter().collect());
        if known.as_ref() != Some(&record) {
            layout.deed()?;
            make_folder(&layout.machine(&set.name))?;
            texts.push((layout.record(&set.name), record.to_text()?));
            folders.extend([layout.machine(&set.name), layout.machines().to_path_buf()]);
        }
    }
    layout.deed()?;
    replace_all(&texts, FILE_MODE)?;
    layout.deed()?;
    sync_all(&folders)
}

/// Removes state files, and the folders that they leave empty.
fn remove_state_files<'a>(
    layout: &Layout,
    files: impl IntoIterator<Item = &'a (MachineName, PathBuf)>,
) -> Result<()> {
    for (set, file) in files {
        let (top, path) = (layout.machine(set), layout.state_file(set, file)?);
        remove(layout, &path)?;
        for folder in path.ancestors().skip(1).take_while(|folder| folder.starts_with(&top) && *folder != top)
        {
            layout.deed()?;
            fsio::remove_dir_if_empty(folder)?;
        }
    }
    Ok(())
}

/// Copies what `child` sees of the layers into it and lets it stand below them. QEMU writes the new backing file's
/// name last, so a killed merge leaves the chain as it was, and doing it again is harmless. Where it cannot be done
/// now, the layers stay: they are only space, and the next dropped snapshot tries again.
fn carry_out_merge(layout: &Layout, merge: &Merge) -> Result<()> {
    if !layout.is_ours(&merge.child) {
        return Ok(());
    }
    if can_be_merged(merge)? {
        layout.deed()?;
        if merge.frozen {
            fsio::set_mode(&merge.child, FILE_MODE)?;
        }
        layout.deed()?;
        // Without space, say, the layer simply stays.
        let _ = copy::rebase(&merge.child, merge.onto.as_ref());
    }
    layout.deed()?;
    // Where it is merged already, a killed run may have come no further than that.
    if merge.frozen {
        fsio::set_mode(&merge.child, BASE_MODE)?;
    }
    Ok(())
}

/// Whether the child still stands on the layers, and nobody uses any of them.
fn can_be_merged(merge: &Merge) -> Result<bool> {
    let chain = chain_as(&merge.child, crate::image::DiskFormat::Qcow2).map_err(told)?;
    if chain.get(1).is_none_or(|below| merge.layers.first() != Some(&below.path)) {
        return Ok(false);
    }
    for path in std::iter::once(&merge.child).chain(&merge.layers) {
        if image::in_use(path).map_err(told)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Removes those files of ours that no set reaches. Call it under the store's lock.
fn collect(layout: &Layout, candidates: &[PathBuf]) -> Result<()> {
    // What cannot be read may stand on a candidate: then everything stays, which costs space and no data.
    let Ok(records) = Record::read_all(layout) else { return Ok(()) };
    let Ok(reach) = Reach::of(records.iter().map(|record| &record.set), &[]) else { return Ok(()) };
    for path in candidates.iter().filter(|path| layout.is_ours(path)) {
        let Some(id) = file_id(path) else { continue };
        if reach.get(id).is_none() && !image::in_use(path).unwrap_or(true) {
            remove(layout, path)?;
        }
    }
    Ok(())
}
