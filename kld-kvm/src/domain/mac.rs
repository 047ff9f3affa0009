//! MAC addresses of guests.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use kld_core::{Error, Result};
use uuid::Uuid;

/// The address of a network card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress([u8; 6]);

/// The prefix that QEMU's guests have.
const QEMU: [u8; 3] = [0x52, 0x54, 0x00];

impl MacAddress {
    /// The address of these bytes.
    pub const fn new(bytes: [u8; 6]) -> Self {
        MacAddress(bytes)
    }

    /// Its bytes.
    pub const fn bytes(self) -> [u8; 6] {
        self.0
    }

    /// True for the prefix 52:54:00, which QEMU's guests have.
    pub fn is_qemu(self) -> bool {
        self.0.starts_with(&QEMU)
    }

    /// A random address with QEMU's prefix.
    pub fn random_qemu() -> Self {
        let [.., a, b, c] = random();
        MacAddress([QEMU[0], QEMU[1], QEMU[2], a, b, c])
    }

    /// A random unicast, locally administered address.
    pub fn random_local() -> Self {
        let [first, rest @ ..] = random();
        let [a, b, c, d, e] = rest;
        MacAddress([first & 0xfc | 0x02, a, b, c, d, e])
    }
}

/// The ends of a random UUID, where no version bits are.
fn random() -> [u8; 6] {
    let [a, b, c, d, e, f, ..] = Uuid::new_v4().into_bytes();
    [a, b, c, d, e, f]
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        f.pad(&format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}"))
    }
}

impl FromStr for MacAddress {
    type Err = Error;

    /// Reads the form `52:54:00:12:34:56`; as libvirt does, leading zeros may be missing.
    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::usage(format!("'{}' is not a MAC address", text.escape_debug()))
                .with_hint("write six pairs of hexadecimal digits, such as 52:54:00:12:34:56")
        };
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or_else(bad)?;
            if !(1..=2).contains(&part.len()) || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(bad());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() {
            return Err(bad());
        }
        Ok(MacAddress(bytes))
    }
}

/// Gives out addresses that nobody has.
#[derive(Debug, Clone, Default)]
pub struct FreshMacs {
    taken: BTreeSet<MacAddress>,
}

impl FreshMacs {
    /// Addresses other than these.
    pub fn new(taken: impl IntoIterator<Item = MacAddress>) -> Self {
        FreshMacs { taken: taken.into_iter().collect() }
    }

    /// An address in place of `old`: with QEMU's prefix where that has it, or else any locally administered one.
    pub fn replace(&mut self, old: MacAddress) -> MacAddress {
        loop {
            let fresh = if old.is_qemu() { MacAddress::random_qemu() } else { MacAddress::random_local() };
            if fresh != old && self.taken.insert(fresh) {
                return fresh;
            }
        }
    }
}

impl serde::Serialize for MacAddress {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
