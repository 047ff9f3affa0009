//! Definitions of new machines.

use std::path::{Path, PathBuf};

use kld_core::store::VolumeFormat;
use kld_core::{ByteSize, MachineName, Result};
use uuid::Uuid;

use super::definition::text_of;
use super::xml::{Document, Element};
use super::{Definition, MacAddress};

/// How a new machine reaches the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewNetwork {
    /// It does not.
    None,
    /// Through a network that libvirt manages.
    Network(String),
    /// Through a bridge of the host.
    Bridge(String),
    /// Through the emulator's own user-mode network: outgoing connections only.
    User,
}

/// What starts first in a new machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS.
    Bios,
    /// OVMF, chosen by libvirt among those that the host has.
    Uefi {
        /// Only signed boot loaders start.
        secure_boot: bool,
        /// Where its variables are kept.
        nvram: PathBuf,
    },
}

/// A kernel that the emulator loads itself, without a boot loader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectKernel {
    /// The kernel's file on the host.
    pub kernel: PathBuf,
    /// The initial RAM disk's file on the host.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line.
    pub cmdline: String,
}

/// What a new machine is made of: an x86-64 q35 with virtio devices, a serial console and the guest agent's channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDomain {
    /// Its name.
    pub name: MachineName,
    /// Its UUID.
    pub uuid: Uuid,
    /// `kvm`, or `qemu` for software emulation.
    pub kind: String,
    /// Its processors.
    pub cpus: u32,
    /// Its memory; rounded down to KiB.
    pub memory: ByteSize,
    /// Its disks: target, file or device, format. `vda` hangs on virtio, `sda` on SATA.
    pub disks: Vec<(String, PathBuf, VolumeFormat)>,
    /// An installer's ISO image, which is then booted first.
    pub cdrom: Option<PathBuf>,
    /// The NoCloud seed image.
    pub seed: Option<PathBuf>,
    /// How it reaches the network.
    pub network: NewNetwork,
    /// The address of its network card.
    pub mac: MacAddress,
    /// What starts first in it.
    pub firmware: Firmware,
    /// A kernel to load without a boot loader.
    pub kernel: Option<DirectKernel>,
    /// The operating system, by libosinfo's identifier: `http://debian.org/debian/13`.
    pub os: Option<String>,
    /// A title for people.
    pub title: Option<String>,
    /// A screen, by VNC on the host's loopback address.
    pub graphics: bool,
}

impl NewDomain {
    /// The definition of this machine.
    ///
    /// # Errors
    /// Where a path cannot be written in XML.
    pub fn definition(&self) -> Result<Definition> {
        let memory = (self.memory.bytes() >> 10).to_string();
        let root = Element::new("domain")
            .with("type", &self.kind)
            .with_child(text("name", self.name.as_str()))
            .with_child(text("uuid", self.uuid.to_string()))
            .with_some(self.title.as_ref().map(|title| text("title", title)))
            .with_some(self.os.as_ref().map(|os| osinfo(os)))
            .with_child(text("memory", &memory).with("unit", "KiB"))
            .with_child(text("vcpu", self.cpus.to_string()).with("placement", "static"))
            .with_child(self.os_element()?)
            .with_child(self.features())
            .with_child(self.cpu())
            .with_child(clock())
            .with_child(text("on_poweroff", "destroy"))
            .with_child(text("on_reboot", "restart"))
            .with_child(text("on_crash", "destroy"))
            .with_child(self.devices()?);
        let mut definition = Definition::from_document(Document::new(root))?;
        if let Some(seed) = &self.seed {
            definition.set_seed(seed)?;
        }
        Ok(definition)
    }

    fn os_element(&self) -> Result<Element> {
        let kind = text("type", "hvm").with("arch", "x86_64").with("machine", "q35");
        let mut os = Element::new("os");
        if let Firmware::Uefi { .. } = self.firmware {
            os.set("firmware", "efi");
        }
        os = os.with_child(kind);
        if let Firmware::Uefi { secure_boot, nvram } = &self.firmware {
            let enabled = if *secure_boot { "yes" } else { "no" };
            let feature = |name| Element::new("feature").with("enabled", enabled).with("name", name);
            // Secure boot without enrolled keys lets everything through.
            let firmware = Element::new("firmware")
                .with_child(feature("enrolled-keys"))
                .with_child(feature("secure-boot"));
            os = os
                .with_child(firmware)
                .with_some(secure_boot.then(|| Element::new("loader").with("secure", "yes")))
                .with_child(text("nvram", text_of(nvram)?));
        }
        if let Some(direct) = &self.kernel {
            let initrd = direct.initrd.as_deref().map(text_of).transpose()?;
            os = os
                .with_child(text("kernel", text_of(&direct.kernel)?))
                .with_some(initrd.map(|path| text("initrd", path)))
                .with_some((!direct.cmdline.is_empty()).then(|| text("cmdline", &direct.cmdline)));
        }
        Ok(os)
    }

    fn features(&self) -> Element {
        // OVMF guards its variables by system management mode.
        let smm = matches!(self.firmware, Firmware::Uefi { secure_boot: true, .. })
            .then(|| Element::new("smm").with("state", "on"));
        Element::new("features")
            .with_child(Element::new("acpi"))
            .with_child(Element::new("apic"))
            .with_some(smm)
    }

