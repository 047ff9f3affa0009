//! Which ZFS volume a disk is, and whose: the join of a disk's name, its dataset, its machine and what it is a clone of.
//!
//! The device itself says its dataset (the BLKZNAME ioctl), and the program `zfs` the rest: the user property
//! `org.kld:machine`, which volumes inherit from their machine's dataset, and the origin. Neither libvirt nor OpenZFS's
//! libraries are needed.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use kld_core::error::Trying;
use kld_core::exec::Exec;
use kld_core::{Error, Result, fsio};

/// BLKZNAME, from OpenZFS's sys/fs/zfs.h: the name of a volume's dataset, `_IOR(0x12, 125, char[256])`.
const BLKZNAME: libc::Ioctl = 0x8100_127d;
const NAME_LENGTH: usize = 256;
/// Where OpenZFS tells of its pools without ever waiting.
const POOLS: &str = "/proc/spl/kstat/zfs";
/// The property that says whose a dataset is.
const MACHINE: &str = "org.kld:machine";
/// Volumes come and go, and disks' names are given again: so often a name is asked what it is.
const FRESH: Duration = Duration::from_secs(1);
/// The longest that `zfs` may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A ZFS volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its dataset, such as `tank/kld/web-5/vda`.
    pub dataset: String,
    /// The snapshot that it is a clone of.
    pub origin: Option<String>,
    /// The machine that it belongs to.
    pub machine: Option<Machine>,
}

/// A machine, as far as its datasets tell of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Its name: the last part of its dataset's.
    pub name: String,
    /// Its UUID: what `org.kld:machine` says.
    pub uuid: String,
    /// Its dataset, which has its volumes below it, such as `tank/kld/web-5`.
    pub dataset: String,
}

/// What is known of a disk's name.
#[derive(Debug)]
struct Known {
    volume: Volume,
    /// The kernel's number for this very disk, which no other one ever gets (since Linux 5.15).
    number: Option<String>,
    /// Whether ZFS has told the rest.
    whole: bool,
}

/// The volumes that are known by now, by their disks' names.
#[derive(Debug, Default)]
pub struct Volumes {
    known: HashMap<String, Known>,
    asked: HashMap<String, Instant>,
    failure: Option<Error>,
}

impl Volumes {
    /// The volume that a disk is, by the disk's name, such as `zd16`; `None` where it is none, or where that cannot be
    /// found out: see [`failure`](Self::failure). One that is gone is what it was when it was last asked for.
    pub fn of(&mut self, disk: &str) -> Option<&Volume> {
        // Only OpenZFS names disks so: others are not opened.
        let digits = disk.strip_prefix("zd")?;
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        if self.asked.get(disk).is_none_or(|asked| asked.elapsed() >= FRESH) {
            if let Err(error) = self.look(disk) {
                self.failure.get_or_insert(error);
            }
            // What takes long is not asked for all the time.
            self.asked.insert(disk.to_string(), Instant::now());
        }
        self.known.get(disk).map(|known| &known.volume)
    }

    /// Why a volume, the first of all, could not be found out about.
    pub fn failure(&self) -> Option<&Error> {
        self.failure.as_ref()
    }

    /// Asks the device, and ZFS where that is not what it was.
    fn look(&mut self, disk: &str) -> Result<()> {
        let number = fsio::read_text(Path::new(&format!("/sys/block/{disk}/diskseq")), 64)?;
        let what = || format!("cannot tell which ZFS volume {disk} is");
        // What is asked of ZFS then would never end.
        if let Some(pool) = suspended() {
            return Err(Error::failed(what(), format!("the pool {pool} is suspended")));
        }
        let dataset = match dataset(&Path::new("/dev").join(disk)) {
            Err(error) if [libc::ENOENT, libc::ENXIO].map(Some).contains(&error.raw_os_error()) => {
                return Ok(());
            }
            dataset => dataset.trying(what)?,
        };
        let same = |known: &Known| known.whole && known.number == number && known.volume.dataset == dataset;
        if self.known.get(disk).is_some_and(same) {
            return Ok(());
        }
        let asked = ask(&dataset);
        let known = Known {
            volume: volume(dataset, asked.as_deref().unwrap_or_default()),
            number,
            whole: asked.is_ok(),
        };
        self.known.insert(disk.to_string(), known);
        asked.map(drop)
    }
}

