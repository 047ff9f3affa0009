//! What a running domain's definition says that is true of that run only.

use super::Definition;
use super::xml::Element;

/// The kinds of device that carry a character device.
pub(super) const CHARDEVS: [&str; 7] =
    ["serial", "parallel", "console", "channel", "redirdev", "smartcard", "rng"];

impl Definition {
    /// Removes what the last run left: a live definition becomes one that can be started again, anywhere.
    pub(super) fn forget_run(&mut self) {
        let root = self.root_mut();
        root.unset("id");
        root.children_mut("seclabel").filter(|label| is_dynamic(label)).for_each(|label| {
            label.remove(|child| matches!(child.name(), "label" | "imagelabel"));
        });
        for device in root.children_mut("devices").flat_map(|devices| devices.elements_mut()) {
            // Aliases that people give start with 'ua-'; the others are given at each start.
            device.remove(|child| {
                child.name() == "alias" && child.get("name").is_some_and(|name| !name.starts_with("ua-"))
            });
            match device.name() {
                "disk" => forget_disk(device),
                "interface" => forget_interface(device),
                "graphics" => forget_graphics(device),
                "vsock" => {
                    if let Some(cid) = device.child_mut("cid").filter(|cid| cid.is("auto", "yes")) {
                        cid.unset("address");
                    }
                }
                name if CHARDEVS.contains(&name) => forget_chardev(device),
                _ => {}
            }
        }
    }
}

fn is_dynamic(label: &Element) -> bool {
    // The DAC driver writes its label with the type it has, and 'dynamic' is the default.
    label.get("type").unwrap_or("dynamic") == "dynamic"
}

fn forget_disk(disk: &mut Element) {
    disk.remove(|child| child.name() == "mirror");
    if let Some(source) = disk.child_mut("source") {
        source.unset("index");
        source.remove(|child| child.name() == "privateData");
    }
}

fn forget_interface(interface: &mut Element) {
    let kind = interface.get("type").unwrap_or_default().to_string();
    interface.remove(|child| {
        child.name() == "target"
            && child.get("dev").is_some_and(is_given_device)
            && child.attributes().count() == 1
    });
    if let Some(target) = interface.child_mut("target").filter(|t| t.get("dev").is_some_and(is_given_device))
    {
        target.unset("dev");
    }
    if let Some(source) = interface.child_mut("source") {
        source.unset("portid");
        // Of a network, a running domain tells which bridge it is; a definition names the network alone.
        if kind == "network" {
            source.unset("bridge");
        }
    }
}

/// True for host devices that libvirt named.
fn is_given_device(name: &str) -> bool {
    ["vnet", "vif", "macvtap", "macvlan"].iter().any(|prefix| {
        name.strip_prefix(prefix).is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    })
}

fn forget_graphics(graphics: &mut Element) {
    if graphics.is("autoport", "yes") {
        for name in ["port", "tlsPort"] {
            if !graphics.is(name, "-1") {
                graphics.unset(name);
            }
        }
    }
    if graphics.is("websocketGenerated", "yes") {
        graphics.unset("websocketGenerated");
        graphics.set("websocket", "-1");
    }
    let given = |element: &Element| element.get("socket").is_some_and(is_given_path);
    if given(graphics) {
        graphics.unset("socket");
    }
    for listen in graphics.children_mut("listen") {
        if given(listen) {
            listen.unset("socket");
        }
    }
}

fn forget_chardev(device: &mut Element) {
    let is_pty = device.is("type", "pty");
    // Only channels get a socket from libvirt where the definition names none.
    let is_channel = device.name() == "channel" && device.is("type", "unix");
    device.unset("tty");
    device.remove(|child| {
        child.name() == "source" && (is_pty || is_channel && child.get("path").is_some_and(is_given_path))
    });
    if let Some(target) = device.child_mut("target") {
        target.unset("state");
    }
}

/// True for sockets that libvirt places itself, in a folder named after the domain.
fn is_given_path(path: &str) -> bool {
    ["/var/lib/libvirt/", "/run/libvirt/", "/var/run/libvirt/"].iter().any(|folder| path.starts_with(folder))
        || path.contains("domain-")
}
