//! Turning a definition into that of a clone.

use std::collections::BTreeMap;

use kld_core::MachineName;
use uuid::Uuid;

use super::chardev::{rename, renamed};
use super::disks::{Device, Source};
use super::identity::smbios_entries_mut;
use super::interfaces;
use super::xml::Element;
use super::{Definition, MacAddress};

impl Definition {
    /// Gives it the identity of a new machine, and returns notes for people: what both machines still share, and what
    /// the clone does not have.
    ///
    /// `macs` gives an address that nobody has in place of an old one, such as [`super::FreshMacs::replace`]. Disks,
    /// UEFI variables and the seed are the caller's: [`Definition::set_disk`], [`Definition::set_nvram`],
    /// [`Definition::set_seed`]. What [`Definition::uncloneable`] lists is not looked at again.
    pub fn become_clone(
        &mut self,
        name: &MachineName,
        uuid: Uuid,
        macs: &mut dyn FnMut(MacAddress) -> MacAddress,
    ) -> Vec<String> {
        let old = self.name.clone();
        let mut notes = Vec::new();
        self.set_template(false);
        self.forget_run();
        self.set_identity(name, uuid);

        let root = self.root_mut();
        if let Some(generation) = root.child_mut("genid") {
            generation.set_text(Uuid::new_v4().to_string());
        }
        for (table, entry) in smbios_entries_mut(root) {
            let text = entry.text();
            if entry.is("name", "serial") && text.trim() != uuid.to_string() && !text.trim().is_empty() {
                notes.push(format!(
                    "both machines tell their guests the {table} serial number '{}'",
                    text.trim()
                ));
            }
        }
        let firmware = root.children("sysinfo").filter(|sysinfo| sysinfo.is("type", "fwcfg"));
        for entry in firmware.flat_map(|sysinfo| sysinfo.children("entry")) {
            if let (Some(name), Some(file)) = (entry.get("name"), entry.get("file")) {
                notes.push(format!("both machines are given {file} as {name}"));
            }
        }
        for label in root.children("seclabel").filter(|label| label.is("type", "static")) {
            let model = label.get("model").unwrap_or("security");
            notes.push(format!(
                "both machines run under the same fixed {model} label, which does not keep them apart"
            ));
        }
        let mut given = BTreeMap::new();
        let mut clone = Clone { old: &old, new: name.as_str(), notes: &mut notes };
        for device in root.children_mut("devices").flat_map(|devices| devices.elements_mut()) {
            if device.name() == "interface" {
                renew_mac(device, &mut given, macs);
            }
            clone.device(device);
        }
        if root.elements().any(|child| child.name().ends_with(":commandline")) {
            notes.push(
                "QEMU arguments that the definition adds are taken over as they are: look for paths, ports and \
                 addresses in them"
                    .to_string(),
            );
        }
        notes
    }

    /// What cannot be cloned, in words: disks whose bytes another machine may write at the same time, or that no store
    /// holds.
    ///
    /// Disks on ordinary files and block devices are not listed: whether those can be cloned is for the store to say.
    pub fn uncloneable(&self) -> Vec<String> {
        let mut found = Vec::new();
        for disk in self.disks() {
            let target = &disk.target;
            let why = match &disk.source {
                _ if disk.readonly => continue,
                Source::None => continue,
                Source::Other(source) => format!("is no local file or block device: {source}"),
                _ if disk.shareable => "is shared with other machines".to_string(),
                _ if disk.device == Device::Lun => "passes SCSI commands to its device".to_string(),
                Source::File(_) | Source::Block(_) => continue,
            };
            found.push(format!("the disk '{target}' {why}"));
        }
        let devices = || self.root().children("devices").flat_map(|devices| devices.elements());
        for memory in devices().filter(|device| device.name() == "memory") {
            let model = memory.get("model").unwrap_or_default();
            let readonly = memory.find("target/readonly").is_some();
            if let Some(path) = memory.text_at("source/path").filter(|_| !readonly) {
                found.push(format!("the {model} memory writes to {}", path.trim()));
            }
        }
        for store in devices().filter(|device| device.name() == "pstore") {
            let path = store.text_at("path").unwrap_or_default();
            found.push(format!("the persistent store writes to {}", path.trim()));
        }
        found
    }
}

/// Interfaces that are two ways to one network (teaming) have one address, before and after.
fn renew_mac(
    interface: &mut Element,
    given: &mut BTreeMap<MacAddress, MacAddress>,
    macs: &mut dyn FnMut(MacAddress) -> MacAddress,
) {
    // An address that cannot be read is none: libvirt would refuse it.
    let fresh = match interfaces::mac(interface) {
        Some(old) => *given.entry(old).or_insert_with(|| macs(old)),
        None => macs(MacAddress::new([0x52, 0x54, 0, 0, 0, 0])),
    };
    if interface.child("mac").is_none() {
        interface.append_after(&[], Element::new("mac"), 3);
    }
    interface.ensure("mac", 3).set("address", fresh.to_string());
}

