//! KVM machines: create, clone, snapshot, delete; libvirt; the directory (qcow2) volume store.
#![deny(missing_docs)]

pub mod seed;
