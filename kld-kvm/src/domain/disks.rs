//! The disks of a definition.

use std::path::{Path, PathBuf};

use kld_core::store::VolumeFormat;
use kld_core::{Error, Result};

use super::Definition;
use super::definition::text_of;
use super::xml::Element;

/// What a disk looks like to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// A hard disk.
    Disk,
    /// A CD-ROM drive.
    Cdrom,
    /// A floppy drive.
    Floppy,
    /// A SCSI disk whose commands go to the host's device.
    Lun,
}

/// Where a disk's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// A block device.
    Block(PathBuf),
    /// Nothing: an empty drive.
    None,
    /// Anything else, in words: `rbd pool/image`, `volume default/web.qcow2`.
    Other(String),
}

impl Source {
    /// The path of a file or of a block device.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Source::File(path) | Source::Block(path) => Some(path),
            Source::None | Source::Other(_) => None,
        }
    }
}

/// A disk as the definition describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Its name in the machine, such as `vda`.
    pub target: String,
    /// The bus that it hangs on, such as `virtio`; empty where libvirt chooses.
    pub bus: String,
    /// What it looks like.
    pub device: Device,
    /// Where its bytes are.
    pub source: Source,
    /// The format that QEMU reads it as, such as `qcow2`.
    pub driver: Option<String>,
    /// The guest cannot write.
    pub readonly: bool,
    /// Several machines may use it at once.
    pub shareable: bool,
    /// The serial number that the guest sees.
    pub serial: Option<String>,
}

impl Disk {
    fn read(disk: &Element) -> Option<Self> {
        let target = disk.child("target")?;
        let device = match disk.get("device").unwrap_or("disk") {
            "cdrom" => Device::Cdrom,
            "floppy" => Device::Floppy,
            "lun" => Device::Lun,
            _ => Device::Disk,
        };
        Some(Disk {
            target: target.get("dev")?.to_string(),
            bus: target.get("bus").unwrap_or_default().to_string(),
            device,
            source: source(disk),
            driver: disk.child("driver").and_then(|driver| driver.get("type")).map(str::to_string),
            // A CD-ROM is read-only whether the definition says so or not.
            readonly: device == Device::Cdrom || disk.child("readonly").is_some(),
            shareable: disk.child("shareable").is_some(),
            serial: disk.text_at("serial").map(|serial| serial.trim().to_string()),
        })
    }
}

fn source(disk: &Element) -> Source {
    let kind = disk.get("type").unwrap_or("file");
    let Some(source) = disk.child("source") else { return Source::None };
    let get = |name| source.get(name).filter(|value: &&str| !value.is_empty());
    match kind {
        "file" => get("file").map_or(Source::None, |path| Source::File(path.into())),
        "block" => get("dev").map_or(Source::None, |path| Source::Block(path.into())),
        "dir" => Source::Other(format!("directory {}", get("dir").unwrap_or_default())),
        "network" => Source::Other(format!(
            "{} {}",
            get("protocol").unwrap_or("network"),
            get("name").unwrap_or_default()
        )),
        "volume" => Source::Other(format!(
            "volume {}/{}",
            get("pool").unwrap_or_default(),
            get("volume").unwrap_or_default()
        )),
        kind => Source::Other(kind.to_string()),
    }
}

impl Definition {
    /// Its disks in order, empty drives among them.
    pub fn disks(&self) -> Vec<Disk> {
        self.disk_elements().filter_map(Disk::read).collect()
    }

    pub(super) fn disk_elements(&self) -> impl Iterator<Item = &Element> {
        self.root().children("devices").flat_map(|devices| devices.children("disk"))
    }

    pub(super) fn disk_element_mut(&mut self, target: &str) -> Option<&mut Element> {
        self.root_mut()
            .children_mut("devices")
            .flat_map(|devices| devices.elements_mut())
            .filter(|device| device.name() == "disk")
            .find(|disk| disk.child("target").and_then(|t| t.get("dev")) == Some(target))
    }

    /// Points a disk at a file or a block device.
    ///
    /// How the disk is used (cache, discard, io, threads, serial, boot order, address) stays. What described the
    /// bytes that it had before goes: backing chain, mirror, slices, external data file, network credentials.
    ///
    /// # Errors
    /// Where there is no disk of this target, the path cannot be written in XML, or a `lun` would become a file.
    pub fn set_disk(&mut self, target: &str, path: &Path, format: VolumeFormat) -> Result<()> {
        let name = self.name.clone();
        let disk = self
            .disk_element_mut(target)
            .ok_or_else(|| Error::usage(format!("the machine '{name}' has no disk '{target}'")))?;
        let path = text_of(path)?;
        if disk.is("device", "lun") && format != VolumeFormat::Block {
            return Err(Error::refused(format!(
                "the disk '{target}' of '{name}' passes SCSI commands to its device, which a file does not understand"
            ))
            .with_hint("change device='lun' to device='disk' in the definition"));
        }
        point(disk, path, format);
        Ok(())
    }
}

fn point(disk: &mut Element, path: &str, format: VolumeFormat) {
    let (kind, attribute) = match format {
        VolumeFormat::Block => ("block", "dev"),
        VolumeFormat::Qcow2 | VolumeFormat::Raw => ("file", "file"),
    };
    let was_local = matches!(disk.get("type").unwrap_or("file"), "file" | "block" | "volume");
    disk.set("type", kind);
    disk.remove(|child| {
        matches!(child.name(), "backingStore" | "mirror") || !was_local && child.name() == "auth"
    });

    let driver = match disk.child_mut("driver") {
        Some(driver) => driver,
        None => disk.append_after(&[], Element::new("driver").with("name", "qemu"), 3),
    };
    driver.set("type", format.driver());

    if disk.child("source").is_none() {
        disk.append_after(&["driver", "auth"], Element::new("source"), 3);
    }
    let source = disk.ensure("source", 3);
    let stale: Vec<String> = source
        .attributes()
        .filter(|(name, _)| *name != "startupPolicy" && *name != attribute)
        .map(|(name, _)| name.to_string())
        .collect();
    stale.iter().for_each(|name| {
        source.unset(name);
    });
    source.set(attribute, path);
    source.remove(|child| match child.name() {
        "seclabel" => false,
        // The clone of an encrypted disk is encrypted with the same key.
        "encryption" => !was_local,
        _ => true,
    });
}