/// What is done to each device of a clone.
struct Clone<'a> {
    old: &'a str,
    new: &'a str,
    notes: &'a mut Vec<String>,
}

impl Clone<'_> {
    fn device(&mut self, device: &mut Element) {
        match device.name() {
            "interface" => self.interface(device),
            "graphics" => self.graphics(device),
            "hostdev" => {
                let what = hostdev(device);
                self.exclusive(&what);
            }
            "tpm" => self.tpm(device),
            "vsock" => self.vsock(device),
            "shmem" => {
                let name = device.get("name").unwrap_or_default();
                self.notes.push(format!("both machines use the shared memory '{name}'"));
            }
            "filesystem" if device.child("readonly").is_none() => {
                let source = device.child("source");
                let folder = source.and_then(|source| source.get("dir")).unwrap_or("a folder of the host");
                self.notes.push(format!("both machines can write to {folder}"));
                // A virtiofs daemon that people run serves one machine.
                if let Some(socket) = source.and_then(|source| source.get("socket")) {
                    let what = format!("the file system daemon at {socket}");
                    self.exclusive(&what);
                }
            }
            "input" if matches!(device.get("type"), Some("passthrough" | "evdev")) => {
                let source = device.child("source");
                let path = source
                    .and_then(|source| source.get("evdev").or(source.get("dev")))
                    .unwrap_or("its device");
                let what = format!("the input device {path}");
                self.exclusive(&what);
            }
            _ => rename(device, self.old, self.new, self.notes),
        }
    }

    fn exclusive(&mut self, what: &str) {
        self.notes.push(format!(
            "both machines use {what}: '{}' cannot run at the same time as '{}'",
            self.new, self.old
        ));
    }

    fn interface(&mut self, interface: &mut Element) {
        let kind = interface.get("type").unwrap_or_default().to_string();
        let source = interface.child("source");
        let device =
            source.and_then(|source| source.get("dev")).unwrap_or("a device of the host").to_string();
        match kind.as_str() {
            "hostdev" => {
                let what = format!("the network device {}", source.map(address).unwrap_or_default());
                self.exclusive(&what);
            }
            "vdpa" => self.exclusive(&format!("the vDPA device {device}")),
            "direct" if source.is_some_and(|source| source.is("mode", "passthrough")) => {
                self.exclusive(&format!("the whole of {device}"));
            }
            "vhostuser" => {
                if let Some(source) = interface.child_mut("source") {
                    let path = source.get("path").unwrap_or_default().to_string();
                    match renamed(&path, self.old, self.new) {
                        Some(moved) => {
                            self.notes.push(format!("the network socket is {moved} instead of {path}"));
                            source.set("path", moved);
                        }
                        None => self.exclusive(&format!("the network socket {path}")),
                    }
                }
            }
            "server" | "udp" | "mcast" | "client" => {
                let port = source.and_then(|source| source.get("port")).unwrap_or_default();
                self.notes.push(format!("both machines use the socket network on port {port}"));
            }
            _ => {}
        }

        let target = interface.child("target").and_then(|target| target.get("dev")).map(str::to_string);
        if let Some(dev) = target {
            if interface.find("target").is_some_and(|target| target.is("managed", "no")) {
                self.exclusive(&format!("the host's device {dev}"));
            } else {
                if let Some(target) = interface.child_mut("target") {
                    target.unset("dev");
                }
                interface.remove(|child| child.name() == "target" && child.attributes().next().is_none());
                self.notes.push(format!(
                    "the host's device {dev} stays with '{}': the clone's gets a name of its own",
                    self.old
                ));
            }
        }

        // libvirt makes the identities of these ports where there are none; elsewhere they are the switch's to give.
        if let Some(port) = interface.child_mut("virtualport") {
            let made = match port.get("type") {
                Some("802.1Qbg") => "instanceid",
                _ => "interfaceid",
            };
            let known = port.is("type", "midonet");
            if let Some(parameters) = port.child_mut("parameters") {
                if known {
                    let id = parameters.get("interfaceid").unwrap_or_default().to_string();
                    self.exclusive(&format!("the virtual port {id}"));
                } else {
                    parameters.unset(made);
                }
            }
            port.remove(|child| child.name() == "parameters" && child.attributes().next().is_none());
        }
        let parameters =
            interface.child("filterref").into_iter().flat_map(|filter| filter.children("parameter"));
        for parameter in
            parameters.filter(|parameter| parameter.is("name", "IP") || parameter.is("name", "MAC"))
        {
            let value = parameter.get("value").unwrap_or_default();
            self.notes.push(format!(
                "the network filter lets only {value} through, which is the address of '{}'",
                self.old
            ));
        }
        for range in interface.children("portForward").flat_map(|forward| forward.children("range")) {
            let port = range.get("start").unwrap_or_default();
            self.exclusive(&format!("the forwarded port {port}"));
        }
        let backend = interface.child_mut("backend");
        if let Some((backend, path)) =
            backend.and_then(|b| b.get("logFile").map(str::to_string).map(|path| (b, path)))
        {
            match renamed(&path, self.old, self.new) {
                Some(moved) => backend.set("logFile", moved),
                None => self.notes.push(format!("both machines log their network to {path}")),
            }
        }
    }

    fn graphics(&mut self, graphics: &mut Element) {
        let kind = graphics.get("type").unwrap_or_default().to_string();
        let fixed = |port: &str| !port.is_empty() && port != "-1" && port != "0";
        let mut moved = Vec::new();
        for name in ["port", "tlsPort"] {
            if let Some(port) = graphics.get(name).filter(|port| fixed(port)).map(str::to_string) {
                graphics.unset(name);
                moved.push(port);
            }
        }
        if !moved.is_empty() {
            graphics.set("autoport", "yes");
            let (ports, stay) = if moved.len() == 1 { ("port", "stays") } else { ("ports", "stay") };
            self.notes.push(format!(
                "the {kind} {ports} {} {stay} with '{}': the clone gets a free one at each start",
                moved.join(" and "),
                self.old
            ));
        }
        if let Some(port) = graphics.get("websocket").filter(|port| fixed(port)).map(str::to_string) {
            graphics.set("websocket", "-1");
            self.notes.push(format!("the {kind} web socket's port {port} stays with '{}'", self.old));
        }
        let (old, new) = (self.old, self.new);
        let notes = &mut *self.notes;
        let mut socket = |element: &mut Element| {
            let Some(path) = element.get("socket").map(str::to_string) else { return };
            match renamed(&path, old, new) {
                Some(moved) => {
                    notes.push(format!("the {kind} socket is {moved} instead of {path}"));
                    element.set("socket", moved);
                }
                None => {
                    notes.push(format!("both machines use the {kind} socket {path}: give the clone its own"))
                }
            }
        };
        socket(graphics);
        graphics.children_mut("listen").for_each(socket);
    }

    fn tpm(&mut self, tpm: &mut Element) {
        let Some(backend) = tpm.child("backend") else { return };
        let source = backend.child("source");
        if backend.is("type", "passthrough") {
            let path = backend.child("device").and_then(|device| device.get("path")).unwrap_or("/dev/tpm0");
            let what = format!("the TPM {path}");
            self.exclusive(&what);
        } else if let Some(path) = source.and_then(|source| source.get("path")) {
            let what = format!("the TPM state in {path}");
            self.exclusive(&what);
        } else {
            self.notes.push(
                "the clone's TPM starts empty: keys that the guest sealed in the original's (BitLocker, LUKS) are not in it"
                    .to_string(),
            );
        }
    }

    fn vsock(&mut self, vsock: &mut Element) {
        let Some(cid) = vsock.child_mut("cid") else { return };
        if let Some(address) = cid.get("address").map(str::to_string) {
            cid.unset("address");
            cid.set("auto", "yes");
            self.notes.push(format!("the vsock address {address} stays with '{}'", self.old));
        }
    }
}

