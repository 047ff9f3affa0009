//! Which dataset a block device really is.
//!
//! `/dev/zvol/POOL/NAME` is a link that udev makes some time after the device appears, and that may point at the
//! device of another volume: numbers are given again. The device itself knows its dataset.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kld_core::error::Trying;
use kld_core::{Error, Result};

use crate::DatasetName;

/// The longest that a device's link may take. A loaded host with many new devices takes seconds.
const PATIENCE: Duration = Duration::from_secs(10);
const NAME_LENGTH: usize = 256;

mod ioctl {
    nix::ioctl_read! {
        /// BLKZNAME, from OpenZFS's sys/fs/zfs.h: the name of a volume's dataset.
        blkzname, 0x12, 125, [u8; super::NAME_LENGTH]
    }
}

/// Where a volume's device is found.
pub fn path(dataset: &DatasetName) -> PathBuf {
    Path::new("/dev/zvol").join(dataset.as_str())
}

/// The dataset of which this path would be the device, by its name alone.
pub fn dataset_of(path: &Path) -> Option<DatasetName> {
    DatasetName::parse(path.strip_prefix("/dev/zvol").ok()?.to_str()?).ok()
}

/// The name of the dataset whose device this is, as the kernel says.
pub fn name_of(path: &Path) -> Result<String> {
    let what = || format!("cannot look at the device {}", path.display());
    let file =
        File::options().read(true).custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC).open(path);
    let file = file.trying(what)?;
    if !file.metadata().trying(what)?.file_type().is_block_device() {
        return Err(Error::failed(what(), "it is not a block device"));
    }
    let mut name = [0; NAME_LENGTH];
    // SAFETY: the file is open, and the kernel writes at most the 256 bytes that are there.
    match unsafe { ioctl::blkzname(file.as_raw_fd(), &mut name) } {
        Ok(_) => {}
        Err(nix::errno::Errno::ENOTTY | nix::errno::Errno::EINVAL) => {
            return Err(Error::failed(what(), "it is not a ZFS volume"));
        }
        Err(other) => return Err(other).trying(what),
    }
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    Ok(String::from_utf8_lossy(&name[..end]).into_owned())
}

/// Makes sure that the device at this path is the volume that is meant.
///
/// # Errors
/// [`Error::Refused`] where it is another one: a guest that is started on it would write to another machine's disk.
pub fn verify_device(path: &Path, dataset: &DatasetName) -> Result<()> {
    let found = name_of(path)?;
    if found == dataset.as_str() {
        return Ok(());
    }
    let shown = found.escape_debug();
    Err(Error::refused(format!("{} is the volume {shown}, not {dataset}", path.display())).with_hint(
        "udev is behind or a rule of it is wrong: run 'udevadm trigger --settle --subsystem-match=block'",
    ))
}

/// Waits until the volume's device is there and is the one that is meant.
pub fn wait(dataset: &DatasetName) -> Result<PathBuf> {
    let path = path(dataset);
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(1);
    loop {
        let seen = verify_device(&path, dataset);
        match seen {
            Ok(()) => return Ok(path),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => std::thread::sleep(pause),
        }
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_zvol_is_told() {
        let error = name_of(Path::new("/dev/null")).unwrap_err();
        assert_eq!(error.to_string(), "cannot look at the device /dev/null: it is not a block device");
    }

    #[test]
    fn a_device_and_its_dataset_are_named_alike() {
        let dataset = DatasetName::parse("tank/kld/web/vda").unwrap();
        assert_eq!(path(&dataset), Path::new("/dev/zvol/tank/kld/web/vda"));
        assert_eq!(dataset_of(&path(&dataset)), Some(dataset));
        assert_eq!(dataset_of(Path::new("/dev/zvol/tank/kld/web/vda@one")), None);
        assert_eq!(dataset_of(Path::new("/dev/sda")), None);
    }
}
