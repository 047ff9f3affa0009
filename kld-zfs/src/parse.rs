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
    text.split_terminator('\n').map(row).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[&str] = &["type", "used", "origin", "clones", "org.kld:tag"];

    /// Recorded from 2.3.9: a machine, its volume, a snapshot of both and a clone.
    const JSON: &str = include_str!("parse/list-2.3.json");
    /// The same from `list -Hp` of 2.1.11's program, which prints no JSON.
    const LINES: &str = include_str!("parse/list-2.1.txt");

    #[test]
    fn json_and_lines_are_read_alike() {
        let rows = json(JSON, COLUMNS).unwrap();
        assert_eq!(rows, lines(LINES, COLUMNS.len()).unwrap());
        let shown: Vec<String> = rows
            .iter()
            .map(|row| {
                let values = row.values.iter().map(|value| value.as_deref().unwrap_or("-"));
                format!("{} {}", row.name, values.collect::<Vec<_>>().join(" "))
            })
            .collect();
        insta::assert_snapshot!(shown.join("\n"), @r"
        tank/kld/web filesystem 36864 - - -
        tank/kld/web2 filesystem 24576 - - -
        tank/kld/web/vda volume 12288 - - -
        tank/kld/web/vda@a snapshot 0 - tank/kld/web2/vda x
        tank/kld/web@a snapshot 0 - - x
        tank/kld/web2/vda volume 0 tank/kld/web/vda@a - -
        ");
    }

    #[test]
    fn snapshots_come_in_the_order_of_their_making_whatever_their_names() {
        let text = r#"{"datasets": {
            "t/a@one": {"createtxg": 11, "properties": {}}, "t/a@three": {"createtxg": "9", "properties": {}},
            "t/a@two": {"createtxg": 30, "properties": {}}}}"#;
        let names: Vec<String> = json(text, &[]).unwrap().into_iter().map(|row| row.name).collect();
        assert_eq!(names, ["t/a@three", "t/a@one", "t/a@two"]);
    }

    #[test]
    fn a_line_that_a_property_has_broken_is_an_error_and_no_wrong_answer() {
        let error = lines("tank/a\tfilesystem\tx\ty\n", 2).unwrap_err().to_string();
        insta::assert_snapshot!(error, @r"cannot read what zfs printed: the line 'tank/a\tfilesystem\tx\ty' has 4 values");
        assert!(lines("tank/a\tfilesystem\n", 2).is_err());
        assert!(json("{}", &["used"]).unwrap().is_empty());
        assert!(json("", &["used"]).is_err());
    }

    #[test]
    fn a_suspended_pool_is_known_by_its_word() {
        let states = ["ONLINE\n", "DEGRADED\n", "UNAVAIL\n", "SUSPENDED\n", "?"].map(pool_state);
        use PoolState::{Degraded, Faulted, Online, Other, Suspended};
        assert_eq!(states, [Online, Degraded, Faulted, Suspended, Other]);
    }

    #[test]
    fn versions_are_read_as_the_module_and_the_program_write_them() {
        for (text, wanted) in [
            ("2.3.9-0+deb13u1\n", Some((2, 3))),
            ("2.1.11-1", Some((2, 1))),
            ("zfs-2.4.0-rc1", Some((2, 4))),
            ("", None),
            ("two", None),
        ] {
            assert_eq!(version(text), wanted, "{text}");
        }
    }

    #[test]
    fn a_status_is_read_by_its_paragraphs() {
        let text = "  pool: tank\n state: SUSPENDED\nstatus: One or more devices are faulted in response to IO failures.\n\
                    action: Make sure the affected devices are connected, then run 'zpool\n\tclear'.\nconfig:\n\n\
                    \tNAME  STATE\n\terrors  ONLINE\n\nerrors: List of errors unavailable: pool I/O is currently suspended\n";
        let found = status(text);
        assert_eq!(found["state"], "SUSPENDED");
        assert_eq!(found["action"], "Make sure the affected devices are connected, then run 'zpool clear'.");
        assert_eq!(found["errors"], "List of errors unavailable: pool I/O is currently suspended");
    }

    proptest::proptest! {
        #[test]
        fn foreign_text_never_panics(text in "[\\PC\t\n]{0,300}", columns in 0usize..5) {
            let _ = lines(&text, columns);
            let _ = json(&text, COLUMNS);
            let _ = (pool_state(&text), version(&text), status(&text));
        }

        #[test]
        fn broken_json_never_panics(at in 0usize..JSON.len(), with in "[\\PC]{0,3}") {
            let at = (0..=at).rev().find(|at| JSON.is_char_boundary(*at)).unwrap_or(0);
            let _ = json(&format!("{}{with}", &JSON[..at]), COLUMNS);
            let _ = json(&format!("{}{with}{}", &JSON[..at], JSON.get(at + 1..).unwrap_or("")), COLUMNS);
        }

        #[test]
        fn what_is_printed_is_read_back(rows in proptest::collection::vec(("[a-z/]{1,9}", "[^\t\n\r-]{1,9}"), 0..5)) {
            let text: String = rows.iter().map(|(name, value)| format!("{name}\t{value}\n")).collect();
            let read: Vec<(String, String)> = lines(&text, 1).unwrap().into_iter()
                .map(|row| (row.name.clone(), row.text(0).unwrap().to_string())).collect();
            proptest::prop_assert_eq!(read, rows);
        }
    }
}
