//! Whose a dataset or snapshot is: which machine it belongs to, and which change made it.

use kld_core::Result;
use uuid::Uuid;

use super::layout::Layout;
use crate::engine::{Failure, Kind, Kinds, Listing, Outcome, Property};
use crate::{DatasetName, SnapshotName};

/// The marks of what a change makes.
pub(super) fn marks(machine: Uuid, change: Uuid) -> [Property; 2] {
    [
        Property::User("org.kld:machine", machine.to_string()),
        Property::User("org.kld:change", change.to_string()),
    ]
}

/// The change that made a dataset or snapshot, where kld did and it is there.
pub(super) fn maker(layout: &Layout, name: &str, kinds: Kinds) -> Result<Option<Uuid>> {
    let of = [name];
    let rows =
        layout.engine.list(&Listing { of: &of, kinds, depth: Some(0), columns: &["org.kld:change"] })?;
    Ok(rows.first().and_then(|row| row.text(0)).and_then(|id| id.parse().ok()))
}

/// Whose a machine's state dataset is.
pub(super) fn owner(layout: &Layout, dataset: &DatasetName) -> Result<Option<Uuid>> {
    let of = [dataset.as_str()];
    let listing =
        Listing { of: &of, kinds: Kinds::Filesystems, depth: Some(0), columns: &["org.kld:machine"] };
    let rows = layout.engine.list(&listing)?;
    Ok(rows.first().and_then(|row| row.text(0)).and_then(|id| id.parse().ok()))
}

/// Those of some snapshots that this change has taken.
pub(super) fn ours(layout: &Layout, names: &[SnapshotName], id: Uuid) -> Result<Vec<SnapshotName>> {
    let of: Vec<&str> = names.iter().map(SnapshotName::as_str).collect();
    let listing = Listing { of: &of, kinds: Kinds::Snapshots, depth: Some(0), columns: &["org.kld:change"] };
    let rows = layout.engine.list(&listing)?.into_iter();
    let made = rows.filter(|row| row.text(0).and_then(|made| made.parse().ok()) == Some(id));
    made.map(|row| SnapshotName::parse(&row.name)).collect()
}

/// Lets a thing be there already that this change made before; a stranger's is an error.
pub(super) fn or_ours(layout: &Layout, done: Outcome, name: &str, kinds: Kinds, id: Uuid) -> Result<()> {
    match done {
        Err(Failure { kind: Kind::Exists, error }) => match maker(layout, name, kinds)? {
            Some(found) if found == id => Ok(()),
            _ => Err(error.with_hint("kld did not make it for this machine; destroy or rename it yourself")),
        },
        other => Ok(other?),
    }
}
