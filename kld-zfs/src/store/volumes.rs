//! Snapshots taken, volumes made and filled.

use std::collections::BTreeSet;
use std::time::Duration;

use kld_core::exec::Exec;
use kld_core::store::Moment;
use kld_core::{ByteSize, Error, MachineName, Result};

use super::destroy::patiently;
use super::layout::Layout;
use super::marker::Marker;
use super::marks::or_ours;
use super::plan::BLOCK;
use super::root::uninherited;
use super::work::{Born, Content, NewZvol, Work};
use crate::DatasetName;
use crate::engine::{Failure, Forgive, Kind, Kinds, Outcome, Property};
use crate::held::Held;

/// Copying an image.
const COPYING: Duration = Duration::from_secs(24 * 3600);

/// Takes the snapshots, and says so just before: a hypervisor may be asked first whether the machine runs.
pub(super) fn take(layout: &Layout, work: &Work, moment: Moment, now: &mut dyn FnMut()) -> Result<()> {
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

pub(super) fn exists(dataset: &DatasetName) -> Outcome {
    let error = Error::failed(format!("cannot create {dataset}"), "it is there already");
    Err(Failure { kind: Kind::Exists, error })
}

/// The machines among the born ones whose disks are filled from images.
pub(super) fn filled_sets(layout: &Layout, work: &Work) -> Vec<MachineName> {
    let from_images = work.make.iter().filter(|new| matches!(new.content, Content::Image { .. }));
    let parents: BTreeSet<_> = from_images.filter_map(|new| new.dataset.parent()).collect();
    let of_image = |born: &&Born| layout.machine(&born.name).is_ok_and(|state| parents.contains(&state));
    work.born.iter().filter(of_image).map(|born| born.name.clone()).collect()
}

pub(super) fn fill(layout: &Layout, work: &Work, new: &NewZvol) -> Result<()> {
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
