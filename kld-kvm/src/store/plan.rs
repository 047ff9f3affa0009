use std::path::Path;

use kld_core::store::{
    CloneKind, Consistency, NewClone, NewVolume, Origin, Set, Snapshot, StoreChange, Volume, VolumeFormat,
};
use kld_core::{ByteSize, Error, MachineName, Result, SnapshotTag, time};
use uuid::Uuid;

use super::draft::{Base, Draft};
use super::layout::Layout;
use super::record::Record;
use super::work::{disk_format, volume_format};
use super::{NAME, told};
use crate::image::{self, Image, Start, chain_as, inspect_as, is_empty_overlay};

/// A set for a machine whose disks were made by other means, or were moved behind our back.
pub(super) fn adopt(layout: &Layout, name: &MachineName, machine: Uuid, volumes: Vec<Volume>) -> Result<Set> {
    let volumes =
        volumes.into_iter().map(|volume| adopt_volume(layout, name, volume)).collect::<Result<_>>()?;
    let known = match Record::read(layout, name)?.map(|record| record.set) {
        Some(set) if set.machine != machine => {
            return Err(Error::refused(format!(
                "the store has disks of another machine {name}, whose UUID is {} and not {machine}",
                set.machine
            ))
            .with_hint(format!("look at them in {}, and rename the new machine", set.state_dir.display())));
        }
        known => known,
    };
    let (snapshots, origin, created) = match known {
        Some(set) => (set.snapshots, set.origin, set.created),
        None => (Vec::new(), None, time::now()),
    };
    Ok(Set { volumes, snapshots, origin, created, ..new_set(layout, name, machine) })
}

fn adopt_volume(layout: &Layout, name: &MachineName, volume: Volume) -> Result<Volume> {
    let disk = volume.name.escape_debug();
    if volume.format == VolumeFormat::Block {
        return Err(Error::message(format!(
            "the disk {disk} of {name} is the block device {}, and the store '{NAME}' keeps files only",
            volume.path.display()
        ))
        .with_hint("copy it into a file, or choose a store that keeps block devices"));
    }
    if !volume.path.is_absolute() {
        let path = volume.path.display();
        return Err(Error::message(format!(
            "the path '{path}' of the disk {disk} of {name} is not absolute"
        )));
    }
    let chain = chain_as(&volume.path, disk_format(volume.format)).map_err(told)?;
    let size = ByteSize::new(chain[0].virtual_size.next_multiple_of(512));
    Ok(Volume { size, adopted: !layout.is_ours(&volume.path), ..volume })
}

/// A new set with new volumes.
pub(super) fn create(
    layout: &Layout,
    name: &MachineName,
    machine: Uuid,
    new: &[NewVolume],
) -> Result<StoreChange> {
    let mut draft = Draft::new(layout);
    draft.born(name)?;
    let mut set = new_set(layout, name, machine);
    for new in new {
        let Start { image, size } = Start::of(new, name)?;
        let volume = match image {
            None => draft.empty(name, &new.name, size)?,
            Some(image) => draft.copy(name, &new.name, &image, size)?,
        };
        set.volumes.push(volume);
    }
    draft.finish(vec![set])
}

/// Clones of a set as it is now, or of one of its snapshots.
pub(super) fn clone(
    layout: &Layout,
    source: &Set,
    from: Option<&SnapshotTag>,
    clones: &[NewClone],
    kind: CloneKind,
) -> Result<StoreChange> {
    let mut draft = Draft::new(layout);
    for clone in clones {
        if clone.name == source.name {
            return Err(Error::usage(format!("{} cannot be cloned to its own name", clone.name)));
        }
        draft.born(&clone.name)?;
    }
    let from_volumes = match from {
        Some(tag) => &find_whole_snapshot(source, tag)?.volumes,
        None => &source.volumes,
    };
    let mut source_after = source.clone();
    let mut sets: Vec<Set> = clones.iter().map(|new| new_set(layout, &new.name, new.machine)).collect();
    match kind {
        CloneKind::Full => {
            for volume in from_volumes {
                let image = inspect_as(&volume.path, disk_format(volume.format)).map_err(told)?;
                if from.is_none() {
                    refuse_in_use(source, volume, "copied")?;
                }
                for set in &mut sets {
                    let copy = draft.copy(&set.name, &volume.name, &image, image.virtual_size)?;
                    set.volumes.push(copy);
                }
            }
        }
        CloneKind::Linked => {
            let origin =
                Origin { name: source.name.clone(), machine: source.machine, snapshot: from.cloned() };
            let mut bases = Vec::new();
            for volume in from_volumes {
                bases.push(match from {
                    Some(_) => Base::of(volume)?,
                    None => base_of_current(&mut draft, &mut source_after, volume)?,
                });
            }
            for set in &mut sets {
                set.origin = Some(origin.clone());
                for (volume, base) in from_volumes.iter().zip(&bases) {
                    let overlay = draft.overlay(&set.name, &volume.name, base)?;
                    set.volumes.push(overlay);
                }
            }
        }
    }
    sets.insert(0, source_after);
    draft.finish(sets)
}

