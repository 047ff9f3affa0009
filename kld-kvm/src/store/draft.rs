use std::collections::HashSet;
use std::path::Path;

use kld_core::plan::Step;
use kld_core::store::{Repoint, Set, StoreChange, Volume, VolumeFormat};
use kld_core::{ByteSize, Error, MachineName, Result};

use super::layout::Layout;
use super::reach::{Reach, Reached, all_volumes};
use super::record::Record;
use super::work::{Content, Layer, Merge, NewFile, Work, disk_format, volume_format};
use super::{NAME, told};
use crate::image::{self, FileId, Image, MAX_CHAIN, chain_as};

/// A change while it is being computed.
pub(super) struct Draft<'a> {
    pub layout: &'a Layout,
    pub work: Work,
    steps: Vec<Step>,
    repoints: Vec<Repoint>,
    /// The volumes that are made, by set and name.
    disks: Vec<(MachineName, String)>,
}

/// A file on which overlays can be put.
pub(super) struct Base {
    pub layer: Layer,
    /// What the overlays' guests see.
    pub size: u64,
    /// The length of its chain.
    depth: usize,
}

impl Base {
    /// The base that a snapshot's volume is.
    pub(super) fn of(volume: &Volume) -> Result<Base> {
        let chain = chain_as(&volume.path, disk_format(volume.format)).map_err(told)?;
        Ok(Base::at(&chain, 0, volume.size.bytes()))
    }

    /// The base `depth` files below the top of a chain, for overlays of this size.
    pub(super) fn at(chain: &[Image], depth: usize, size: u64) -> Base {
        let image = &chain[depth];
        let layer = Layer { path: image.path.clone(), format: volume_format(image.disk_format()) };
        Base { layer, size, depth: chain.len() - depth }
    }
}

impl<'a> Draft<'a> {
    pub(super) fn new(layout: &'a Layout) -> Self {
        Draft {
            layout,
            work: Work::new(layout.root()),
            steps: Vec::new(),
            repoints: Vec::new(),
            disks: Vec::new(),
        }
    }

    pub(super) fn step(&mut self, verb: &str, object: impl ToString, detail: impl ToString) {
        let (object, detail) = (object.to_string(), detail.to_string());
        self.steps.push(Step { verb: verb.to_string(), object, detail });
    }

    /// A new set: nothing may be recorded under its name.
    pub(super) fn born(&mut self, name: &MachineName) -> Result<()> {
        if self.work.born.contains(name) {
            return Err(Error::usage(format!("{name} is named twice")));
        }
        if Record::read(self.layout, name)?.is_some() {
            return Err(Error::message(format!("the store has a machine {name} already"))
                .with_hint("choose another name, or delete that one with kvm-delete"));
        }
        self.work.born.push(name.clone());
        Ok(())
    }

    /// A new overlay on `base`.
    pub(super) fn overlay(&mut self, set: &MachineName, disk: &str, base: &Base) -> Result<Volume> {
        if base.depth >= MAX_CHAIN {
            return Err(Error::failed(
                format!("cannot put another overlay on {}", base.layer.path.display()),
                format!("it stands on a chain of {} files, and {MAX_CHAIN} is the limit", base.depth),
            )
            .with_hint("make a full clone, which stands alone, and go on with that"));
        }
        let content = Content::Overlay { base: base.layer.clone(), size: base.size };
        self.make(set, disk, content, base.size, format!("overlay on {}", base.layer.path.display()))
    }

    /// A new empty volume.
    pub(super) fn empty(&mut self, set: &MachineName, disk: &str, size: u64) -> Result<Volume> {
        let detail = format!("empty, {}", ByteSize::new(size));
        self.make(set, disk, Content::Empty { size }, size, detail)
    }

    /// A new volume that holds all that `from` and its chain hold, grown to `size` where it is larger.
    pub(super) fn copy(&mut self, set: &MachineName, disk: &str, from: &Image, size: u64) -> Result<Volume> {
        let layer = Layer { path: from.path.clone(), format: volume_format(from.disk_format()) };
        let grown = (size > from.virtual_size).then_some(size);
        let detail = format!("copy of {}, {}", from.path.display(), ByteSize::new(size));
        self.make(set, disk, Content::Copy { from: layer, size: grown }, size, detail)
    }

