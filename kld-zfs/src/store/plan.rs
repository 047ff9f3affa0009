//! What a change does, computed. Nothing is changed here.

use std::collections::BTreeSet;
use std::path::Path;

use kld_core::exec::Exec;
use kld_core::store::{
    CloneKind, Consistency, NewClone, NewVolume, Origin, Set, Snapshot, StoreChange, Volume, VolumeFormat,
};
use kld_core::{ByteSize, Error, MachineName, Plan, Result, SnapshotTag, time};
use uuid::Uuid;

use super::layout::{HIDDEN, Layout, snapshot_folder};
use super::work::{Alone, Back, Born, Content, Gone, NewZvol, Work};
use super::{NAME, record};
use crate::engine::{Kinds, Listing};
use crate::{DatasetName, SnapshotName, device, pool};

/// What is written to a disk at once is at least this large: smaller blocks cost memory and space for what points at
/// them, larger ones have guests' small writes read and write all of it. 16 KiB is OpenZFS's default for volumes,
/// and what guests' file systems and databases write most.
pub(super) const BLOCK: u32 = 16 << 10;

/// A [`StoreChange`] in the making.
struct Draft {
    plan: Plan,
    work: Work,
    sets: Vec<Set>,
}

impl Draft {
    fn new() -> Self {
        Draft { plan: Plan::default(), work: Work::new(), sets: Vec::new() }
    }

    fn hidden(&self, why: &str) -> String {
        let [a, b, c, d, ..] = self.work.id.into_bytes();
        format!("{HIDDEN}{why}-{a:02x}{b:02x}{c:02x}{d:02x}")
    }

    fn born(&mut self, layout: &Layout, set: &Set) -> Result<()> {
        self.plan.step("create", layout.machine(&set.name)?, "its state");
        self.work.born.push(Born { name: set.name.clone(), machine: set.machine });
        Ok(())
    }

    /// A set that the store has not had yet gets a place for its state.
    fn take_in(&mut self, layout: &Layout, set: &Set) -> Result<()> {
        if record::read(layout, &set.name)?.is_some() {
            return Ok(());
        }
        refuse_dataset(layout, &set.name)?;
        self.born(layout, set)
    }

    fn finish(self) -> Result<StoreChange> {
        let inner = serde_json::to_value(&self.work)
            .map_err(|cause| Error::failed("cannot write down the plan", cause))?;
        let (store, steps, sets) = (NAME.to_string(), self.plan.steps, self.sets);
        Ok(StoreChange { store, steps, sets, repoints: Vec::new(), frees: Vec::new(), inner })
    }
}

/// The dataset behind a volume of a set.
fn dataset_of(volume: &Volume) -> Result<DatasetName> {
    device::dataset_of(&volume.path)
        .ok_or_else(|| Error::message(format!("{} is no volume of ZFS", volume.path.display())))
}

/// The ZFS snapshot behind a snapshot's volume.
fn snapshot_behind(volume: &Volume) -> Result<SnapshotName> {
    let path = volume.path.strip_prefix("/dev/zvol").ok().and_then(Path::to_str);
    path.ok_or_else(|| Error::message(format!("{} is no volume of ZFS", volume.path.display())))
        .and_then(SnapshotName::parse)
}

/// A volume as a snapshot of this name has it.
fn at(volume: &Volume, name: &str) -> Volume {
    let mut path = volume.path.clone().into_os_string();
    path.push(format!("@{name}"));
    Volume { path: path.into(), ..volume.clone() }
}

fn snapshot_of<'a>(set: &'a Set, tag: &SnapshotTag) -> Result<&'a Snapshot> {
    set.snapshot(tag).ok_or_else(|| Error::message(format!("{} has no snapshot '{tag}'", set.name)))
}

fn taken(name: &MachineName, by: impl std::fmt::Display) -> Error {
    Error::failed(format!("cannot make the volumes of '{name}'"), by)
}

fn refuse_taken(layout: &Layout, name: &MachineName) -> Result<()> {
    pool::guard(&layout.root)?;
    if !layout.engine.exists(layout.machine(name)?.as_str())? {
        return Ok(());
    }
    match record::read(layout, name)? {
        Some(_) => Err(taken(name, "the store has a set of this name")
            .with_hint("choose another name, or delete that one with kvm-delete")),
        None => refuse_dataset(layout, name),
    }
}

