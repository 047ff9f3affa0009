//! Names as types: parsed once, at the edge, and unable to hold what a system underneath would misread.

use std::ffi::OsStr;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Declares one name type over [`check`]: the rules are the same, the length and the word for it are not.
macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident, $what:literal, $longest:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// The longest such name, in bytes.
            pub const LONGEST: usize = $longest;

            /// Parses a name; the error says what is wrong with it and how a good one looks.
            pub fn parse(text: &str) -> Result<Self> {
                check($what, text, $longest).map(|()| $type(text.to_string()))
            }

            /// Parses a word of the command line, which need not be UTF-8.
            pub fn parse_os(text: &OsStr) -> Result<Self> {
                match text.to_str() {
                    Some(text) => Self::parse(text),
                    None => Err(bad($what, &text.to_string_lossy(), "is not UTF-8", $longest)),
                }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
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

        impl AsRef<std::path::Path> for $type {
            fn as_ref(&self) -> &std::path::Path {
                std::path::Path::new(&self.0)
            }
        }
    };
}

name_type!(
    /// The name of a machine: a libvirt domain, a folder or dataset of its volumes, and its guest's host name.
    ///
    /// ASCII letters, digits, `.`, `_` and `-`, starting with a letter or a digit, at most 63 bytes (the limit
    /// of a host name's label, RFC 1123).
    ///
    /// ```
    /// use kld_core::MachineName;
    /// assert!(MachineName::parse("web-5").is_ok());
    /// for bad in ["", "-x", "a/b", "..", "a b", "a\n", "a;b"] {
    ///     assert!(MachineName::parse(bad).is_err());
    /// }
    /// ```
    MachineName, "machine name", 63
);

name_type!(
    /// The tag of a snapshot, with the same letters as a machine's name.
    SnapshotTag, "snapshot tag", 63
);

fn check(what: &str, text: &str, longest: usize) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let complaint = if text.is_empty() {
        "is empty".to_string()
    } else if text.len() > longest {
        format!("is {} bytes long", text.len())
    } else if let Some(c) = text.chars().find(|c| !allowed(*c)) {
        format!("contains {}", describe(c))
    } else if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        format!("starts with {}", describe(text.chars().next().unwrap_or(' ')))
    } else if text.ends_with('.') {
        "ends with a dot".to_string()
    } else {
        return Ok(());
    };
    Err(bad(what, text, &complaint, longest))
}

fn describe(c: char) -> String {
    match c {
        ' ' => "a space".to_string(),
        '\n' => "a newline".to_string(),
        c if c.is_control() => format!("the control character U+{:04X}", c as u32),
        c => format!("'{c}'"),
    }
}

fn bad(what: &str, text: &str, complaint: &str, longest: usize) -> Error {
    let shown: String = text.escape_debug().take(40).collect();
    let dots = if text.chars().count() > 40 { "..." } else { "" };
    Error::usage(format!("the {what} '{shown}{dots}' {complaint}")).with_hint(format!(
        "use letters, digits, '.', '_' and '-', starting with a letter or a digit, at most {longest} bytes"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn each_bad_name_is_refused_with_its_reason() {
        let reason = |text: &str| MachineName::parse(text).unwrap_err().to_string();
        assert_eq!(reason(""), "the machine name '' is empty");
        assert_eq!(reason("-x"), "the machine name '-x' starts with '-'");
        assert_eq!(reason("a/b"), "the machine name 'a/b' contains '/'");
        assert_eq!(reason(".."), "the machine name '..' starts with '.'");
        assert_eq!(reason("a b"), "the machine name 'a b' contains a space");
        assert_eq!(reason("a\nb"), "the machine name 'a\\nb' contains a newline");
        assert_eq!(reason("a;b"), "the machine name 'a;b' contains ';'");
        assert_eq!(reason("a\u{7}"), "the machine name 'a\\u{7}' contains the control character U+0007");
        assert!(reason(&"a".repeat(300)).ends_with("is 300 bytes long"));
        let latin1 = MachineName::parse_os(OsStr::from_bytes(b"caf\xe9")).unwrap_err();
        assert!(latin1.to_string().ends_with("is not UTF-8"));
        assert_eq!(latin1.exit(), crate::Exit::Usage);
    }

    #[test]
    fn ordinary_names_are_kept_as_they_are() {
        for name in ["web-5", "a", "0", "db.example.org", "Win_11", &"x".repeat(63)] {
            assert_eq!(MachineName::parse(name).unwrap().as_str(), name);
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_accepted_is_one_safe_path_component(text in ".{0,80}") {
            if let Ok(name) = MachineName::parse(&text) {
                let path = std::path::Path::new("/root").join(name.as_str());
                assert_eq!(path.components().count(), 3);
                assert!(!name.as_str().starts_with('-'));
            }
        }
    }
}