/// A base that holds what the volume holds now: what it stands on where it has written nothing itself, else the
/// volume, which then goes on as an overlay.
fn base_of_current(draft: &mut Draft, set: &mut Set, volume: &Volume) -> Result<Base> {
    let chain = chain_as(&volume.path, disk_format(volume.format)).map_err(told)?;
    if chain.len() > 1 && is_unwritten(&chain[0])? {
        return Ok(Base::at(&chain, 1, chain[0].virtual_size));
    }
    let base = Base::at(&chain, 0, chain[0].virtual_size);
    switch_to_overlay(draft, set, volume, &chain[0], &base)?;
    Ok(base)
}

/// Freezes a set's volume and lets the set go on with an overlay on it.
fn switch_to_overlay(
    draft: &mut Draft,
    set: &mut Set,
    volume: &Volume,
    top: &Image,
    base: &Base,
) -> Result<()> {
    if top.header().is_some_and(|header| header.corrupt) {
        return Err(told(image::ImageError::Unclean { path: top.path.clone(), state: "corrupt" }));
    }
    draft.freeze(&volume.path);
    let overlay = draft.overlay(&set.name, &volume.name, base)?;
    move_to(draft, set, overlay);
    Ok(())
}

/// The set's volume of this name is from now on the given one.
fn move_to(draft: &mut Draft, set: &mut Set, volume: Volume) {
    draft.repoint(&set.name, &volume);
    match set.volumes.iter_mut().find(|known| known.name == volume.name) {
        Some(known) => *known = volume,
        None => set.volumes.push(volume),
    }
}

/// True for an overlay that certainly holds nothing: nobody has it open, so that nothing is on its way into it.
fn is_unwritten(top: &Image) -> Result<bool> {
    Ok(top.header().is_some()
        && !image::in_use(&top.path).map_err(told)?
        && is_empty_overlay(&top.path).map_err(told)?)
}

/// A snapshot of the whole set.
pub(super) fn snapshot(
    layout: &Layout,
    set: &Set,
    tag: &SnapshotTag,
    consistency: Consistency,
) -> Result<StoreChange> {
    if set.snapshot(tag).is_some() {
        return Err(Error::message(format!("{} has a snapshot {tag} already", set.name))
            .with_hint("choose another tag, or delete that snapshot first"));
    }
    let mut draft = Draft::new(layout);
    let mut after = set.clone();
    let mut volumes = Vec::new();
    for volume in &set.volumes {
        let chain = chain_as(&volume.path, disk_format(volume.format)).map_err(told)?;
        let top = &chain[0];
        let size = ByteSize::new(top.virtual_size.next_multiple_of(512));
        let below = chain.get(1).filter(|below| below.virtual_size == top.virtual_size);
        volumes.push(match below {
            Some(below) if is_unwritten(top)? => Volume {
                name: volume.name.clone(),
                path: below.path.clone(),
                format: volume_format(below.disk_format()),
                size,
                adopted: !layout.is_ours(&below.path),
            },
            _ => {
                switch_to_overlay(
                    &mut draft,
                    &mut after,
                    volume,
                    top,
                    &Base::at(&chain, 0, top.virtual_size),
                )?;
                Volume { size, ..volume.clone() }
            }
        });
    }
    draft.step("record", format!("snapshot {tag} of {}", set.name), consistency);
    after.snapshots.push(Snapshot { tag: tag.clone(), created: time::now(), consistency, volumes });
    draft.finish(vec![after])
}

/// The set as it was at a snapshot.
pub(super) fn rollback(layout: &Layout, set: &Set, tag: &SnapshotTag) -> Result<StoreChange> {
    let mut draft = Draft::new(layout);
    let snapshot = find_whole_snapshot(set, tag)?;
    let mut after = set.clone();
    after.volumes.retain(|volume| snapshot.volumes.iter().any(|kept| kept.name == volume.name));
    for volume in &snapshot.volumes {
        let base = Base::of(volume)?;
        if !stands_unwritten_on(&after, volume, &base)? {
            let overlay = draft.overlay(&set.name, &volume.name, &base)?;
            move_to(&mut draft, &mut after, overlay);
        }
    }
    let newer = set.snapshots.iter().skip_while(|known| known.tag != *tag).skip(1);
    for newer in newer {
        draft.forget_snapshot(set, &newer.tag)?;
        after.snapshots.retain(|known| known.tag != newer.tag);
    }
    draft.settle(set, Some(&after), false)?;
    draft.finish(vec![after])
}

