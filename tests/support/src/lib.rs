//! What the tests and `xtask` share: a [private root](root) with the programs that the host lacks, a
//! [libvirt host](host) of its own for each test that wants one, a small [guest](guest) that says its name, and
//! [running](tool) kld's tools as a person would.
//!
//! In the lab, which has all programs itself, a host stands on the lab's own root and has a ZFS [pool] of its own.
//!
//! Nothing here changes the host: no service, no apt source, no libvirt configuration.
#![deny(missing_docs)]

pub use kld_build::apt;

pub mod console;
pub mod guest;
pub mod host;
pub mod kill;
pub mod pool;
pub mod root;
pub mod tool;

pub use console::Console;
pub use guest::Guest;
pub use host::Host;
pub use pool::Pool;
pub use root::Root;
pub use tool::{Ran, redact};

/// Whether this runs in the lab, as `cargo xtask lab test` says by `KLD_LAB=1`.
pub fn in_lab() -> bool {
    std::env::var("KLD_LAB").is_ok_and(|value| value == "1")
}
