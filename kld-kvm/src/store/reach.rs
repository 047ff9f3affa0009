use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;

use kld_core::MachineName;
use kld_core::store::{Set, Volume};

use super::work::{Content, NewFile, disk_format};
use crate::image::{FileId, Image, ImageError, chain_as};

/// Which files a number of sets reach, through the backing chains as they are on the disk.
pub(super) struct Reach {
    files: HashMap<FileId, Reached>,
    chains: Vec<(MachineName, Vec<Image>)>,
}

/// A file that some set reaches.
#[derive(Default)]
pub(super) struct Reached {
    /// The sets that reach it.
    pub by: BTreeSet<MachineName>,
    /// True where a set or a snapshot names it as a volume; else it is only stood on.
    pub named: bool,
    /// The files that stand directly on it.
    pub above: HashSet<FileId>,
}

impl Reach {
    /// Follows every volume of every set and of its snapshots. `planned` files need not be there yet.
    ///
    /// # Errors
    /// The first chain that cannot be read: then nobody can say what is useless.
    pub(super) fn of<'a>(
        sets: impl IntoIterator<Item = &'a Set>,
        planned: &[NewFile],
    ) -> Result<Reach, ImageError> {
        let mut reach = Reach { files: HashMap::new(), chains: Vec::new() };
        for set in sets {
            for volume in all_volumes(set) {
                reach.follow(&set.name, volume, planned)?;
            }
        }
        Ok(reach)
    }

    /// The same for those sets whose chains can all be read; the others are left out.
    pub(super) fn of_readable<'a>(sets: impl IntoIterator<Item = &'a Set>) -> Reach {
        let mut all = Reach { files: HashMap::new(), chains: Vec::new() };
        for set in sets {
            let Ok(one) = Reach::of([set], &[]) else { continue };
            for (id, reached) in one.files {
                all.files.entry(id).or_default().by.extend(reached.by);
            }
            all.chains.extend(one.chains);
        }
        all
    }

    fn follow(&mut self, set: &MachineName, volume: &Volume, planned: &[NewFile]) -> Result<(), ImageError> {
        let planned = planned.iter().find(|file| file.path == volume.path).map(|file| &file.content);
        let (chain, named) = match planned {
            Some(Content::Overlay { base, .. }) => (chain_as(&base.path, disk_format(base.format))?, false),
            Some(Content::Empty { .. } | Content::Copy { .. }) => return Ok(()),
            None => (chain_as(&volume.path, disk_format(volume.format))?, true),
        };
        for (depth, image) in chain.iter().enumerate() {
            let reached = self.files.entry(image.id).or_default();
            reached.named |= named && depth == 0;
            reached.above.extend(depth.checked_sub(1).map(|above| chain[above].id));
            if !reached.by.contains(set) {
                reached.by.insert(set.clone());
            }
        }
        self.chains.push((set.clone(), chain));
        Ok(())
    }

    pub(super) fn get(&self, file: FileId) -> Option<&Reached> {
        self.files.get(&file)
    }

    /// The chains of one set: of its volumes, then of its snapshots'.
    pub(super) fn chains(&self, set: &MachineName) -> impl Iterator<Item = &[Image]> {
        self.chains.iter().filter(move |(name, _)| name == set).map(|(_, chain)| chain.as_slice())
    }
}

/// The volumes of a set, and those of its snapshots.
pub(super) fn all_volumes(set: &Set) -> impl Iterator<Item = &Volume> {
    set.volumes.iter().chain(set.snapshots.iter().flat_map(|snapshot| &snapshot.volumes))
}

/// Which file a path means, without following a link.
pub(super) fn file_id(path: &Path) -> Option<FileId> {
    use std::os::unix::fs::MetadataExt;
    let meta = path.symlink_metadata().ok()?;
    Some(FileId { device: meta.dev(), inode: meta.ino() })
}