/// Whether the set's disk already is an overlay on this base to which nothing was written.
fn stands_unwritten_on(set: &Set, volume: &Volume, base: &Base) -> Result<bool> {
    let Some(current) = set.volumes.iter().find(|known| known.name == volume.name) else { return Ok(false) };
    let chain = chain_as(&current.path, disk_format(current.format)).map_err(told)?;
    let on_base = chain.get(1).is_some_and(|below| below.path == base.layer.path);
    Ok(on_base && chain[0].virtual_size == base.size && is_unwritten(&chain[0])?)
}

/// One snapshot less.
pub(super) fn drop_snapshot(layout: &Layout, set: &Set, tag: &SnapshotTag) -> Result<StoreChange> {
    find_snapshot(set, tag)?;
    let mut draft = Draft::new(layout);
    let mut after = set.clone();
    after.snapshots.retain(|known| known.tag != *tag);
    draft.forget_snapshot(set, tag)?;
    draft.settle(set, Some(&after), true)?;
    draft.finish(vec![after])
}

/// The set stands on nobody else's files.
pub(super) fn promote(layout: &Layout, set: &Set) -> Result<StoreChange> {
    let mut draft = Draft::new(layout);
    let mut after = set.clone();
    if after.origin.take().is_some() {
        for volume in &set.volumes {
            let chain = chain_as(&volume.path, disk_format(volume.format)).map_err(told)?;
            if chain.len() > 1 {
                refuse_in_use(set, volume, "copied")?;
                let copy = draft.copy(&set.name, &volume.name, &chain[0], chain[0].virtual_size)?;
                move_to(&mut draft, &mut after, copy);
            }
        }
        draft.settle(set, Some(&after), false)?;
    }
    draft.finish(vec![after])
}

/// No set any more.
pub(super) fn delete(layout: &Layout, set: &Set) -> Result<StoreChange> {
    let mut draft = Draft::new(layout);
    draft.work.gone.push(set.name.clone());
    // The hypervisor makes NVRAM at a machine's first start, so it is ours without being staged.
    let mut files = vec![Path::new("nvram.fd").to_path_buf()];
    if let Some(record) = Record::read(layout, &set.name)? {
        draft.step("forget", format!("the disks of {}", set.name), "");
        files.extend(record.files);
    }
    for file in files {
        let path = layout.state_file(&set.name, &file)?;
        if path.symlink_metadata().is_ok() && !draft.work.forget.iter().any(|(_, known)| *known == file) {
            draft.step("remove", path.display(), "");
            draft.work.forget.push((set.name.clone(), file));
        }
    }
    draft.settle(set, None, false)?;
    draft.finish(Vec::new())
}

fn new_set(layout: &Layout, name: &MachineName, machine: Uuid) -> Set {
    Set {
        name: name.clone(),
        machine,
        store: NAME.to_string(),
        state_dir: layout.machine(name),
        volumes: Vec::new(),
        snapshots: Vec::new(),
        origin: None,
        created: time::now(),
    }
}

/// A snapshot that still holds what it held: none of its files is written by the machine again, as after a block
/// commit by another tool.
fn find_whole_snapshot<'a>(set: &'a Set, tag: &SnapshotTag) -> Result<&'a Snapshot> {
    let snapshot = find_snapshot(set, tag)?;
    let written = |frozen: &Volume| set.volumes.iter().any(|volume| volume.path == frozen.path);
    match snapshot.volumes.iter().find(|frozen| written(frozen)) {
        Some(frozen) => Err(Error::refused(format!(
            "the snapshot {tag} of {} is lost: another tool made the machine write to {}",
            set.name,
            frozen.path.display()
        ))
        .with_hint("delete the snapshot")),
        None => Ok(snapshot),
    }
}

fn find_snapshot<'a>(set: &'a Set, tag: &SnapshotTag) -> Result<&'a Snapshot> {
    set.snapshot(tag).ok_or_else(|| {
        let error = Error::message(format!("{} has no snapshot {tag}", set.name));
        let tags: Vec<&str> = set.snapshots.iter().map(|known| known.tag.as_str()).collect();
        error.with_hint(match tags[..] {
            [] => "it has no snapshots".to_string(),
            _ => format!("it has {}", tags.join(", ")),
        })
    })
}

fn refuse_in_use(set: &Set, volume: &Volume, done: &str) -> Result<()> {
    if image::in_use(&volume.path).map_err(told)? {
        return Err(Error::busy(format!(
            "the disk {} of {} is in use and cannot be {done}: {}",
            volume.name,
            set.name,
            volume.path.display()
        ))
        .with_hint("stop the machine first, or take a snapshot and clone that"));
    }
    Ok(())
}
