//! KVM machines: create, clone, snapshot, delete; libvirt; the directory (qcow2) volume store.
#![deny(missing_docs)]

/// The hypervisor that is libvirt.
pub mod libvirt {
    pub mod lazy;
}