fn refuse_dataset(layout: &Layout, name: &MachineName) -> Result<()> {
    let dataset = layout.machine(name)?;
    match layout.engine.exists(dataset.as_str())? {
        false => Ok(()),
        true => Err(taken(name, format!("there is a dataset {dataset}"))
            .with_hint("choose another name; if nobody needs the dataset, destroy it yourself")),
    }
}

fn check_disk(machine: &MachineName, disk: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let good = disk.starts_with(|c: char| c.is_ascii_alphanumeric())
        && disk.chars().all(allowed)
        && disk.len() <= 63;
    if good {
        return Ok(());
    }
    let shown = disk.escape_debug();
    Err(Error::message(format!("the disk name '{shown}' of {machine} cannot be part of a dataset's name")))
}

fn new_set(layout: &Layout, name: &MachineName, machine: Uuid) -> Set {
    Set {
        name: name.clone(),
        machine,
        store: NAME.to_string(),
        state_dir: layout.state_dir(name),
        volumes: Vec::new(),
        snapshots: Vec::new(),
        origin: None,
        created: time::now(),
    }
}

pub(super) fn adopt(layout: &Layout, name: &MachineName, machine: Uuid, volumes: Vec<Volume>) -> Result<Set> {
    let what = |volume: &Volume| format!("cannot take in the disk '{}' of {name}", volume.name);
    let mut set = match record::read(layout, name)? {
        Some(known) if known.machine == machine => known,
        Some(_) => return Err(taken(name, "the store has a set of this name")),
        None => new_set(layout, name, machine),
    };
    set.volumes.clear();
    let own = layout.machine(name)?;
    for volume in volumes {
        let dataset = device::dataset_of(&volume.path).filter(|_| volume.format == VolumeFormat::Block);
        let Some(dataset) = dataset else {
            let error = format!("{} is not a volume of ZFS (/dev/zvol/...)", volume.path.display());
            return Err(Error::failed(what(&volume), error)
                .with_hint("the machine's disks are of another store: choose it with --store"));
        };
        if dataset.pool() != layout.root.pool() {
            return Err(Error::failed(
                what(&volume),
                format!("{dataset} is not in the pool {}", layout.root.pool()),
            ));
        }
        let adopted = !dataset.is_below(&own);
        if adopted && dataset.is_below(&layout.root) {
            return Err(Error::failed(
                what(&volume),
                format!("{dataset} is in the store, and not of this machine"),
            ));
        }
        let absent = || Error::failed(what(&volume), format!("there is no volume {dataset}"));
        let size = size_of(layout, &dataset)?.ok_or_else(absent)?;
        set.volumes.push(Volume { adopted, size: ByteSize::new(size), ..volume });
    }
    Ok(set)
}

/// A volume's size in bytes; `None` where there is no such volume.
fn size_of(layout: &Layout, dataset: &DatasetName) -> Result<Option<u64>> {
    pool::guard(dataset)?;
    if let Some(size) = device::size_of(dataset) {
        return Ok(Some(size));
    }
    let listing =
        Listing { of: &[dataset.as_str()], kinds: Kinds::Volumes, depth: Some(0), columns: &["volsize"] };
    layout.engine.list(&listing)?.first().map(|row| row.number(0)).transpose()
}

pub(super) fn create(
    layout: &Layout,
    name: &MachineName,
    machine: Uuid,
    volumes: &[NewVolume],
) -> Result<StoreChange> {
    refuse_taken(layout, name)?;
    let disks: Vec<&str> = volumes.iter().map(|new| new.name.as_str()).collect();
    layout.check_room(name, &disks)?;
    let mut draft = Draft::new();
    let mut set = new_set(layout, name, machine);
    draft.born(layout, &set)?;
    for new in volumes {
        let what = || format!("cannot make the volume '{}' of '{name}'", new.name);
        check_disk(name, &new.name)?;
        if set.volumes.iter().any(|volume| volume.name == new.name) {
            return Err(Error::failed(what(), "there are two of this name"));
        }
        let image = match &new.image {
            Some((path, format)) => Some((path.clone(), *format, image_size(path, *format)?)),
            None => None,
        };
        let asked = new.size.map(ByteSize::bytes).or(image.as_ref().map(|(_, _, size)| *size));
        let asked = asked.ok_or_else(|| Error::usage(format!("{}: it has no size", what())))?;
        if let Some((_, _, least)) = image.filter(|(_, _, least)| asked < *least) {
            return Err(Error::usage(format!("{}: the image has {}", what(), ByteSize::new(least))));
        }
        // A volume consists of whole blocks.
        let size = asked.max(1).next_multiple_of(BLOCK.into());
        let dataset = layout.volume(name, &new.name)?;
        draft.plan.step("create", &dataset, ByteSize::new(size));
        let content = match &new.image {
            Some((path, format)) => {
                draft.plan.step("copy", path.display(), format!("to {dataset}"));
                Content::Image { size, path: path.clone(), format: *format }
            }
            None => Content::Empty { size },
        };
        let path = device::path(&dataset);
        draft.work.make.push(NewZvol { dataset, machine, content });
        let (name, size) = (new.name.clone(), ByteSize::new(size));
        set.volumes.push(Volume { name, path, format: VolumeFormat::Block, size, adopted: false });
    }
    draft.sets.push(set);
    draft.finish()
}