    fn cpu(&self) -> Element {
        let mode = if self.kind == "kvm" { "host-passthrough" } else { "maximum" };
        Element::new("cpu").with("mode", mode)
    }

    fn devices(&self) -> Result<Element> {
        let mut devices = Element::new("devices");
        let mut order = 1..;
        let mut boot = || Element::new("boot").with("order", order.next().unwrap_or(1).to_string());
        let cdrom = match &self.cdrom {
            Some(path) => Some(cdrom(path, &self.free_cdrom())?.with_child(boot())),
            None => None,
        };
        for (index, (target, path, format)) in self.disks.iter().enumerate() {
            let disk = disk(target, path, *format)?;
            devices = devices.with_child(if index == 0 { disk.with_child(boot()) } else { disk });
        }
        devices = devices.with_some(cdrom).with_some(self.interface()).with_child(
            Element::new("serial")
                .with("type", "pty")
                .with_child(Element::new("target").with("type", "isa-serial").with("port", "0")),
        );
        devices = devices
            .with_child(
                Element::new("console")
                    .with("type", "pty")
                    .with_child(Element::new("target").with("type", "serial").with("port", "0")),
            )
            .with_child(Element::new("channel").with("type", "unix").with_child(
                Element::new("target").with("type", "virtio").with("name", "org.qemu.guest_agent.0"),
            ));
        if self.graphics {
            devices = devices
                .with_child(
                    Element::new("graphics")
                        .with("type", "vnc")
                        .with("port", "-1")
                        .with("autoport", "yes")
                        .with("listen", "127.0.0.1"),
                )
                .with_child(Element::new("video").with_child(Element::new("model").with("type", "virtio")));
        }
        Ok(devices.with_child(Element::new("memballoon").with("model", "virtio")).with_child(
            Element::new("rng")
                .with("model", "virtio")
                .with_child(text("backend", "/dev/urandom").with("model", "random")),
        ))
    }

    /// The first SATA target that no disk has.
    fn free_cdrom(&self) -> String {
        let named = |target: &String| self.disks.iter().any(|(disk, ..)| disk == target);
        ('a'..='z').map(|letter| format!("sd{letter}")).find(|target| !named(target)).unwrap_or_default()
    }

    fn interface(&self) -> Option<Element> {
        let interface = |kind: &str| {
            Element::new("interface")
                .with("type", kind)
                .with_child(Element::new("mac").with("address", self.mac.to_string()))
        };
        let source = |name: &str, value: &str| Element::new("source").with(name, value);
        let interface = match &self.network {
            NewNetwork::None => return None,
            NewNetwork::Network(name) => interface("network").with_child(source("network", name)),
            NewNetwork::Bridge(name) => interface("bridge").with_child(source("bridge", name)),
            NewNetwork::User => interface("user"),
        };
        Some(interface.with_child(Element::new("model").with("type", "virtio")))
    }
}

fn text(name: &str, text: impl AsRef<str>) -> Element {
    Element::new(name).with_text(text.as_ref())
}

fn osinfo(id: &str) -> Element {
    Element::new("metadata").with_child(
        Element::new("libosinfo:libosinfo")
            .with("xmlns:libosinfo", "http://libosinfo.org/xmlns/libvirt/domain/1.0")
            .with_child(Element::new("libosinfo:os").with("id", id)),
    )
}

/// Timers that drop no ticks while the host is busy, as virt-install sets them.
fn clock() -> Element {
    let timer = |name| Element::new("timer").with("name", name);
    Element::new("clock")
        .with("offset", "utc")
        .with_child(timer("rtc").with("tickpolicy", "catchup"))
        .with_child(timer("pit").with("tickpolicy", "delay"))
        .with_child(timer("hpet").with("present", "no"))
}

/// The cache mode stays QEMU's default: `none` needs O_DIRECT, which not every file system has.
fn disk(target: &str, path: &Path, format: VolumeFormat) -> Result<Element> {
    let (kind, attribute) = match format {
        VolumeFormat::Block => ("block", "dev"),
        VolumeFormat::Qcow2 | VolumeFormat::Raw => ("file", "file"),
    };
    let bus = if target.starts_with("vd") { "virtio" } else { "sata" };
    let driver = Element::new("driver")
        .with("name", "qemu")
        .with("type", format.driver())
        .with("discard", "unmap")
        .with("detect_zeroes", "unmap");
    Ok(Element::new("disk")
        .with("type", kind)
        .with("device", "disk")
        .with_child(driver)
        .with_child(Element::new("source").with(attribute, text_of(path)?))
        .with_child(Element::new("target").with("dev", target).with("bus", bus)))
}

fn cdrom(path: &Path, target: &str) -> Result<Element> {
    Ok(Element::new("disk")
        .with("type", "file")
        .with("device", "cdrom")
        .with_child(Element::new("driver").with("name", "qemu").with("type", "raw"))
        .with_child(Element::new("source").with("file", text_of(path)?))
        .with_child(Element::new("target").with("dev", target).with("bus", "sata"))
        .with_child(Element::new("readonly")))
}