/// A pool that waits for its disks.
fn suspended() -> Option<String> {
    let mut pools = std::fs::read_dir(POOLS).into_iter().flatten().flatten();
    let waits = |state: String| state.trim() == "SUSPENDED";
    let pool = pools
        .find(|pool| fsio::read_text(&pool.path().join("state"), 64).ok().flatten().is_some_and(waits))?;
    Some(pool.file_name().to_string_lossy().into_owned())
}

/// The dataset whose device this is, as the kernel says.
fn dataset(path: &Path) -> io::Result<String> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let mut name = [0_u8; NAME_LENGTH];
    // SAFETY: the file is open, and the kernel writes at most the 256 bytes that are there.
    if unsafe { libc::ioctl(file.as_raw_fd(), BLKZNAME, name.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    Ok(String::from_utf8_lossy(&name[..end]).into_owned())
}

/// What ZFS says of a volume.
fn ask(dataset: &str) -> Result<String> {
    let properties = format!("{MACHINE},origin");
    let exec = Exec::new("zfs").args(["get", "-Hp", "-o", "property,value,source", &properties, dataset]);
    let told = exec.limit(PATIENCE).run()?;
    Ok(String::from_utf8_lossy(&told.stdout).into_owned())
}

/// A volume out of what `zfs get -Hp -o property,value,source` prints: a line each, with tabs between.
fn volume(dataset: String, text: &str) -> Volume {
    let mut found = Volume { dataset, origin: None, machine: None };
    for line in text.lines() {
        let mut parts = line.split('\t');
        let (Some(property), Some(value), source) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        match property {
            _ if value == "-" || value.is_empty() => {}
            "origin" => found.origin = Some(value.to_string()),
            MACHINE => found.machine = machine(&found.dataset, value, source.unwrap_or_default()),
            _ => {}
        }
    }
    found
}

/// The machine of a volume: its dataset is the one that the property comes from. Where the volume has it itself, as one
/// that was received alone has, it is the one above.
fn machine(volume: &str, uuid: &str, source: &str) -> Option<Machine> {
    let above = || volume.rsplit_once('/').map(|(above, _)| above);
    let dataset = source.strip_prefix("inherited from ").or_else(above)?;
    let name = dataset.rsplit('/').next().unwrap_or(dataset);
    Some(Machine { name: name.to_string(), uuid: uuid.to_string(), dataset: dataset.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOLUME: &str = "tank/kld/web-5/vda";

    fn told(text: &str) -> Volume {
        volume(VOLUME.to_string(), text)
    }

    #[test]
    fn a_volume_is_its_machine_s_by_what_it_inherits() {
        let text = "org.kld:machine\t0b5-uuid\tinherited from tank/kld/web-5\norigin\ttank/kld/template/vda@kld-clone-1\t-\n";
        let machine = Machine {
            name: "web-5".to_string(),
            uuid: "0b5-uuid".to_string(),
            dataset: "tank/kld/web-5".to_string(),
        };
        let origin = Some("tank/kld/template/vda@kld-clone-1".to_string());
        assert_eq!(told(text), Volume { dataset: VOLUME.to_string(), origin, machine: Some(machine) });
    }

    #[test]
    fn a_volume_that_bears_the_property_itself_is_of_the_machine_above() {
        for source in ["local", "received"] {
            let machine = told(&format!("org.kld:machine\tu\t{source}\n")).machine.unwrap();
            assert_eq!((machine.name.as_str(), machine.dataset.as_str()), ("web-5", "tank/kld/web-5"));
        }
    }

    #[test]
    fn a_volume_may_be_nobody_s_and_no_clone() {
        let nobody = Volume { dataset: VOLUME.to_string(), origin: None, machine: None };
        for text in ["org.kld:machine\t-\t-\norigin\t-\t-\n", "", "nonsense\n\t\t\norigin\t\n"] {
            assert_eq!(told(text), nobody, "{text:?}");
        }
    }

    #[test]
    fn what_openzfs_does_not_name_is_no_volume_and_is_not_opened() {
        let mut volumes = Volumes::default();
        for disk in ["sda", "zd", "zd0p1", "zd/../sda", "zram0", ""] {
            assert_eq!(volumes.of(disk), None, "{disk}");
        }
        assert!(volumes.failure().is_none());
    }

    #[test]
    fn a_volume_that_is_gone_is_none_and_no_failure() {
        let mut volumes = Volumes::default();
        assert_eq!(volumes.of("zd4294967280"), None);
        assert!(volumes.failure().is_none());
    }
}
