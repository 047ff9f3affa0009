//! What `zfs` and `zpool` print, read: tab-separated lines of every version, and the JSON of 2.3 and later. Nothing
//! here touches the system.

use std::collections::BTreeMap;

use kld_core::{Error, Result};
use serde::Deserialize;
use serde_json::Value;

/// One line of a listing: a name and the values that were asked for, in their order. `None` stands for `-`: the
/// property does not apply, or is not set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The name of the pool, dataset or snapshot.
    pub name: String,
    /// The values.
    pub values: Vec<Option<String>>,
}

impl Row {
    /// A value as text.
    pub fn text(&self, column: usize) -> Option<&str> {
        self.values.get(column)?.as_deref()
    }

    /// A value as a number of bytes, 0 where it does not apply.
    pub fn number(&self, column: usize) -> Result<u64> {
        let Some(text) = self.text(column) else { return Ok(0) };
        text.parse().map_err(|_| unreadable(format!("'{}' is not a number", short(text))))
    }
}

/// Reads `list -H -p -o name,...` with so many columns after the name. A user property may hold a tab or a line's
/// end: ask for those last, and not for more than one, and such a line is an error instead of a wrong answer.
pub fn lines(text: &str, columns: usize) -> Result<Vec<Row>> {
    let row = |line: &str| {
        let mut parts = line.split('\t');
        let name = parts.next().unwrap_or_default().to_string();
        let values: Vec<Option<String>> =
            parts.map(|value| (value != "-").then(|| value.to_string())).collect();
        if name.is_empty() || values.len() != columns {
            return Err(unreadable(format!("the line '{}' has {} values", short(line), values.len() + 1)));
        }
        Ok(Row { name, values })
    };
    text.lines().map(row).collect()
}

/// Reads `list -j --json-int -o name,...` for the same rows, in the order of their making.
pub fn json(text: &str, columns: &[&str]) -> Result<Vec<Row>> {
    let listing: Listing = serde_json::from_str(text).map_err(unreadable)?;
    let things = listing.datasets.into_iter().chain(listing.pools);
    let rows = things.map(|(key, thing)| {
        let values = columns.iter().map(|column| thing.value(column)).collect::<Result<_>>()?;
        Ok((thing.made(), Row { name: key, values }))
    });
    let mut rows: Vec<(u64, Row)> = rows.collect::<Result<_>>()?;
    // An object has no order; by name at first, so that what was made in one transaction group is in that order.
    rows.sort_by_key(|(made, _)| *made);
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

#[derive(Deserialize)]
struct Listing {
    #[serde(default)]
    datasets: BTreeMap<String, Thing>,
    #[serde(default)]
    pools: BTreeMap<String, Thing>,
}

#[derive(Deserialize)]
struct Thing {
    #[serde(default)]
    properties: BTreeMap<String, Property>,
    /// `type`, `pool`, `createtxg` and their like stand beside the properties.
    #[serde(flatten)]
    fields: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct Property {
    value: Value,
}

impl Thing {
    /// The transaction group in which it was made.
    fn made(&self) -> u64 {
        let made = self.fields.get("createtxg");
        made.and_then(|made| made.as_u64().or_else(|| made.as_str()?.parse().ok())).unwrap_or(0)
    }

    fn value(&self, column: &str) -> Result<Option<String>> {
        let found =
            self.properties.get(column).map(|property| &property.value).or_else(|| self.fields.get(column));
        match found {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text == "-" || text.is_empty() => Ok(None),
            Some(Value::String(text)) if column == "type" => Ok(Some(text.to_lowercase())),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(Value::Bool(yes)) => Ok(Some(if *yes { "on" } else { "off" }.to_string())),
            Some(_) => Err(unreadable(format!("the property '{column}' is no plain value"))),
        }
    }
}

/// A pool's state from `/proc/spl/kstat/zfs/POOL/state`, in zpool's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolState {
    /// All is well.
    Online,
    /// It works with less redundancy.
    Degraded,
    /// It cannot be used.
    Faulted,
    /// Input and output wait until somebody clears the fault: every command that touches it hangs.
    Suspended,
    /// Any other word.
    Other,
}

/// Reads the word that the kernel module gives.
pub fn pool_state(text: &str) -> PoolState {
    match text.trim() {
        "ONLINE" => PoolState::Online,
        "DEGRADED" => PoolState::Degraded,
        "FAULTED" | "UNAVAIL" => PoolState::Faulted,
        "SUSPENDED" => PoolState::Suspended,
        _ => PoolState::Other,
    }
}

/// The release that `/sys/module/zfs/version` names (`2.3.9-1`, `2.1.11-1`): major and minor.
pub fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim().trim_start_matches("zfs-").split(['.', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// What `zpool status` says in its `status:`, `action:` and `errors:` paragraphs, each in one line.
pub fn status(text: &str) -> BTreeMap<String, String> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    let mut at: Option<String> = None;
    for line in text.lines() {
        let trimmed = line.trim();
        match trimmed.split_once(':') {
            Some((word, rest))
                if matches!(
                    word,
                    "pool" | "state" | "status" | "action" | "see" | "scan" | "config" | "errors"
                ) =>
            {
                at = Some(word.to_string());
                found.insert(word.to_string(), rest.trim().to_string());
            }
            _ => {
                let paragraph =
                    at.as_ref().filter(|word| *word != "config").and_then(|word| found.get_mut(word));
                if let Some(paragraph) = paragraph.filter(|_| !trimmed.is_empty()) {
                    paragraph.push(' ');
                    paragraph.push_str(trimmed);
                }
            }
        }
    }
    found
}

fn unreadable(cause: impl std::fmt::Display) -> Error {
    Error::failed("cannot read what zfs printed", cause)
}

fn short(text: &str) -> String {
    text.escape_debug().take(60).collect()
}
