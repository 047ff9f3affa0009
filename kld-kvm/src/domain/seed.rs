//! The CD-ROM that seeds a guest (NoCloud).

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use kld_core::Result;
use kld_core::store::VolumeFormat;

use super::Definition;
use super::definition::text_of;
use super::disks::Device;
use super::xml::Element;

/// The serial number by which kld knows its own CD-ROM again.
pub const SEED_SERIAL: &str = "kld-seed";

impl Definition {
    /// The image of the seed CD-ROM that kld made.
    pub fn seed(&self) -> Option<PathBuf> {
        let seed = self
            .disks()
            .into_iter()
            .find(|disk| disk.device == Device::Cdrom && disk.serial.as_deref() == Some(SEED_SERIAL));
        seed?.source.path().map(Path::to_path_buf)
    }

    /// Puts an image into the seed CD-ROM; adds the drive where there is none.
    ///
    /// A new drive takes the first free place on the machine's own bus for such drives: SATA on q35, IDE on pc while
    /// it has room, SCSI elsewhere.
    pub fn set_seed(&mut self, path: &Path) -> Result<()> {
        let known = self
            .disks()
            .into_iter()
            .find(|disk| disk.device == Device::Cdrom && disk.serial.as_deref() == Some(SEED_SERIAL));
        if let Some(disk) = known {
            return self.set_disk(&disk.target, path, VolumeFormat::Raw);
        }
        let text = text_of(path)?;
        let (target, bus) = self.free_drive();
        let disk = Element::new("disk")
            .with("type", "file")
            .with("device", "cdrom")
            .with_child(Element::new("driver").with("name", "qemu").with("type", "raw"))
            .with_child(Element::new("source").with("file", text))
            .with_child(Element::new("target").with("dev", target).with("bus", bus))
            .with_child(Element::new("readonly"))
            .with_child(Element::new("serial").with_text(SEED_SERIAL));
        self.root_mut().ensure("devices", 1).append_after(&["emulator", "disk"], disk, 2);
        Ok(())
    }

    /// A target that no disk has, whose address on the bus is free too.
    fn free_drive(&self) -> (String, &'static str) {
        let (bus, letters, places) = match self.machine() {
            pc if pc == "pc" || pc.starts_with("pc-i440fx") || pc == "isapc" => ("ide", "hd", 4),
            q35 if q35 == "q35" || q35.starts_with("pc-q35") => ("sata", "sd", 1 << 10),
            _ => ("scsi", "sd", 1 << 10),
        };
        let named: HashSet<String> = self.disks().into_iter().map(|disk| disk.target).collect();
        let free = |bus, letters: &str, places: usize| {
            let held: HashSet<Place> = self.disk_elements().filter_map(|disk| Place::of(disk, bus)).collect();
            (0..places)
                .map(|index| (format!("{letters}{}", suffix(index)), Place::default_of(bus, index)))
                .find(|(target, place)| !named.contains(target) && !held.contains(place))
                .map(|(target, _)| (target, bus))
        };
        // Four IDE drives are all that a pc has; libvirt adds a SATA controller for one more.
        free(bus, letters, places).or_else(|| free("sata", "sd", 1 << 10)).unwrap_or(("sda".to_string(), bus))
    }
}

/// The letters of the n-th disk: a, b, ... z, aa, ab, ...
fn suffix(index: usize) -> String {
    let letter = char::from(b'a' + (index % 26) as u8);
    match index / 26 {
        0 => letter.to_string(),
        more => suffix(more - 1) + &letter.to_string(),
    }
}

/// A place on a drive bus: controller, bus, unit.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Place(usize, usize, usize);

impl Place {
    /// The place that libvirt gives to the disk of this index where the definition names none.
    fn default_of(bus: &str, index: usize) -> Self {
        match bus {
            "ide" => Place(index / 4, index % 4 / 2, index % 2),
            "sata" => Place(index / 6, 0, index % 6),
            // Narrow SCSI has 16 units, of which the controller takes number 7.
            _ => Place(index / 7, 0, index % 7),
        }
    }

    /// The place that a disk on this bus names.
    fn of(disk: &Element, bus: &str) -> Option<Self> {
        let address = disk.child("address")?;
        let number = |name| address.get(name).unwrap_or("0").parse().ok();
        if disk.child("target")?.get("bus") != Some(bus) || !address.is("type", "drive") {
            return None;
        }
        Some(Place(number("controller")?, number("bus")?, number("unit")?))
    }
}