/// What a guest would see of an image.
fn image_size(path: &Path, format: VolumeFormat) -> Result<u64> {
    let what = || format!("cannot use the image {}", path.display());
    let exec = Exec::new("qemu-img").args(["info", "--output=json", "-f", format.driver(), "--"]).arg(path);
    let printed = exec.run().map_err(|error| Error::failed(what(), error))?.stdout;
    let told: serde_json::Value =
        serde_json::from_slice(&printed).map_err(|cause| Error::failed(what(), cause))?;
    refuse_other_files(path, &told)?;
    let size = told.get("virtual-size").and_then(serde_json::Value::as_u64);
    size.ok_or_else(|| Error::failed(what(), "qemu-img does not tell its size"))
}

/// An image must stand alone: a downloaded one could name any file of the host, which its guest would then read.
fn refuse_other_files(path: &Path, told: &serde_json::Value) -> Result<()> {
    let other = told.get("backing-filename").or_else(|| told.pointer("/format-specific/data/data-file"));
    let Some(other) = other else { return Ok(()) };
    let other: String = other.as_str().unwrap_or_default().escape_debug().take(200).collect();
    let shown = path.display();
    Err(Error::refused(format!("the image {shown} stands on another file, '{other}'"))
        .with_hint(format!("make one file of it: qemu-img convert -O qcow2 {shown} NEW.qcow2")))
}

pub(super) fn clone(
    layout: &Layout,
    source: &Set,
    from: Option<&SnapshotTag>,
    clones: &[NewClone],
    kind: CloneKind,
) -> Result<StoreChange> {
    let mut names = BTreeSet::from([&source.name]);
    let disks: Vec<&str> = source.volumes.iter().map(|volume| volume.name.as_str()).collect();
    for clone in clones {
        layout.check_room(&clone.name, &disks)?;
        refuse_taken(layout, &clone.name)?;
        if !names.insert(&clone.name) {
            return Err(Error::usage(format!("'{}' is named twice", clone.name)));
        }
    }
    let mut draft = Draft::new();
    let bases: Vec<SnapshotName> = match from {
        Some(tag) => snapshot_of(source, tag)?.volumes.iter().map(snapshot_behind).collect::<Result<_>>()?,
        None => {
            let name = draft.hidden(if kind == CloneKind::Full { "copy" } else { "clone" });
            let bases = source.volumes.iter().map(|volume| dataset_of(volume)?.snapshot(&name));
            let bases: Vec<SnapshotName> = bases.collect::<Result<_>>()?;
            bases.iter().for_each(|base| draft.plan.step("snapshot", base, ""));
            draft.work.snapshot = bases.clone();
            if kind == CloneKind::Full {
                draft.work.temporary = bases.clone();
            }
            bases
        }
    };
    if kind == CloneKind::Linked {
        draft.take_in(layout, source)?;
    }
    if kind == CloneKind::Linked || record::read(layout, &source.name)?.is_some() {
        draft.sets.push(source.clone());
    }
    for new in clones {
        let mut clone = new_set(layout, &new.name, new.machine);
        draft.born(layout, &clone)?;
        for (volume, base) in source.volumes.iter().zip(&bases) {
            check_disk(&new.name, &volume.name)?;
            let dataset = layout.volume(&new.name, &volume.name)?;
            let content = match kind {
                CloneKind::Linked => Content::Clone { of: base.clone() },
                CloneKind::Full => Content::Copy { of: base.clone() },
            };
            let verb = if kind == CloneKind::Full { "copy" } else { "clone" };
            draft.plan.step(verb, &dataset, format!("of {base}"));
            let path = device::path(&dataset);
            draft.work.make.push(NewZvol { dataset, machine: new.machine, content });
            clone.volumes.push(Volume {
                path,
                adopted: false,
                format: VolumeFormat::Block,
                ..volume.clone()
            });
        }
        let (name, machine, snapshot) = (source.name.clone(), source.machine, from.cloned());
        clone.origin = (kind == CloneKind::Linked).then_some(Origin { name, machine, snapshot });
        draft.sets.push(clone);
    }
    draft.finish()
}

