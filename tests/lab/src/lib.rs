//! The lab: a Debian guest with OpenZFS, WireGuard and nested KVM.
#![deny(missing_docs)]

pub mod recipe;