    fn make(
        &mut self,
        set: &MachineName,
        disk: &str,
        content: Content,
        size: u64,
        detail: String,
    ) -> Result<Volume> {
        let twice = |(owner, name): &(MachineName, String)| owner == set && name == disk;
        if self.disks.iter().any(twice) {
            return Err(Error::usage(format!("the disk {disk} of {set} is named twice")));
        }
        let path = self.layout.new_volume(set, disk)?;
        self.disks.push((set.clone(), disk.to_string()));
        self.step("create", path.display(), detail);
        self.work.make.push(NewFile { path: path.clone(), content });
        // A guest's disk has whole sectors, and qcow2 rounds up.
        let size = ByteSize::new(size.next_multiple_of(512));
        Ok(Volume { name: disk.to_string(), path, format: VolumeFormat::Qcow2, size, adopted: false })
    }

    /// From now on `path` is a base and read only.
    pub(super) fn freeze(&mut self, path: &Path) {
        let ours = self.layout.is_ours(path);
        let detail = if ours { "becomes a read-only base" } else { "becomes a base: it must not be written" };
        self.step("freeze", path.display(), detail);
        if ours {
            self.work.freeze.push(path.to_path_buf());
        }
    }

    /// A volume of an existing machine is now elsewhere.
    pub(super) fn repoint(&mut self, set: &MachineName, volume: &Volume) {
        self.step("repoint", format!("{} of {set}", volume.name), format!("to {}", volume.path.display()));
        self.repoints.push(Repoint { set: set.clone(), volume: volume.clone() });
    }

    /// The snapshot is dropped, with the state files that belong to it.
    pub(super) fn forget_snapshot(&mut self, set: &Set, tag: &kld_core::SnapshotTag) -> Result<()> {
        self.step("forget", format!("snapshot {tag} of {}", set.name), "");
        let folder = Path::new("snapshots").join(tag);
        if let Some(record) = Record::read(self.layout, &set.name)? {
            let files = record.files.into_iter().filter(|file| file.starts_with(&folder));
            self.work.forget.extend(files.map(|file| (set.name.clone(), file)));
        }
        Ok(())
    }

    /// Says what becomes of the files that `before` reached, and notes them for collection; with `merge`, layers
    /// that only this machine's disks stand on are merged into what stands on them. `after` is the set as it
    /// will be, or nothing.
    pub(super) fn settle(&mut self, before: &Set, after: Option<&Set>, merge: bool) -> Result<()> {
        let mut chains = Vec::new();
        for volume in all_volumes(before) {
            match chain_as(&volume.path, disk_format(volume.format)) {
                Ok(chain) => chains.push(chain),
                Err(error) if after.is_some() => return Err(told(error)),
                // A set whose files were damaged can still be deleted; what is below the damage then stays.
                Err(_) if self.layout.is_ours(&volume.path) && volume.path.symlink_metadata().is_ok() => {
                    self.step("remove", volume.path.display(), "it cannot be read");
                    self.work.candidates.push(volume.path.clone());
                }
                Err(_) => {}
            }
        }
        let mut seen = HashSet::new();
        let files: Vec<(&Image, bool)> = chains
            .iter()
            .flat_map(|chain| chain.iter().enumerate())
            .filter(|(_, image)| seen.insert(image.id))
            .map(|(depth, image)| (image, depth == 0))
            .collect();

        let others = Record::read_all(self.layout);
        let others: Option<Vec<Set>> =
            others.ok().map(|records| records.into_iter().map(|it| it.set).collect());
        let reach = others.and_then(|others| {
            let sets = others.iter().filter(|other| other.name != before.name).chain(after);
            Reach::of(sets, &self.work.make).ok()
        });
        let mut fates = Fates::default();
        if let (Some(reach), Some(after), true) = (&reach, after, merge) {
            self.merge(reach, after, &mut fates)?;
        }
        for (image, named_before) in files {
            let path = image.path.display();
            if !self.layout.is_ours(&image.path) {
                if named_before && reach.as_ref().is_some_and(|reach| reach.get(image.id).is_none()) {
                    self.step("keep", path, "it was there before kld");
                }
                continue;
            }
            self.work.candidates.push(image.path.clone());
            match reach.as_ref().map(|reach| reach.get(image.id)) {
                None => self.step(
                    "keep",
                    path,
                    "the disks of another machine cannot be read, and may stand on it",
                ),
                Some(None) => self.step("remove", path, ""),
                Some(Some(_)) if fates.merged.contains(&image.id) => {}
                Some(Some(reached)) if !reached.named && (named_before || merge) => {
                    let others: Vec<&MachineName> =
                        reached.by.iter().filter(|by| **by != before.name).collect();
                    match others[..] {
                        [] if merge => self.step("keep", path, fates.why_kept(image.id, reached)),
                        [] => {}
                        [one] => self.step("keep", path, format!("{one} stands on it")),
                        [one, ..] => {
                            let more = others.len() - 1;
                            self.step("keep", path, format!("{one} and {more} more stand on it"));
                        }
                    }
                }
                Some(Some(_)) => {}
            }
        }
        Ok(())
    }

