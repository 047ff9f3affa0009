//! KVM machines: create, clone, snapshot, delete; libvirt; the directory (qcow2) volume store.
#![deny(missing_docs)]

pub mod domain;
pub mod image;
pub mod libvirt;
pub mod machine;
pub mod seed;
pub mod store;
