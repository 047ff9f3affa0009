use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use kld_core::store::{Set, Space};
use kld_core::{ByteSize, Result};

use super::layout::Layout;
use super::reach::Reach;
use super::record::Record;
use super::told;

/// The space of a set. Each file is counted once: as shared where another set reaches it too or kld would never
/// remove it, else as used at the top of a disk and as a snapshot's below.
pub(super) fn space(layout: &Layout, set: &Set) -> Result<Space> {
    let own = Record::read(layout, &set.name)?;
    let records = Record::read_all(layout)?;
    let mine = Reach::of([set], &[]).map_err(told)?;
    // Of others whose disks cannot be read nothing is known, and that is no reason to say nothing of this one.
    let others: Vec<Reach> = records
        .iter()
        .filter(|record| record.set.name != set.name)
        .filter_map(|record| Reach::of([&record.set], &[]).ok())
        .collect();

    let (mut used, mut shared, mut snapshots) = (0, 0, 0);
    let mut seen = HashSet::new();
    for (number, chain) in mine.chains(&set.name).enumerate() {
        for (depth, image) in chain.iter().enumerate() {
            if !seen.insert(image.id) {
                continue;
            }
            let top = depth == 0 && number < set.volumes.len();
            let kept = !layout.is_ours(&image.path);
            if kept || others.iter().any(|other| other.get(image.id).is_some()) {
                shared += image.allocated;
            } else if top {
                used += image.allocated;
            } else {
                snapshots += image.allocated;
            }
        }
    }
    let files = own.map(|record| record.files).unwrap_or_default();
    let well_known = ["set.json", "nvram.fd"].map(Path::new);
    let unlisted = well_known.into_iter().filter(|file| !files.iter().any(|known| known == file));
    for file in files.iter().map(|file| file.as_path()).chain(unlisted) {
        used += layout.machine(&set.name).join(file).symlink_metadata().map_or(0, |meta| meta.blocks() * 512);
    }
    Ok(Space {
        used: ByteSize::new(used),
        shared: ByteSize::new(shared),
        snapshots: ByteSize::new(snapshots),
    })
}
