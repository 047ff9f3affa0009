use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use kld_core::store::{Set, Space};
use kld_core::{ByteSize, Result};

use super::layout::Layout;
use super::reach::Reach;
use super::record::Record;
use super::told;

/// The space of sets, with one look at the disks of all. Each file of a set is counted once: as shared where
/// another set reaches it too or kld would never remove it, else as used at the top of a disk and as its snapshots'
/// below.
pub(super) fn spaces(layout: &Layout, sets: &[Set]) -> Result<Vec<Space>> {
    let records = Record::read_all(layout)?;
    // Of others whose disks cannot be read nothing is known, and that is no reason to say nothing of these.
    let all = Reach::of_readable(records.iter().map(|record| &record.set));
    sets.iter().map(|set| space(layout, set, &all, &records)).collect()
}

fn space(layout: &Layout, set: &Set, all: &Reach, records: &[Record]) -> Result<Space> {
    // Read again, because the caller's set may be newer than its record, or have none.
    let mine = Reach::of([set], &[]).map_err(told)?;
    let (mut used, mut shared, mut snapshots) = (0, 0, 0);
    let mut seen = HashSet::new();
    for (number, chain) in mine.chains(&set.name).enumerate() {
        for (depth, image) in chain.iter().enumerate() {
            if !seen.insert(image.id) {
                continue;
            }
            let others = all.get(image.id).is_some_and(|reached| reached.by.iter().any(|by| *by != set.name));
            if others || !layout.is_ours(&image.path) {
                shared += image.allocated;
            } else if depth == 0 && number < set.volumes.len() {
                used += image.allocated;
            } else {
                snapshots += image.allocated;
            }
        }
    }
    let record = records.iter().find(|record| record.set.name == set.name);
    let files = record.map_or(&[][..], |record| &record.files).iter().map(|file| file.as_path());
    let state: HashSet<&Path> = files.chain(["set.json", "nvram.fd"].map(Path::new)).collect();
    for file in state {
        used += layout.machine(&set.name).join(file).symlink_metadata().map_or(0, |meta| meta.blocks() * 512);
    }
    Ok(Space {
        used: ByteSize::new(used),
        shared: ByteSize::new(shared),
        snapshots: ByteSize::new(snapshots),
    })
}