pub(super) fn snapshot(
    layout: &Layout,
    set: &Set,
    tag: &SnapshotTag,
    consistency: Consistency,
) -> Result<StoreChange> {
    if set.snapshot(tag).is_some() {
        return Err(Error::message(format!("{} already has a snapshot '{tag}'", set.name)));
    }
    if tag.as_str().starts_with(HIDDEN) {
        return Err(Error::usage(format!("the snapshot tag '{tag}' begins with '{HIDDEN}'"))
            .with_hint("kld names its own snapshots so; choose another tag"));
    }
    let mut draft = Draft::new();
    draft.take_in(layout, set)?;
    let datasets = set.volumes.iter().map(dataset_of);
    for dataset in [layout.machine(&set.name)].into_iter().chain(datasets) {
        let shorter = |error: Error| error.with_hint("choose a shorter tag");
        let snapshot = dataset?.snapshot(tag.as_str()).map_err(shorter)?;
        // The volume may become a base, and takes its snapshots along.
        layout.base(draft.work.id, 99)?.snapshot(tag.as_str()).map_err(shorter)?;
        draft.plan.step("snapshot", &snapshot, "");
        draft.work.snapshot.push(snapshot);
    }
    draft.work.tag = Some(tag.clone());
    let mut after = set.clone();
    let volumes = set.volumes.iter().map(|volume| at(volume, tag.as_str())).collect();
    after.snapshots.push(Snapshot { tag: tag.clone(), created: time::now(), consistency, volumes });
    draft.sets.push(after);
    draft.finish()
}

pub(super) fn rollback(layout: &Layout, set: &Set, tag: &SnapshotTag) -> Result<StoreChange> {
    let snapshot = snapshot_of(set, tag)?;
    let mut draft = Draft::new();
    let kept = set.snapshots.iter().position(|known| known.tag == *tag).map_or(0, |at| at + 1);
    let mut after = set.clone();
    let newer = after.snapshots.split_off(kept);
    let state = layout.machine(&set.name)?;
    for (number, volume) in snapshot.volumes.iter().enumerate() {
        let to = snapshot_behind(volume)?;
        refuse_foreign(layout, &to, set)?;
        draft.plan.step("roll back", to.dataset(), format!("to @{}", to.name()));
        let aside = layout.base(draft.work.id, number)?;
        draft.work.back.push(Back { to, aside });
    }
    for newer in &newer {
        draft.work.drop.push(state.snapshot(newer.tag.as_str())?);
        draft.work.folders.push((set.name.clone(), snapshot_folder(&newer.tag)));
    }
    draft.sets.push(after);
    draft.finish()
}

/// Others take snapshots of our volumes too (sanoid, a person): going back past one of them would destroy it.
fn refuse_foreign(layout: &Layout, to: &SnapshotName, set: &Set) -> Result<()> {
    let dataset = to.dataset();
    let of = [dataset.as_str()];
    let listing = Listing { of: &of, kinds: Kinds::Snapshots, depth: Some(1), columns: &["createtxg"] };
    let rows = layout.engine.list(&listing)?;
    let newer = rows.iter().skip_while(|row| row.name != to.as_str()).skip(1);
    let ours = |name: &str| {
        name.starts_with(HIDDEN) || set.snapshots.iter().any(|snapshot| snapshot.tag.as_str() == name)
    };
    let names = newer.map(|row| row.name.split_once('@').map_or("", |(_, name)| name));
    let foreign: Vec<&str> = names.filter(|name| !ours(name)).collect();
    if foreign.is_empty() {
        return Ok(());
    }
    let (count, first) = (foreign.len(), foreign[0]);
    Err(Error::refused(format!(
        "going back would lose {count} snapshots of {dataset} that kld did not take, such as @{first}"
    ))
    .with_hint(format!("destroy them first: zfs destroy {dataset}@{first}%{}", foreign[count - 1])))
}

pub(super) fn drop_snapshot(layout: &Layout, set: &Set, tag: &SnapshotTag) -> Result<StoreChange> {
    let snapshot = snapshot_of(set, tag)?;
    let mut draft = Draft::new();
    let volumes = snapshot.volumes.iter().map(snapshot_behind);
    for name in [layout.machine(&set.name)?.snapshot(tag.as_str())].into_iter().chain(volumes) {
        let name = name?;
        draft.plan.step("destroy", &name, "");
        draft.work.drop.push(name);
    }
    draft.work.folders.push((set.name.clone(), snapshot_folder(tag)));
    let mut after = set.clone();
    after.snapshots.retain(|snapshot| snapshot.tag != *tag);
    draft.sets.push(after);
    draft.finish()
}

