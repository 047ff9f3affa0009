//! The dataset below which the store keeps everything, and what volumes inherit from it.

use kld_core::{Error, MachineName, Result};

use super::layout::Layout;
use super::work::{Content, NewZvol, Work};
use crate::DatasetName;
use crate::engine::{Forgive, Kinds, Listing, Property};

/// How every volume appears on the host. They inherit it: each property that is set on a volume costs a transaction
/// group of its own.
pub(super) const OF_ROOT: [Property; 2] = [Property::VolmodeDev, Property::SnapdevHidden];

/// What volumes cannot inherit, as the root is a pool's, where others' volumes would too.
pub(super) fn uninherited(layout: &Layout) -> &'static [Property] {
    if layout.root.parent().is_some() { &[] } else { &OF_ROOT }
}

/// Makes the store's root where it is missing, and has volumes inherit from it what they need. Once a machine of the
/// store is cloned, that has been done.
pub(super) fn prepare(layout: &Layout, work: &Work) -> Result<()> {
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
pub(super) fn is_of_the_store(layout: &Layout, volume: &DatasetName) -> bool {
    let Some(state) = volume.parent().filter(|state| state.parent().as_ref() == Some(&layout.root)) else {
        return false;
    };
    let machine = MachineName::parse(state.leaf());
    machine.is_ok_and(|name| layout.record(&name).symlink_metadata().is_ok())
}

/// What is set on the root, others' volumes below it would inherit too, and their devices would be made anew.
pub(super) fn refuse_root_of_others(layout: &Layout) -> Result<()> {
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
pub(super) fn ensure(layout: &Layout, place: &DatasetName) -> Result<()> {
    if layout.engine.exists(place.as_str())? {
        return Ok(());
    }
    layout.deed()?;
    layout.engine.create_filesystem(place, &[Property::Mountpoint("none".to_string())]).or_exists()
}
