use std::path::{Path, PathBuf};

use kld_core::error::Trying;
use kld_core::store::Set;
use kld_core::{Error, MachineName, Result, fsio};
use serde::{Deserialize, Serialize};

use super::NAME;
use super::layout::Layout;

/// The version of records that this program writes, and the newest that it reads.
const VERSION: u32 = 1;
/// Far more than a record of [`MAX_CHAIN`](crate::image::MAX_CHAIN) snapshots of many disks takes.
const LARGEST: u64 = 16 << 20;

/// What `set.json` holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    version: u32,
    store: String,
    /// The set as it is.
    pub set: Set,
    /// The state files that kld made, by their paths within the machine's folder.
    pub files: Vec<PathBuf>,
}

/// What every version of a record has.
#[derive(Deserialize)]
struct Maker {
    version: u32,
    store: String,
}

impl Record {
    pub(super) fn new(set: Set, files: Vec<PathBuf>) -> Self {
        Record { version: VERSION, store: NAME.to_string(), set, files }
    }

    /// The record of a machine, if it has one.
    pub(super) fn read(layout: &Layout, name: &MachineName) -> Result<Option<Record>> {
        let path = layout.record(name);
        let Some(text) = fsio::read_text(&path, LARGEST)? else { return Ok(None) };
        let mut record = parse(&text, &path)?;
        if record.set.name != *name {
            return Err(Error::failed(
                format!("cannot use the record {}", path.display()),
                format!("it is the one of {}", record.set.name),
            ));
        }
        // The store may have been moved as a whole.
        record.set.state_dir = layout.machine(name);
        Ok(Some(record))
    }

    /// Every record, by machine name.
    pub(super) fn read_all(layout: &Layout) -> Result<Vec<Record>> {
        let what = || format!("cannot read the folder {}", layout.machines().display());
        let entries = match std::fs::read_dir(layout.machines()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).trying(what),
        };
        let mut names = Vec::new();
        for entry in entries {
            // What has no machine's name is not ours to judge.
            names.extend(MachineName::parse_os(&entry.trying(what)?.file_name()).ok());
        }
        names.sort();
        names.iter().filter_map(|name| Record::read(layout, name).transpose()).collect()
    }

    /// What `set.json` is to hold.
    pub(super) fn to_text(&self) -> Result<Vec<u8>> {
        serde_json::to_vec_pretty(self)
            .map_err(|cause| Error::failed(format!("cannot write the record of {}", self.set.name), cause))
    }
}

fn parse(text: &str, path: &Path) -> Result<Record> {
    let what = || format!("cannot use the record {}", path.display());
    let maker: Maker = serde_json::from_str(text).map_err(|cause| Error::failed(what(), cause))?;
    if maker.store != NAME {
        let store: String = maker.store.escape_debug().take(40).collect();
        let cause = format!("it is one of the store '{store}', and in this folder only '{NAME}' is known");
        return Err(
            Error::failed(what(), cause).with_hint("name that store's own place in the configuration")
        );
    }
    if maker.version > VERSION || maker.version == 0 {
        let cause = format!("it has version {}, and the versions up to {VERSION} are known", maker.version);
        return Err(Error::failed(what(), cause).with_hint("a newer kld made it; use that one"));
    }
    serde_json::from_str(text).map_err(|cause| Error::failed(what(), cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> Error {
        parse(text, Path::new("/s/machines/web/set.json")).unwrap_err()
    }

    #[test]
    fn a_record_of_a_newer_kld_is_refused_with_both_versions() {
        let error = refusal(r#"{"version": 2, "store": "dir", "set": "of another shape"}"#);
        insta::assert_snapshot!(error, @"cannot use the record /s/machines/web/set.json: it has version 2, and the versions up to 1 are known");
        assert_eq!(error.hint(), Some("a newer kld made it; use that one"));
    }

    #[test]
    fn a_record_of_another_store_is_refused_with_its_name_and_ours() {
        let error = refusal(r#"{"version": 1, "store": "zfs"}"#);
        insta::assert_snapshot!(error, @"cannot use the record /s/machines/web/set.json: it is one of the store 'zfs', and in this folder only 'dir' is known");
    }

    #[test]
    fn a_damaged_record_is_refused() {
        assert!(refusal("").to_string().starts_with("cannot use the record"));
        assert!(refusal(r#"{"version": 1, "store": "dir"}"#).to_string().contains("missing field `set`"));
    }

    proptest::proptest! {
        #[test]
        fn foreign_text_never_panics(text in ".{0,200}") {
            let _ = parse(&text, Path::new("/r"));
        }
    }
}
