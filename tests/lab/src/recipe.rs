//! What the lab is made of.

use kld_build::Recipe;
use kld_build::appliance::{Disk, Shape};
use kld_core::ByteSize;

/// Debian's release, whose kernel and OpenZFS go together.
pub const SUITE: &str = "trixie";

/// What the lab holds beyond Debian's essential packages and apt. QEMU and mkfs.erofs serve the host as well: they
/// run the lab and pack it.
const PACKAGES: &[&str] = &[
    // The machine.
    "busybox-static",
    "erofs-utils",
    "iproute2",
    "iputils-ping",
    "kmod",
    "linux-image-amd64",
    "procps",
    "psmisc",
    "udev",
    "xz-utils",
    "zstd",
    // Storage.
    "dosfstools",
    "e2fsprogs",
    "fdisk",
    "fio",
    "gdisk",
    "lzop",
    "mbuffer",
    "pv",
    "sanoid",
    "zfsutils-linux",
    // Virtual machines.
    "cpio",
    "incus",
    "libvirt-clients",
    "libvirt-daemon",
    "libvirt-daemon-driver-network",
    "libvirt-daemon-driver-nwfilter",
    "libvirt-daemon-driver-qemu",
    "libvirt-daemon-driver-storage",
    "libvirt-daemon-driver-storage-zfs",
    "libvirt-daemon-log",
    "mtools",
    "ovmf",
    "qemu-system-x86",
    "qemu-utils",
    "virtinst",
    // Networks.
    "dnsmasq-base",
    "iperf3",
    "netcat-openbsd",
    "nftables",
    "openssh-client",
    "openssh-server",
    "socat",
    "wireguard-tools",
    // Looking on.
    "bpftool",
    "strace",
];

/// The lab's root tree.
pub fn tree() -> Recipe {
    Recipe {
        name: "lab".to_string(),
        suite: SUITE.to_string(),
        beside: None,
        components: ["main", "contrib"].map(str::to_string).to_vec(),
        packages: PACKAGES.iter().map(ToString::to_string).collect(),
    }
}

/// The lab's hardware: disks `data1` to `data4`, and an interface on the network of the labs that are up together.
pub fn shape() -> Shape {
    let disk = |number: u32| Disk { serial: format!("data{number}"), size: ByteSize::gib(20) };
    Shape { memory: ByteSize::gib(4), processors: 2, disks: (1..=4).map(disk).collect(), interfaces: 1 }
}
