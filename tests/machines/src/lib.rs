//! Machines on real ZFS volumes under real KVM: what the tests in the lab share.
#![deny(missing_docs)]
#![allow(
    clippy::print_stderr,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "these are tests"
)]

mod lab;
pub mod mark;
mod watch;

pub use lab::{Lab, PATIENCE};
pub use watch::Begins;
