//! `set.json` in a machine's state dataset: the set, as it was committed. It travels with the machine.

use kld_core::store::Set;
use kld_core::{Error, MachineName, Result, fsio};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::NAME;
use super::layout::Layout;
use crate::engine::{Kinds, Listing};
use crate::mounts::{self, Mounts};
use crate::{DatasetName, pool};

/// The version of records that this program writes, and the newest that it reads.
const VERSION: u32 = 1;
const LARGEST: u64 = 16 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    store: String,
    set: Set,
}

/// The set of a machine, if it has one that was committed.
pub(super) fn read(layout: &Layout, name: &MachineName) -> Result<Option<Set>> {
    let dataset = layout.machine(name)?;
    pool::guard(&dataset)?;
    if !Mounts::read()?.has(&dataset, &layout.state_dir(name)) {
        if !layout.engine.exists(dataset.as_str())? {
            return Ok(None);
        }
        let of = [dataset.as_str()];
        if machines(layout, &of, 0)?.is_empty() {
            return Ok(None);
        }
        mounts::mount(&dataset, &layout.state_dir(name))?;
    }
    read_mounted(layout, name)
}

/// Every set that was committed, by name.
pub(super) fn read_all(layout: &Layout) -> Result<Vec<Set>> {
    pool::guard(&layout.root)?;
    let mounted = Mounts::read()?;
    let mut sets = Vec::new();
    for (name, dataset, _) in machines(layout, &[layout.root.as_str()], 1)? {
        let place = layout.state_dir(&name);
        if !mounted.has(&dataset, &place) {
            mounts::mount(&dataset, &place)?;
        }
        sets.extend(read_mounted(layout, &name)?);
    }
    sets.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(sets)
}

/// The state datasets that kld made. A file system without our mark is somebody else's: it is not even mounted.
fn machines(layout: &Layout, of: &[&str], depth: u32) -> Result<Vec<(MachineName, DatasetName, Uuid)>> {
    let listing =
        Listing { of, kinds: Kinds::Filesystems, depth: Some(depth), columns: &["org.kld:machine"] };
    let ours = layout.engine.list(&listing)?.into_iter().filter_map(|row| {
        let dataset = DatasetName::parse(&row.name).ok()?;
        if dataset.parent()? != layout.root {
            return None;
        }
        Some((MachineName::parse(dataset.leaf()).ok()?, dataset, row.text(0)?.parse().ok()?))
    });
    Ok(ours.collect())
}

fn read_mounted(layout: &Layout, name: &MachineName) -> Result<Option<Set>> {
    let path = layout.record(name);
    let Some(text) = fsio::read_text(&path, LARGEST)? else { return Ok(None) };
    let set = parse(&text)
        .map_err(|cause| Error::failed(format!("cannot use the record {}", path.display()), cause))?;
    if set.name != *name {
        // The dataset was renamed, or copied by hand.
        return Err(Error::failed(
            format!("cannot use the record {}", path.display()),
            format!("it is the one of {}", set.name),
        ));
    }
    Ok(Some(Set { state_dir: layout.state_dir(name), ..set }))
}

fn parse(text: &str) -> std::result::Result<Set, String> {
    /// What every version of a record has.
    #[derive(Deserialize)]
    struct Maker {
        version: u32,
        store: String,
    }
    let maker: Maker = serde_json::from_str(text).map_err(|cause| cause.to_string())?;
    if maker.store != NAME {
        let store: String = maker.store.escape_debug().take(40).collect();
        return Err(format!("it is one of the store '{store}'"));
    }
    if maker.version > VERSION || maker.version == 0 {
        return Err(format!("it has version {}, and the versions up to {VERSION} are known", maker.version));
    }
    serde_json::from_str::<Record>(text).map(|record| record.set).map_err(|cause| cause.to_string())
}

/// Writes the set down, unless it is so already. It is on the disk when its folder has been synced.
pub(super) fn write(layout: &Layout, set: &Set) -> Result<()> {
    if read_mounted(layout, &set.name).ok().flatten().as_ref() == Some(set) {
        return Ok(());
    }
    let record = Record { version: VERSION, store: NAME.to_string(), set: set.clone() };
    let text = serde_json::to_vec_pretty(&record)
        .map_err(|cause| Error::failed(format!("cannot write the record of {}", set.name), cause))?;
    layout.deed()?;
    fsio::replace(&layout.record(&set.name), &text, 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_that_cannot_be_used_are_told_apart() {
        let said = |text: &str| parse(text).unwrap_err();
        insta::assert_snapshot!(said(r#"{"version": 2, "store": "zfs"}"#), @"it has version 2, and the versions up to 1 are known");
        insta::assert_snapshot!(said(r#"{"version": 1, "store": "dir"}"#), @"it is one of the store 'dir'");
        assert!(said("").contains("EOF"));
    }

    proptest::proptest! {
        #[test]
        fn foreign_text_never_panics(text in ".{0,200}") {
            let _ = parse(&text);
        }
    }
}
