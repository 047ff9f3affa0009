//! QEMU's side of the appliance: which QEMU, how fast a guest can run here, and its arguments.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use kld_core::exec::Exec;
use kld_core::{ByteSize, Error, Result, fsio};

use super::agent::{Agent, PORTS};
use super::network::Plug;
use crate::image::Image;
use crate::root::Tree;

/// How a guest's instructions are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Speed {
    /// By the processor itself.
    Kvm,
    /// By translating them.
    Tcg,
}

/// A QEMU: a tree's own, or the host's where the tree is `/`. It must be 9.0 or newer to save a guest's state.
#[derive(Debug, Clone)]
pub struct Qemu {
    tree: Tree,
}

/// A disk of a guest, empty at its start and gone with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The serial number, by which the guest finds it: `/dev/disk/by-id/virtio-SERIAL`.
    pub serial: String,
    /// Its size; what is not written takes no space.
    pub size: ByteSize,
}

/// Where a guest's disks have their contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disks<'a> {
    /// With the guest: they are empty at its start, and gone with it.
    Own,
    /// In files of this folder, `disk-SERIAL`, which outlive the guest. A missing one is made, empty.
    Kept(&'a Path),
    /// As [`Disks::Kept`], with a record of each disk's writes beside it: see [`Writes`](super::Writes).
    Recorded(&'a Path),
}

impl Disks<'_> {
    /// The file behind a disk of the guest that has this folder.
    pub(super) fn file(self, folder: &Path, disk: &Disk) -> PathBuf {
        match self {
            Disks::Own => disk_file(folder, disk),
            Disks::Kept(kept) | Disks::Recorded(kept) => disk_file(kept, disk),
        }
    }

    /// The record of a disk's writes, where there is to be one.
    pub(super) fn record(self, disk: &Disk) -> Option<PathBuf> {
        match self {
            Disks::Recorded(kept) => Some(record_file(kept, disk)),
            Disks::Own | Disks::Kept(_) => None,
        }
    }

    /// The drive's options but for its name.
    fn drive(self, folder: &Path, disk: &Disk) -> OsString {
        let file = self.file(folder, disk);
        let Some(record) = self.record(disk) else {
            return option("format=raw,cache=unsafe,discard=unmap,file=", &file, "");
        };
        // The guest's flushes reach the record, and go no further.
        let (file, record) = (
            option("file.driver=raw,file.cache.no-flush=on,file.file.filename=", &file, ","),
            option("log.driver=raw,log.cache.no-flush=on,log.file.filename=", &record, ""),
        );
        let mut drive = OsString::from("driver=blklogwrites,cache=writeback,discard=unmap,");
        [file, record].iter().for_each(|part| drive.push(part));
        drive
    }
}

/// A guest's hardware. A saved state fits the same hardware only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Its memory.
    pub memory: ByteSize,
    /// Its processors.
    pub processors: u32,
    /// Its disks.
    pub disks: Vec<Disk>,
    /// How many network interfaces it has.
    pub interfaces: usize,
}

impl Qemu {
    /// The QEMU of a tree.
    pub fn of(tree: &Tree) -> Qemu {
        Qemu { tree: tree.clone() }
    }

    /// What it calls itself.
    pub fn version(&self) -> Result<String> {
        let said = self.program()?.arg("--version").run()?.stdout;
        let said = String::from_utf8_lossy(&said);
        let first = said.lines().next().unwrap_or_default();
        Ok(first.trim_start_matches("QEMU emulator version ").to_string())
    }

    /// Whether the processor can run guests here. A `/dev/kvm` that opens proves nothing: the host must have
    /// hardware virtualisation, and a guest of a few instructions must come to its end.
    pub fn speed(&self) -> Speed {
        static KNOWN: Mutex<Option<Speed>> = Mutex::new(None);
        let mut known = KNOWN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *known.get_or_insert_with(|| if self.kvm_works() { Speed::Kvm } else { Speed::Tcg })
    }

    fn kvm_works(&self) -> bool {
        let cpu = fsio::read_text(Path::new("/proc/cpuinfo"), 16 << 20).ok().flatten().unwrap_or_default();
        if cfg!(target_arch = "x86_64") && !cpu.split_whitespace().any(|flag| matches!(flag, "svm" | "vmx")) {
            return false;
        }
        std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok() && self.tiny_guest_ends()
    }

    /// Boots a firmware that ends QEMU with an exit code of its own.
    fn tiny_guest_ends(&self) -> bool {
        let Ok(file) = tempfile::NamedTempFile::new() else { return false };
        if std::fs::write(file.path(), tiny_firmware()).is_err() {
            return false;
        }
        let qemu = self.program().map(|qemu| {
            qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-accel", "kvm", "-cpu", "max"])
                .args(["-machine", "q35", "-device", "isa-debug-exit,iobase=0xf4", "-bios"])
                .arg(file.path())
                .limit(Duration::from_secs(10))
        });
        qemu.and_then(|qemu| qemu.output()).is_ok_and(|ended| ended.code == Some(TINY_EXIT))
    }

