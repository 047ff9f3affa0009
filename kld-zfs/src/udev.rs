//! Volumes that udev has missed.
//!
//! udev opens each new volume to learn its name. While much is made at once, OpenZFS ends such an open with an error
//! after a second (`zvol_open_timeout_ms`), and udev gives the device no link and does not try again. It does when it is
//! told of the device once more.

use std::path::{Path, PathBuf};

use crate::DatasetName;
use crate::device;

/// Where udev writes down what it has made of each device. It is udev's own affair: what is not as expected is left.
const RECORDS: &str = "/run/udev/data";
const BLOCK: &str = "/sys/block";

/// Has udev look once more at the device of a volume that it has seen and given no link. Nothing is promised: udev may
/// be late, or the caller may not be root.
pub fn remind(dataset: &DatasetName) {
    for device in missed() {
        let node = device.file_name().map(|name| Path::new("/dev").join(name));
        if node.is_some_and(|node| device::name_of(&node).is_ok_and(|name| name == dataset.as_str())) {
            let _ = std::fs::write(device.join("uevent"), "add");
            return;
        }
    }
}

/// The volumes' devices of which udev has a record that names no link, by their folders in sysfs.
fn missed() -> Vec<PathBuf> {
    let devices = std::fs::read_dir(BLOCK).into_iter().flatten().flatten();
    let volumes = devices.filter(|device| device.file_name().to_string_lossy().starts_with("zd"));
    volumes
        .map(|device| device.path())
        .filter(|device| record(device).is_some_and(|text| !has_link(&text)))
        .collect()
}

fn record(device: &Path) -> Option<String> {
    let number = std::fs::read_to_string(device.join("dev")).ok()?;
    std::fs::read_to_string(Path::new(RECORDS).join(format!("b{}", number.trim()))).ok()
}

/// Whether a record names a link below `/dev/zvol`.
fn has_link(record: &str) -> bool {
    record.lines().any(|line| line.strip_prefix("S:zvol/").is_some_and(|name| !name.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_tells_whether_the_volume_has_its_link() {
        let made = "S:disk/by-diskseq/70\nS:zvol/tank/kld/web/vda\nI:219801381\nE:ID_FS_TYPE=\nV:1\n";
        assert!(has_link(made));
        assert!(!has_link(&made.replace("S:zvol/tank/kld/web/vda\n", "")));
        assert!(!has_link("S:zvol/\n"));
        assert!(!has_link(""));
    }
}
