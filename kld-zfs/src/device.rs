//! Which dataset a block device really is.
//!
//! `/dev/zvol/POOL/NAME` is a link that udev makes some time after the device appears, and that may point at the
//! device of another volume: numbers are given again. The device itself knows its dataset.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kld_core::error::Trying;
use kld_core::retry::Patience;
use kld_core::{Error, Result, lock};

use crate::{DatasetName, PoolName, pool, udev};

/// Where udev makes the links.
pub const FOLDER: &str = "/dev/zvol";

/// The longest that a device's link may take. A loaded host with many new devices takes seconds.
const PATIENCE: Duration = Duration::from_secs(10);
const NAME_LENGTH: usize = 256;
/// What opening a volume ends with where OpenZFS has waited a second for the lock of all pools. It has no name outside
/// the kernel.
const ERESTARTSYS: i32 = 512;
const UDEV: &str =
    "udev is behind or a rule of it is wrong: run 'udevadm trigger --settle --subsystem-match=block'";

mod ioctl {
    nix::ioctl_read! {
        /// BLKZNAME, from OpenZFS's sys/fs/zfs.h: the name of a volume's dataset.
        blkzname, 0x12, 125, [u8; super::NAME_LENGTH]
    }
}

/// Where a volume's device is found.
pub fn path(dataset: &DatasetName) -> PathBuf {
    Path::new(FOLDER).join(dataset.as_str())
}

/// The dataset of which this path would be the device, by its name alone.
pub fn dataset_of(path: &Path) -> Option<DatasetName> {
    DatasetName::parse(path.strip_prefix(FOLDER).ok()?.to_str()?).ok()
}

/// The name of the dataset whose device this is, as the kernel says.
pub fn name_of(path: &Path) -> Result<String> {
    look(path).map(|(name, _)| name)
}

/// The dataset's name, and the device's number.
fn look(path: &Path) -> Result<(String, u64)> {
    let what = || format!("cannot look at the device {}", path.display());
    let file =
        File::options().read(true).custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC).open(path);
    let file = match file {
        Err(error) if error.raw_os_error() == Some(ERESTARTSYS) => {
            return Err(Error::busy(format!("{}: other work keeps its pool busy", what())));
        }
        file => file.trying(what)?,
    };
    let meta = file.metadata().trying(what)?;
    if !meta.file_type().is_block_device() {
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
    Ok((String::from_utf8_lossy(&name[..end]).into_owned(), meta.rdev()))
}

/// A volume's size in bytes, as its device has it; `None` where the device is not there or is another one. A listing
/// would tell too, and takes a program's start. The pool must not be suspended.
pub fn size_of(dataset: &DatasetName) -> Option<u64> {
    /// In which the kernel tells the sizes of all its devices.
    const SECTOR: u64 = 512;
    let (name, number) = look(&path(dataset)).ok()?;
    let (major, minor) = (nix::libc::major(number), nix::libc::minor(number));
    let text = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/size")).ok()?;
    let sectors = text.trim().parse::<u64>().ok().filter(|_| name == dataset.as_str())?;
    Some(sectors * SECTOR)
}

/// Whether somebody has a volume open: as a file system or the like, which is exclusive, or in QEMU or one of its tools.
/// A volume without a device, or whose device cannot be looked at now, counts as not in use.
pub fn in_use(path: &Path) -> Result<bool> {
    let flags = nix::libc::O_EXCL | nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC;
    match File::options().read(true).custom_flags(flags).open(path) {
        Ok(file) => {
            lock::held_by_qemu(&file).trying(|| format!("cannot ask for locks on {}", path.display()))
        }
        Err(error) => Ok(error.kind() == std::io::ErrorKind::ResourceBusy),
    }
}

/// Makes sure that the device at this path is the volume that is meant.
///
/// # Errors
/// [`Error::Refused`] where it is another one: a guest that is started on it would write to another machine's disk.
pub fn verify_device(path: &Path, dataset: &DatasetName) -> Result<()> {
    same(path, &name_of(path)?, dataset.as_str())
}

fn same(path: &Path, found: &str, meant: &str) -> Result<()> {
    if found == meant {
        return Ok(());
    }
    let (found, meant) = (found.escape_debug(), meant.escape_debug());
    Err(Error::refused(format!("{} is the volume {found}, not {meant}", path.display())).with_hint(UDEV))
}

/// Makes sure that each of these paths is the device that its name promises: the volume of this name, a partition of
/// it (`-part1`) or a snapshot (`@tag`). What lies elsewhere than under `/dev/zvol` promises nothing. Links that are
/// late are waited for, with one patience for all.
///
/// # Errors
/// As [`verify_device`].
pub fn verify_paths(paths: &[PathBuf]) -> Result<()> {
    let patience = Patience::of(PATIENCE);
    let promises = paths.iter().filter_map(|path| Some((path, path.strip_prefix(FOLDER).ok()?.to_str()?)));
    promises.into_iter().try_for_each(|(path, meant)| {
        let mut link = Awaited::new(path);
        let verify = || {
            // Opening a volume of a suspended pool may never return.
            pool::guard_pool(&PoolName::parse(meant.split('/').next().unwrap_or_default())?)?;
            let (volume, number) = look(path).map_err(|error| error.with_hint(UDEV))?;
            same(path, &name_by_udev(&volume, partition(number).as_deref()), meant)
        };
        patience.retry(|_| true, || verify().inspect_err(|_| link.is_missing_still()))
    })
}

/// How udev names the device of a volume: what cannot be in a link's name is written as `+`.
fn name_by_udev(volume: &str, partition: Option<&str>) -> String {
    let name = volume.replace(' ', "+");
    partition.map_or(name.clone(), |number| format!("{name}-part{number}"))
}

/// Which partition of its disk a block device is; `None` for a whole disk.
fn partition(number: u64) -> Option<String> {
    let (major, minor) = (nix::libc::major(number), nix::libc::minor(number));
    let text = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/partition")).ok()?;
    Some(text.trim().to_string())
}

/// Waits until the volume's device is there and is the one that is meant.
pub fn wait(dataset: &DatasetName) -> Result<PathBuf> {
    let path = path(dataset);
    let mut link = Awaited::new(&path);
    let verify = || verify_device(&path, dataset).inspect_err(|_| link.is_missing_still());
    Patience::of(PATIENCE).retry(|_| true, verify)?;
    Ok(path)
}

/// A link that is waited for. udev is reminded of the device when it should have come to it.
struct Awaited<'a> {
    link: &'a Path,
    since: Instant,
}

impl<'a> Awaited<'a> {
    /// When udev is reminded, and again.
    const AFTER: Duration = Duration::from_secs(2);

    fn new(link: &'a Path) -> Self {
        Awaited { link, since: Instant::now() }
    }

    fn is_missing_still(&mut self) {
        if self.since.elapsed() < Self::AFTER || self.link.symlink_metadata().is_ok() {
            return;
        }
        if let Some(dataset) = dataset_of(self.link) {
            udev::remind(&dataset);
        }
        self.since = Instant::now();
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
    fn a_device_is_named_as_udev_names_it() {
        assert_eq!(name_by_udev("tank/web", None), "tank/web");
        assert_eq!(name_by_udev("tank/my web", Some("12")), "tank/my+web-part12");
    }

    #[test]
    fn what_is_no_volume_by_its_path_is_not_looked_at() {
        verify_paths(&["/dev/null".into(), "/nonexistent/disk.qcow2".into(), "/dev/zvolume/a".into()])
            .unwrap();
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
