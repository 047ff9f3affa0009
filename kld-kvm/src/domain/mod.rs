//! libvirt domain definitions: typed where kld needs it, kept as they are everywhere else.
//!
//! A [`Definition`] is the whole XML tree. What kld does not know (elements, attributes, namespaces, comments and
//! their order) is written back as it was read, so that `virsh define` of the output does what `virsh define` of the
//! input does, apart from what was set.

mod chardev;
mod clone;
mod definition;
mod disks;
mod identity;
mod interfaces;
mod mac;
mod new;
mod paths;
mod runtime;
mod seed;
mod template;
pub mod xml;

#[cfg(test)]
mod tests;

pub use definition::Definition;
pub use disks::{Device, Disk, Source};
pub use interfaces::{Interface, InterfaceKind};
pub use mac::{FreshMacs, MacAddress};
pub use new::{DirectKernel, Firmware, NewDomain, NewNetwork};
pub use seed::SEED_SERIAL;
