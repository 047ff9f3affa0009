//! Sizes in bytes, as people and programs write them.

use std::fmt;
use std::iter::Sum;
use std::ops::Add;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A number of bytes. Serialized as a plain number; printed in binary units (`10 GiB`).
///
/// ```
/// use kld_core::ByteSize;
/// let size: ByteSize = "10G".parse().unwrap();
/// assert_eq!(size.bytes(), 10 << 30);
/// assert_eq!(size.to_string(), "10 GiB");
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteSize(u64);

/// Suffixes and their powers of 1024. As in qemu-img and zfs, `K`, `KB` and `KiB` all mean 1024.
const UNITS: [(&str, u32); 7] = [("B", 0), ("K", 1), ("M", 2), ("G", 3), ("T", 4), ("P", 5), ("E", 6)];

impl ByteSize {
    /// So many bytes.
    pub const fn new(bytes: u64) -> Self {
        ByteSize(bytes)
    }

    /// So many binary megabytes.
    pub const fn mib(count: u64) -> Self {
        ByteSize(count << 20)
    }

    /// So many binary gigabytes.
    pub const fn gib(count: u64) -> Self {
        ByteSize(count << 30)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Parses a size whose bare numbers mean `unit` (one of `B K M G T P E`), as `--memory 2048` means MiB.
    pub fn parse_with_unit(text: &str, unit: &str) -> Result<Self> {
        let bad = || {
            Error::usage(format!("'{}' is not a size", text.escape_debug()))
                .with_hint("write a number and a unit, such as 512M, 10G or 1.5T")
        };
        let trimmed = text.trim();
        let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, suffix) = trimmed.split_at(split);
        let suffix = suffix.trim().to_ascii_uppercase();
        let suffix = match suffix.strip_suffix("IB").or(suffix.strip_suffix('B')).unwrap_or(&suffix) {
            "" if suffix == "B" => "B",
            "" => unit,
            letters => letters,
        };
        let power = UNITS.iter().find(|(name, _)| *name == suffix).ok_or_else(bad)?.1;
        let scale = 1024u128.pow(power);
        let bytes = match number.split_once('.') {
            None => number.parse::<u64>().map_err(|_| bad())? as u128 * scale,
            Some((whole, fraction)) => {
                let digits = fraction.len() as u32;
                if digits == 0 || digits > 9 {
                    return Err(bad());
                }
                let whole = whole.parse::<u64>().map_err(|_| bad())? as u128;
                let fraction = fraction.parse::<u64>().map_err(|_| bad())? as u128;
                whole * scale + fraction * scale / 10u128.pow(digits)
            }
        };
        u64::try_from(bytes).map(ByteSize).map_err(|_| {
            Error::usage(format!("the size '{}' is too large", text.escape_debug()))
                .with_hint("the largest size is below 16E")
        })
    }
}

impl FromStr for ByteSize {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Self::parse_with_unit(text, "B")
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0 as f64;
        let mut unit = 0;
        while value >= 1024.0 && unit < UNITS.len() - 1 {
            value /= 1024.0;
            unit += 1;
        }
        let name = UNITS[unit].0;
        let text = match unit {
            0 => format!("{} B", self.0),
            _ if value.fract() < 0.05 || value >= 100.0 => format!("{value:.0} {name}iB"),
            _ => format!("{value:.1} {name}iB"),
        };
        f.pad(&text)
    }
}

impl Add for ByteSize {
    type Output = ByteSize;
    fn add(self, other: ByteSize) -> ByteSize {
        ByteSize(self.0.saturating_add(other.0))
    }
}

impl Sum for ByteSize {
    fn sum<I: Iterator<Item = ByteSize>>(sizes: I) -> ByteSize {
        sizes.fold(ByteSize::default(), Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_qemu_img_and_zfs_read_them() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("1k", 1024),
            ("1KiB", 1024),
            ("1.5G", 3 << 29),
            ("10 GB", 10 << 30),
            ("7B", 7),
        ] {
            assert_eq!(text.parse::<ByteSize>().unwrap().bytes(), bytes, "{text}");
        }
        assert_eq!(ByteSize::parse_with_unit("2048", "M").unwrap(), ByteSize::gib(2));
        assert_eq!(ByteSize::parse_with_unit("2048B", "M").unwrap(), ByteSize::new(2048));
    }

    #[test]
    fn what_is_not_a_size_is_refused() {
        for text in ["", "G", "-1", "1..5G", "1.G", "ten", "1Q", "99999999999E", "1e9"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_printed_short() {
        let shown = |bytes| ByteSize::new(bytes).to_string();
        assert_eq!(shown(0), "0 B");
        assert_eq!(shown(1536), "1.5 KiB");
        assert_eq!(shown(10 << 30), "10 GiB");
        assert_eq!(shown((10 << 30) + 5), "10 GiB");
    }

    proptest::proptest! {
        #[test]
        fn parsing_never_panics(text in ".{0,40}") {
            let _ = text.parse::<ByteSize>();
        }
    }
}
