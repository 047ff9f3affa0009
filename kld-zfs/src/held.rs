//! A volume's device, held open.
//!
//! A device appears, and where `volmode` is set as its volume is made, OpenZFS removes it once more and makes it anew;
//! udev's links come and go a while after that. A device that somebody has open stays, and so does its node.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kld_core::Result;
use kld_core::error::Trying;
use kld_core::retry::Patience;

use crate::{DatasetName, device};

/// How often a device may go between its being found and its being opened.
const PATIENCE: Duration = Duration::from_secs(10);

/// A volume's device that stays while this lives.
#[derive(Debug)]
pub struct Held {
    _file: File,
    node: PathBuf,
}

impl Held {
    /// Waits for a volume's device, and opens it.
    pub fn open(dataset: &DatasetName) -> Result<Held> {
        let opened = || device::wait(dataset).and_then(|link| open(&link, dataset));
        Patience::of(PATIENCE).retry(|_| true, opened)
    }

    /// The kernel's own node of the device, such as `/dev/zd16`.
    pub fn node(&self) -> &Path {
        &self.node
    }
}

fn open(link: &Path, dataset: &DatasetName) -> Result<Held> {
    let what = || format!("cannot open {}", link.display());
    let node = link.canonicalize().trying(what)?;
    let file = File::open(&node).trying(what)?;
    // It may have become another volume's between the two.
    device::verify_device(&node, dataset)?;
    Ok(Held { _file: file, node })
}
