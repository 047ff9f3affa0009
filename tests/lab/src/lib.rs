//! The lab: a Debian guest with a real kernel, OpenZFS, WireGuard, libvirt and nested KVM, restored in seconds on a
//! machine that has none of them.
//!
//! [`Parts`] are what it is made of; [`Labs`] are those that stay up between commands.
#![deny(missing_docs)]

mod labs;
mod parts;
pub mod recipe;
pub mod tools;
pub mod zfs_2_1;

pub use labs::{Keeper, Labs};
pub use parts::Parts;