    /// The program, ready for arguments.
    pub(super) fn program(&self) -> Result<Exec> {
        let name = format!("qemu-system-{}", std::env::consts::ARCH);
        let modules = self.tree.libraries().join("qemu");
        let qemu = self.tree.program(&name)?.env("QEMU_MODULE_DIR", &modules.display().to_string());
        let firmware = ["usr/share/qemu", "usr/share/seabios"].map(|folder| self.tree.path(folder));
        Ok(firmware.into_iter().fold(qemu, |qemu, folder| qemu.arg("-L").arg(folder)))
    }
}

/// What QEMU makes of 0x10 written to its debug port.
const TINY_EXIT: i32 = (0x10 << 1) | 1;

/// 64 KiB of firmware: at the reset vector, `mov dx, 0xf4; mov al, 0x10; out dx, al; hlt`.
fn tiny_firmware() -> Vec<u8> {
    let mut firmware = vec![0xf4; 64 << 10];
    firmware[0xfff0..0xfff7].copy_from_slice(&[0xba, 0xf4, 0x00, 0xb0, 0x10, 0xee, 0xf4]);
    firmware
}

/// What a guest's kernel is told: no waiting for clocks that software emulates badly, no work for attackers that a
/// guest of one's own has not.
const COMMAND_LINE: &str = "console=ttyS0 quiet loglevel=4 mitigations=off nokaslr tsc=reliable no_timer_check \
                            random.trust_cpu=on audit=0 panic=-1 net.ifnames=0";

/// The arguments that decide whether a saved state fits: all but the places of files and sockets.
pub(super) fn arguments(
    image: &Image,
    shape: &Shape,
    speed: Speed,
    folder: &Path,
    disks: Disks,
    plugs: &[Plug],
) -> Vec<OsString> {
    let mut line: Vec<OsString> = Vec::new();
    let mut add = |option: &str, value: OsString| line.extend([OsString::from(option), value]);
    let root = if image.root.is_some() { " kld.root" } else { "" };
    add("-nodefaults", "-no-user-config".into());
    add("-display", "none".into());
    add("-machine", "q35".into());
    add("-accel", if speed == Speed::Kvm { "kvm" } else { "tcg,thread=multi" }.into());
    add("-cpu", "max".into());
    add("-m", format!("{}M", shape.memory.bytes() >> 20).into());
    add("-smp", shape.processors.to_string().into());
    add("-no-reboot", "-S".into());
    add("-kernel", image.kernel.clone().into());
    add("-initrd", image.initramfs.clone().into());
    add("-append", format!("{COMMAND_LINE}{root}").into());
    add("-qmp", option("unix:", &folder.join("qmp"), ",server=on,wait=off"));
    add("-serial", option("file:", &folder.join("console"), ""));
    add("-device", "vmgenid,guid=auto".into());
    add("-device", "virtio-rng-pci".into());
    add("-device", "virtio-serial-pci".into());
    for port in 0..PORTS {
        let start = format!("socket,id=agent{port},server=on,wait=off,path=");
        add("-chardev", option(&start, &Agent::socket(folder, port), ""));
        add("-device", format!("virtserialport,chardev=agent{port},name=kld.{port}").into());
    }
    if let Some(root) = &image.root {
        add("-drive", option("if=none,id=root,format=raw,readonly=on,file=", root, ""));
        add("-device", "virtio-blk-pci,drive=root,serial=root".into());
    }
    for (number, disk) in shape.disks.iter().enumerate() {
        let mut drive = OsString::from(format!("if=none,id=disk{number},"));
        drive.push(disks.drive(folder, disk));
        add("-drive", drive);
        add("-device", format!("virtio-blk-pci,drive=disk{number},serial={}", disk.serial).into());
    }
    for number in 0..shape.interfaces {
        let netdev = match plugs.get(number) {
            Some(plug) => {
                let local = format!("dgram,id=net{number},local.type=unix,remote.type=unix,local.path=");
                let mut netdev = option(&local, &plug.local, ",remote.path=");
                netdev.push(option("", &plug.switch, ""));
                netdev
            }
            // An interface that nothing is plugged into.
            None => format!("hubport,id=net{number},hubid={}", 100 + number).into(),
        };
        add("-netdev", netdev);
        let mac = format!("52:54:00:6b:6c:{number:02x}");
        add("-device", format!("virtio-net-pci,netdev=net{number},mac={mac},romfile=").into());
    }
    line
}

/// The file behind a disk.
pub(super) fn disk_file(folder: &Path, disk: &Disk) -> PathBuf {
    folder.join(format!("disk-{}", disk.serial))
}

/// The record of a disk's writes.
pub(super) fn record_file(folder: &Path, disk: &Disk) -> PathBuf {
    folder.join(format!("writes-{}", disk.serial))
}

/// A path within an option: QEMU takes two commas for one.
fn option(before: &str, path: &Path, after: &str) -> OsString {
    let path = path.as_os_str().to_string_lossy().replace(',', ",,");
    format!("{before}{path}{after}").into()
}

/// Refuses hardware that QEMU would read as something else.
pub(super) fn check(shape: &Shape) -> Result<()> {
    for disk in &shape.disks {
        let plain = disk.serial.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        // A virtio disk's serial number has at most 20 bytes.
        if !plain || disk.serial.is_empty() || disk.serial.len() > 20 || disk.serial == "root" {
            return Err(Error::usage(format!("{:?} is no serial number for a disk", disk.serial))
                .with_hint("take up to 20 letters, digits and '-', and not root"));
        }
    }
    Ok(())
}