    /// Finds the layers that only this set reaches, that nothing names, and on which exactly one file stands.
    fn merge(&mut self, reach: &Reach, after: &Set, fates: &mut Fates) -> Result<()> {
        let alone = |image: &Image| {
            self.layout.is_ours(&image.path)
                && reach.get(image.id).is_some_and(|reached| reached.by.len() == 1)
        };
        let between = |image: &Image| {
            alone(image) && reach.get(image.id).is_some_and(|it| !it.named && it.above.len() == 1)
        };
        let mut merges = Vec::new();
        for chain in reach.chains(&after.name) {
            let mut at = 0;
            while at < chain.len() {
                let child = &chain[at];
                let layers = chain[at + 1..].iter().take_while(|image| between(image)).count();
                let (layers, next) = (&chain[at + 1..at + 1 + layers], at + 1 + layers);
                let known = layers.iter().all(|layer| fates.merged.contains(&layer.id));
                if known || !alone(child) {
                    // Nothing to merge, seen from another volume before, or not ours to change.
                } else if any_in_use(&chain[at..next])? {
                    fates.open.extend(layers.iter().map(|layer| layer.id));
                } else {
                    fates.merged.extend(layers.iter().map(|layer| layer.id));
                    let current = after.volumes.iter().any(|volume| volume.path == child.path);
                    merges.push(Merge {
                        child: child.path.clone(),
                        frozen: !current,
                        onto: chain.get(next).map(|image| Base::at(chain, next, image.virtual_size).layer),
                        layers: layers.iter().map(|layer| layer.path.clone()).collect(),
                    });
                }
                at = next;
            }
        }
        for merge in &merges {
            for layer in &merge.layers {
                self.step("merge", layer.display(), format!("into {}", merge.child.display()));
            }
        }
        self.work.merge = merges;
        Ok(())
    }

    pub(super) fn finish(self, sets: Vec<Set>) -> Result<StoreChange> {
        let inner = self.work.to_value()?;
        let merged = self.work.merge.iter().flat_map(|merge| merge.layers.iter().chain([&merge.child]));
        let frees = self.work.candidates.iter().chain(merged).cloned().collect();
        let (store, repoints) = (NAME.to_string(), self.repoints);
        Ok(StoreChange { store, steps: self.steps, sets, repoints, frees, inner })
    }
}

/// What becomes of the layers that no set names any more.
#[derive(Default)]
struct Fates {
    merged: HashSet<FileId>,
    /// Not merged, since they or what stands on them are in use.
    open: HashSet<FileId>,
}

impl Fates {
    fn why_kept(&self, layer: FileId, reached: &Reached) -> &'static str {
        if self.open.contains(&layer) {
            "a running machine has it open"
        } else if reached.above.len() > 1 {
            "several disks of the machine stand on it"
        } else {
            "what stands on it was there before kld"
        }
    }
}

fn any_in_use(images: &[Image]) -> Result<bool> {
    for image in images {
        if image::in_use(&image.path).map_err(told)? {
            return Ok(true);
        }
    }
    Ok(false)
}
