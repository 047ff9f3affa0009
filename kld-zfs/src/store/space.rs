//! The space that sets take, from one listing.

use std::collections::BTreeMap;

use kld_core::exec::Exec;
use kld_core::store::{Set, Space};
use kld_core::{ByteSize, Error, Result};

use super::layout::{HIDDEN, Layout};
use crate::engine::{Kinds, Listing};
use crate::parse::Row;
use crate::{PoolName, device, pool};

const COLUMNS: &[&str] = &["usedbydataset", "usedbysnapshots", "referenced", "written", "clones", "used"];

/// What a pool has still to free of what was destroyed.
pub(super) fn freeing(pool: &PoolName) -> Result<ByteSize> {
    pool::guard_pool(pool)?;
    let freeing =
        Exec::new("zpool").args(["get", "-H", "-p", "-o", "value", "freeing", pool.as_str()]).run()?;
    let text = String::from_utf8_lossy(&freeing.stdout).trim().to_string();
    let number = text.parse().map_err(|_| Error::failed("cannot read what zpool printed", text));
    number.map(ByteSize::new)
}

/// One dataset's account.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Account {
    used: u64,
    shared: u64,
    snapshots: u64,
}

pub(super) fn spaces(layout: &Layout, sets: &[Set]) -> Result<Vec<Space>> {
    pool::guard(&layout.root)?;
    let mut of: Vec<String> = Vec::new();
    match sets {
        // Each machine by its name, where few are asked for.
        [one] => of.push(layout.machine(&one.name)?.to_string()),
        _ => of.push(layout.root.to_string()),
    }
    let adopted = sets.iter().flat_map(|set| &set.volumes).filter(|volume| volume.adopted);
    of.extend(adopted.filter_map(|volume| device::dataset_of(&volume.path)).map(String::from));
    let names: Vec<&str> = of.iter().map(String::as_str).collect();
    let listing = Listing { of: &names, kinds: Kinds::All, depth: None, columns: COLUMNS };
    let accounts = accounts(&layout.engine.list(&listing)?)?;
    sets.iter()
        .map(|set| {
            let volumes = set.volumes.iter().filter_map(|volume| device::dataset_of(&volume.path));
            let mut sum = Account::default();
            for dataset in volumes.chain([layout.machine(&set.name)?]) {
                let one = accounts.get(dataset.as_str()).cloned().unwrap_or_default();
                sum.used += one.used;
                sum.shared += one.shared;
                sum.snapshots += one.snapshots;
            }
            let [used, shared, snapshots] = [sum.used, sum.shared, sum.snapshots].map(ByteSize::new);
            Ok(Space { used, shared, snapshots })
        })
        .collect()
}

/// The accounts of all datasets of a listing, which has each one's snapshots after it, oldest first.
///
/// Of a clone, ZFS counts as its own what it has written; the rest of what it refers to is shared. Of a source,
/// what it referred to at its newest snapshot with clones is shared with them, and what was written since is its own.
fn accounts(rows: &[Row]) -> Result<BTreeMap<String, Account>> {
    let mut snapshots: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        if let Some((dataset, _)) = row.name.split_once('@') {
            snapshots.entry(dataset).or_default().push(row);
        }
    }
    let mut accounts = BTreeMap::new();
    for row in rows.iter().filter(|row| !row.name.contains('@')) {
        let of_it = snapshots.get(row.name.as_str()).map_or(&[][..], Vec::as_slice);
        let (own, referenced) = (row.number(0)?, row.number(2)?);
        let mut account =
            Account { used: own, shared: referenced.saturating_sub(own), snapshots: row.number(1)? };
        let newest = of_it.iter().rposition(|snapshot| snapshot.text(4).is_some());
        if let Some(at) = newest {
            let mut since = row.number(3)?;
            for later in &of_it[at + 1..] {
                since += later.number(3)?;
            }
            account.used = own.min(since);
            account.shared = account.shared.max(of_it[at].number(2)?);
        }
        for hidden in of_it.iter().filter(|row| row.name.contains(&format!("@{HIDDEN}"))) {
            account.snapshots = account.snapshots.saturating_sub(hidden.number(5)?);
        }
        accounts.insert(row.name.clone(), account);
    }
    Ok(accounts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, numbers: [u64; 4], clones: &str, used: u64) -> Row {
        let mut values: Vec<Option<String>> = numbers.iter().map(|number| Some(number.to_string())).collect();
        values.push((!clones.is_empty()).then(|| clones.to_string()));
        values.push(Some(used.to_string()));
        Row { name: name.to_string(), values }
    }

    #[test]
    fn what_source_and_clone_have_in_common_is_shared_on_both_sides() {
        let rows = [
            row("t/a", [100, 0, 100, 7], "", 100),
            row("t/a@kld-clone-1", [0, 0, 95, 95], "t/b", 2),
            row("t/b", [3, 0, 98, 3], "", 3),
        ];
        let accounts = accounts(&rows).unwrap();
        assert_eq!(accounts["t/a"], Account { used: 7, shared: 95, snapshots: 0 });
        assert_eq!(accounts["t/b"], Account { used: 3, shared: 95, snapshots: 0 });
    }

    #[test]
    fn hidden_snapshots_are_nobodys() {
        let rows = [
            row("t/a", [100, 30, 100, 0], "", 130),
            row("t/a@before", [0, 0, 90, 90], "", 20),
            row("t/a@kld-clone-1", [0, 0, 95, 5], "", 10),
        ];
        assert_eq!(accounts(&rows).unwrap()["t/a"], Account { used: 100, shared: 0, snapshots: 20 });
    }
}
