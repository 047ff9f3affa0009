//! What images and the lab are built with: [root trees](root), [kernel modules](modules) for an exact kernel, a
//! [cache](cache) for both, and the [appliance], a small guest that is booted to run commands in it.
//!
//! Nothing here prints; what takes minutes is named so.
#![deny(missing_docs)]

pub mod appliance;
pub mod apt;
pub mod cache;
mod cpio;
mod digest;
pub mod image;
mod initramfs;
pub mod modules;
pub mod root;

pub use appliance::{Agent, Appliance, Design};
pub use cache::Cache;
pub use digest::Digest;
pub use image::Image;
pub use root::{Recipe, Tree};

use kld_core::exec::Exec;

/// A program in mount and process namespaces of its own, with a low priority: it and all that it starts end when
/// this process does, a SIGKILL included, and no mount of it is seen outside.
pub(crate) fn contained(program: &str) -> Exec {
    Exec::new("nice").called(program).args(["--adjustment=5"]).args([
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        program,
    ])
}
