//! Names of pools, datasets and snapshots, parsed once at the edge. The rules are OpenZFS's own (zfs_namecheck.c), but
//! that names with spaces are refused: they do not survive in every tool that lists datasets.

use std::fmt;
use std::str::FromStr;

use kld_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// The longest name of a dataset or snapshot, in bytes: OpenZFS's limit, less the NUL at its end.
const LONGEST: usize = 255;

macro_rules! text_type {
    ($type:ident) => {
        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $type {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $type {
            type Error = Error;
            fn try_from(text: String) -> Result<Self> {
                Self::parse(&text)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }
    };
}

/// The name of a pool.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PoolName(String);

/// The full name of a file system or volume, such as `tank/kld/web/vda`.
///
/// ```
/// use kld_zfs::DatasetName;
/// let root = DatasetName::parse("tank/kld").unwrap();
/// assert_eq!(root.child("web").unwrap().as_str(), "tank/kld/web");
/// for bad in ["", "/tank", "tank/", "tank//a", "tank/-x/..", "-tank", "tank/..", "tank@a", "tank/a b", "tank/a\n"] {
///     assert!(DatasetName::parse(bad).is_err(), "{bad}");
/// }
/// assert!(root.child("../other").is_err() && root.child("a/b").is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DatasetName(String);

/// The full name of a snapshot, such as `tank/kld/web/vda@before`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotName(String);

text_type!(PoolName);
text_type!(DatasetName);
text_type!(SnapshotName);

impl PoolName {
    /// Parses the name of a pool.
    pub fn parse(text: &str) -> Result<Self> {
        check("pool", text, &[text]).map(|()| PoolName(text.to_string()))
    }
}

impl DatasetName {
    /// Parses the full name of a file system or volume.
    pub fn parse(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        check("dataset", text, &parts).map(|()| DatasetName(text.to_string()))
    }

    /// The dataset of this name directly below.
    pub fn child(&self, name: &str) -> Result<DatasetName> {
        if name.contains('/') {
            return Err(bad("dataset", name, "contains '/'"));
        }
        Self::parse(&format!("{self}/{name}"))
    }

    /// A snapshot of it.
    pub fn snapshot(&self, name: &str) -> Result<SnapshotName> {
        SnapshotName::parse(&format!("{self}@{name}"))
    }

    /// Its pool.
    pub fn pool(&self) -> PoolName {
        PoolName(self.0.split('/').next().unwrap_or_default().to_string())
    }

    /// The dataset that it is directly below of; `None` for a pool's own.
    pub fn parent(&self) -> Option<DatasetName> {
        self.0.rsplit_once('/').map(|(above, _)| DatasetName(above.to_string()))
    }

    /// The last part of its name.
    pub fn leaf(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    /// Whether it is below `root`, at any depth.
    pub fn is_below(&self, root: &DatasetName) -> bool {
        self.0.strip_prefix(root.as_str()).is_some_and(|rest| rest.starts_with('/'))
    }
}

impl SnapshotName {
    /// Parses the full name of a snapshot.
    pub fn parse(text: &str) -> Result<Self> {
        let Some((dataset, name)) = text.split_once('@') else {
            return Err(bad("snapshot", text, "has no '@'"));
        };
        let parts: Vec<&str> = dataset.split('/').chain([name]).collect();
        check("snapshot", text, &parts).map(|()| SnapshotName(text.to_string()))
    }

    /// What it is a snapshot of.
    pub fn dataset(&self) -> DatasetName {
        DatasetName(self.0.split('@').next().unwrap_or_default().to_string())
    }

    /// What follows the '@'.
    pub fn name(&self) -> &str {
        self.0.split_once('@').map_or("", |(_, name)| name)
    }
}

fn check(what: &str, text: &str, parts: &[&str]) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    if text.len() > LONGEST {
        return Err(bad(what, text, &format!("is {} bytes long, and {LONGEST} are the limit", text.len())));
    }
    for part in parts {
        if part.is_empty() {
            return Err(bad(what, text, if text.is_empty() { "is empty" } else { "has an empty part" }));
        }
        if let Some(c) = part.chars().find(|c| !allowed(*c)) {
            return Err(bad(what, text, &format!("contains '{}'", c.escape_debug())));
        }
        if matches!(*part, "." | "..") {
            return Err(bad(what, text, &format!("has the part '{part}'")));
        }
        if part.starts_with('-') {
            return Err(bad(what, text, "has a part that starts with '-'"));
        }
    }
    match parts[0].starts_with(|c: char| c.is_ascii_alphabetic()) {
        true => Ok(()),
        false => Err(bad(what, text, "does not start with a letter")),
    }
}

fn bad(what: &str, text: &str, complaint: &str) -> Error {
    let shown: String = text.escape_debug().take(80).collect();
    Error::usage(format!("'{shown}' is not the name of a {what}: it {complaint}")).with_hint(
        "the parts of a name hold ASCII letters, digits, '-', '_', '.' and ':', as in tank/kld/web@before",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_name_is_said() {
        let said = |text: &str| DatasetName::parse(text).unwrap_err().to_string();
        insta::assert_snapshot!(said("tank/a b"), @"'tank/a b' is not the name of a dataset: it contains ' '");
        insta::assert_snapshot!(said("tank/../etc"), @"'tank/../etc' is not the name of a dataset: it has the part '..'");
        insta::assert_snapshot!(said("tank//a"), @"'tank//a' is not the name of a dataset: it has an empty part");
        insta::assert_snapshot!(said("tank/-rf"), @"'tank/-rf' is not the name of a dataset: it has a part that starts with '-'");
        insta::assert_snapshot!(said("9tank"), @"'9tank' is not the name of a dataset: it does not start with a letter");
        assert!(
            said(&format!("tank/{}", "a".repeat(251)))
                .ends_with("it is 256 bytes long, and 255 are the limit")
        );
    }

    #[test]
    fn the_longest_name_is_one_that_zfs_takes() {
        assert!(DatasetName::parse(&format!("tank/{}", "a".repeat(250))).is_ok());
        let dataset = DatasetName::parse(&format!("tank/{}", "a".repeat(240))).unwrap();
        assert!(dataset.snapshot(&"s".repeat(9)).is_ok());
        assert!(dataset.snapshot(&"s".repeat(10)).is_err());
    }

    #[test]
    fn what_is_below_a_root_is_told_by_whole_parts() {
        let name = |text: &str| DatasetName::parse(text).unwrap();
        assert!(name("tank/kld/web").is_below(&name("tank/kld")));
        assert!(!name("tank/kld").is_below(&name("tank/kld")));
        assert!(!name("tank/kld2/web").is_below(&name("tank/kld")));
    }

    proptest::proptest! {
        #[test]
        fn a_parsed_name_never_holds_what_a_program_would_misread(text in ".{0,300}") {
            if let Ok(name) = DatasetName::parse(&text) {
                let text = name.as_str();
                let plain = text.bytes().all(|byte| byte.is_ascii_graphic() && !b"@#%,'\"\\".contains(&byte));
                proptest::prop_assert!(plain && !text.starts_with('-') && text.len() <= LONGEST);
                proptest::prop_assert!(text.split('/').all(|part| !part.is_empty() && part != ".."));
            }
        }

        #[test]
        fn a_snapshots_parts_make_its_name(dataset in "[a-z][a-z0-9/]{0,20}", name in "[a-z0-9:._]{0,10}") {
            if let Ok(snapshot) = SnapshotName::parse(&format!("{dataset}@{name}")) {
                proptest::prop_assert_eq!(snapshot.dataset().snapshot(snapshot.name()).unwrap(), snapshot);
            }
        }
    }
}