/// What each dataset stands on.
fn origins(layout: &Layout, datasets: &[DatasetName]) -> Result<Vec<SnapshotName>> {
    let of: Vec<&str> = datasets.iter().map(DatasetName::as_str).collect();
    let listing = Listing { of: &of, kinds: Kinds::Volumes, depth: Some(0), columns: &["origin"] };
    let rows = layout.engine.list(&listing)?;
    rows.iter().filter_map(|row| row.text(0)).map(SnapshotName::parse).collect()
}

fn own(set: &Set) -> Result<Vec<DatasetName>> {
    set.volumes.iter().filter(|volume| !volume.adopted).map(dataset_of).collect()
}

/// Hidden snapshots that are given up when what stands on them goes: they go with the last clone.
fn hidden_origins(layout: &Layout, datasets: &[DatasetName]) -> Result<Vec<SnapshotName>> {
    Ok(origins(layout, datasets)?.into_iter().filter(|origin| origin.name().starts_with(HIDDEN)).collect())
}

pub(super) fn promote(layout: &Layout, set: &Set) -> Result<StoreChange> {
    let mut draft = Draft::new();
    let name = draft.hidden("copy");
    draft.work.drop = hidden_origins(layout, &own(set)?)?;
    for (number, volume) in set.volumes.iter().enumerate().filter(|(_, volume)| !volume.adopted) {
        let dataset = dataset_of(volume)?;
        draft.plan.step("copy", &dataset, "so that it stands alone");
        let (copy, aside) =
            (layout.base(draft.work.id, 2 * number)?, layout.base(draft.work.id, 2 * number + 1)?);
        let last = dataset.snapshot(&name)?;
        draft.work.alone.push(Alone { dataset, machine: set.machine, last, copy, aside });
    }
    draft.sets.push(Set { origin: None, ..set.clone() });
    draft.finish()
}

pub(super) fn delete(layout: &Layout, set: &Set) -> Result<StoreChange> {
    let mut draft = Draft::new();
    let (state, own) = (layout.machine(&set.name)?, own(set)?);
    let listing =
        Listing { of: &[state.as_str()], kinds: Kinds::Datasets, depth: None, columns: &["type", "origin"] };
    for row in layout.engine.list(&listing)? {
        let name = DatasetName::parse(&row.name).ok();
        if name.as_ref() != Some(&state) && !name.is_some_and(|name| own.contains(&name)) {
            let shown: String = row.name.escape_debug().collect();
            return Err(Error::refused(format!("{shown} is below {state}, and kld did not make it"))
                .with_hint("move it away (zfs rename) or destroy it yourself, then try again"));
        }
        draft.plan.step("destroy", &row.name, "");
        if let Some(origin) = row.text(1) {
            let origin = SnapshotName::parse(origin)?;
            if origin.name().starts_with(HIDDEN) {
                draft.work.drop.push(origin);
            }
        }
    }
    let mut places = Vec::new();
    for (number, dataset) in own.into_iter().enumerate() {
        places.push((dataset, layout.base(draft.work.id, number)?));
    }
    let adopted =
        set.volumes.iter().filter(|volume| volume.adopted).map(dataset_of).collect::<Result<_>>()?;
    let tags = set.snapshots.iter().map(|snapshot| snapshot.tag.clone()).collect();
    draft.work.gone.push(Gone { name: set.name.clone(), machine: set.machine, own: places, adopted, tags });
    draft.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_names_other_files_is_refused() {
        let told =
            |text: &str| refuse_other_files(Path::new("/x.qcow2"), &serde_json::from_str(text).unwrap());
        let backed = told(r#"{"virtual-size": 1, "backing-filename": "/etc/shadow"}"#).unwrap_err();
        assert!(matches!(backed, Error::Refused { .. }));
        assert_eq!(backed.to_string(), "the image /x.qcow2 stands on another file, '/etc/shadow'");
        told(r#"{"format-specific": {"type": "qcow2", "data": {"data-file": "/etc/shadow"}}}"#).unwrap_err();
        told(r#"{"virtual-size": 1, "format-specific": {"type": "qcow2", "data": {"compat": "1.1"}}}"#)
            .unwrap();
    }
}
