//! The seed's meta-data: who this instance is.

use std::fmt;

use kld_core::{Error, MachineName, Result};
use uuid::Uuid;

use super::yaml::{find_scalar, scalar};

/// The most that meta-data may hold, in bytes.
const LARGEST: usize = 64 << 10;

/// Who the instance is. A new instance-id makes cloud-init run its once-per-instance steps again: host name, host
/// keys, users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaData {
    /// Names this instance among all.
    pub instance_id: String,
    /// The guest's host name.
    pub local_hostname: MachineName,
    /// Every other line, as it was found.
    others: String,
}

impl MetaData {
    /// Meta-data with a fresh instance-id, `iid-` and a random UUID.
    pub fn new(hostname: MachineName) -> Self {
        MetaData { instance_id: fresh_id(), local_hostname: hostname, others: String::new() }
    }

    /// The same for another instance: new name, fresh instance-id; keys that kld does not know stay.
    #[must_use]
    pub fn for_clone(&self, hostname: MachineName) -> Self {
        MetaData { others: self.others.clone(), ..Self::new(hostname) }
    }

    /// Reads meta-data: top-level `key: value` lines, of which `instance-id` and `local-hostname` must be there
    /// once. Other keys are kept with the lines that belong to them.
    ///
    /// ```
    /// use kld_kvm::seed::MetaData;
    /// let meta = MetaData::parse("instance-id: i-1\nlocal-hostname: web-1\n").unwrap();
    /// assert_eq!(meta.local_hostname.as_str(), "web-1");
    /// assert!(MetaData::parse("local-hostname: web-1\n").is_err());
    /// ```
    pub fn parse(text: &str) -> Result<Self> {
        if text.len() > LARGEST {
            return Err(bad(format!("it is larger than {LARGEST} bytes")));
        }
        let (mut id, mut hostname, mut others) = (None, None, String::new());
        let mut in_other = false;
        for (line, number) in text.split_inclusive('\n').zip(1..) {
            let (slot, key, rest) = match key_of(line) {
                Line::Blank => {
                    others.push_str(line);
                    continue;
                }
                Line::Start if id.is_none() && hostname.is_none() && others.is_empty() => continue,
                Line::Inner if in_other => {
                    others.push_str(line);
                    continue;
                }
                Line::Key("instance-id", rest) => (&mut id, "instance-id", rest),
                Line::Key("local-hostname", rest) => (&mut hostname, "local-hostname", rest),
                Line::Key(..) => {
                    in_other = true;
                    others.push_str(line);
                    continue;
                }
                Line::Start | Line::Inner | Line::Strange => {
                    return Err(bad(format!("line {number} is not 'key: value'")));
                }
            };
            in_other = false;
            let value = find_scalar(rest)
                .map(|found| found.value)
                .filter(|value| {
                    (1..=256).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_graphic())
                })
                .ok_or_else(|| bad(format!("the value of {key} in line {number} is not one plain word")))?;
            if slot.replace(value).is_some() {
                return Err(bad(format!("it has {key} twice")));
            }
        }
        if !others.is_empty() && !others.ends_with('\n') {
            others.push('\n');
        }
        let missing = |key| bad(format!("it has no {key}"));
        let hostname = hostname.ok_or_else(|| missing("local-hostname"))?;
        Ok(MetaData {
            instance_id: id.ok_or_else(|| missing("instance-id"))?,
            local_hostname: MachineName::parse(&hostname).map_err(bad)?,
            others,
        })
    }
}

/// As the file `meta-data` holds it.
impl fmt::Display for MetaData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "instance-id: {}", scalar(&self.instance_id))?;
        writeln!(f, "local-hostname: {}", scalar(self.local_hostname.as_str()))?;
        f.write_str(&self.others)
    }
}

fn fresh_id() -> String {
    format!("iid-{}", Uuid::new_v4())
}

enum Line<'a> {
    /// Nothing, or a comment.
    Blank,
    /// The mark before a document.
    Start,
    /// It belongs to the key above it.
    Inner,
    /// A top-level key, and what follows its colon.
    Key(&'a str, &'a str),
    Strange,
}

fn key_of(line: &str) -> Line<'_> {
    let text = line.trim_end();
    if text.is_empty() || text.trim_start().starts_with('#') {
        return Line::Blank;
    }
    if text == "---" {
        return Line::Start;
    }
    if text.starts_with([' ', '\t']) || text.starts_with("- ") {
        return Line::Inner;
    }
    match text.split_once(':') {
        Some((key, rest))
            if !key.is_empty()
                && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
                && (rest.is_empty() || rest.starts_with([' ', '\t'])) =>
        {
            Line::Key(key, rest)
        }
        _ => Line::Strange,
    }
}

fn bad(cause: impl fmt::Display) -> Error {
    Error::failed("cannot use the seed's meta-data", cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        MetaData::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn a_clone_s_meta_data_has_another_id_and_keeps_what_kld_does_not_know() {
        let text = "---\n# by hand\ninstance-id: 'i 1'\nlocal-hostname: web-1\npublic-keys:\n- a\n  b: c\n";
        assert!(refusal(text).ends_with("the value of instance-id in line 3 is not one plain word"));
        let source = MetaData::parse(&text.replace("'i 1'", "'i-1' # first")).unwrap();
        let clone = source.for_clone(MachineName::parse("web-5").unwrap());
        assert!(clone.instance_id.starts_with("iid-") && clone.instance_id != source.instance_id);
        let shown = clone.to_string().replace(&clone.instance_id, "ID");
        insta::assert_snapshot!(shown, @r"
        instance-id: ID
        local-hostname: web-5
        # by hand
        public-keys:
        - a
          b: c
        ");
    }

    #[test]
    fn a_name_that_yaml_would_read_as_a_number_stays_text() {
        let meta = MetaData::new(MachineName::parse("007").unwrap());
        assert!(meta.to_string().contains("local-hostname: \"007\"\n"));
        assert_eq!(MetaData::parse(&meta.to_string()).unwrap(), meta);
    }

    #[test]
    fn what_is_not_meta_data_is_refused_with_the_reason() {
        let all = ["", "instance-id: a\n", "{instance-id: a}\n", "instance-id: a\ninstance-id: b\n"]
            .into_iter()
            .chain(["instance-id: |\n  a\n", "instance-id: a\nlocal-hostname: -x\n", "instance-id: a\n  b\n"])
            .map(refusal)
            .collect::<Vec<_>>()
            .join("\n");
        insta::assert_snapshot!(all, @"
        cannot use the seed's meta-data: it has no local-hostname
        cannot use the seed's meta-data: it has no local-hostname
        cannot use the seed's meta-data: line 1 is not 'key: value'
        cannot use the seed's meta-data: it has instance-id twice
        cannot use the seed's meta-data: the value of instance-id in line 1 is not one plain word
        cannot use the seed's meta-data: the machine name '-x' starts with '-'
        cannot use the seed's meta-data: line 2 is not 'key: value'
        ");
        assert!(refusal(&"#\n".repeat(40000)).ends_with("larger than 65536 bytes"));
    }

    proptest::proptest! {
        #[test]
        fn parsing_never_panics_and_what_is_read_is_written_alike(
            text in "(instance-id: [a-z'\" #]{0,6}\n|local-hostname: [a-z-]{0,6}\n|[ -~]{0,12}\n){0,6}\\PC{0,10}"
        ) {
            if let Ok(meta) = MetaData::parse(&text) {
                assert_eq!(MetaData::parse(&meta.to_string()).unwrap(), meta);
            }
        }
    }
}