/// A passed-through device of the host, in words.
fn hostdev(hostdev: &Element) -> String {
    let kind = hostdev.get("type").unwrap_or("host");
    let Some(source) = hostdev.child("source") else { return format!("a {kind} device of the host") };
    match kind {
        "pci" => format!("the PCI device {}", address(source)),
        "mdev" => {
            let id = source.child("address").and_then(|address| address.get("uuid")).unwrap_or_default();
            format!("the mediated device {id}")
        }
        "usb" => {
            let id = |name| {
                source.child(name).and_then(|element| element.get("id")).map(|id| id.trim_start_matches("0x"))
            };
            match (id("vendor"), id("product")) {
                (Some(vendor), Some(product)) => format!("the USB device {vendor}:{product}"),
                _ => {
                    let get =
                        |name| source.child("address").and_then(|address| address.get(name)).unwrap_or("?");
                    format!("the USB device at bus {} device {}", get("bus"), get("device"))
                }
            }
        }
        "scsi" => {
            let adapter = source.child("adapter").and_then(|adapter| adapter.get("name"));
            format!("a SCSI device of {}", adapter.or(source.get("name")).unwrap_or("the host"))
        }
        other => format!("a {other} device of the host"),
    }
}

/// A PCI address as lspci prints it.
fn address(source: &Element) -> String {
    let Some(address) = source.child("address") else {
        return source.get("dev").unwrap_or_default().to_string();
    };
    let number = |name| {
        let text = address.get(name).unwrap_or("0");
        u32::from_str_radix(text.trim_start_matches("0x"), 16).unwrap_or(0)
    };
    format!("{:04x}:{:02x}:{:02x}.{:x}", number("domain"), number("bus"), number("slot"), number("function"))
}
