//! The network interfaces of a definition.

use super::xml::Element;
use super::{Definition, MacAddress};

/// How an interface reaches the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InterfaceKind {
    /// A network that libvirt manages.
    Network,
    /// A bridge of the host.
    Bridge,
    /// The emulator's own user-mode network.
    User,
    /// A macvtap device on an interface of the host.
    Direct,
    /// A network device of the host, passed through.
    Hostdev,
    /// Any other type, by libvirt's word.
    Other(String),
}

impl std::fmt::Display for InterfaceKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            InterfaceKind::Network => "network",
            InterfaceKind::Bridge => "bridge",
            InterfaceKind::User => "user",
            InterfaceKind::Direct => "direct",
            InterfaceKind::Hostdev => "hostdev",
            InterfaceKind::Other(kind) => kind,
        })
    }
}

/// A network interface as the definition describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its address; libvirt makes one where there is none.
    pub mac: Option<MacAddress>,
    /// How it reaches the network.
    pub kind: InterfaceKind,
    /// What it is connected to: the name of a network, a bridge or a device.
    pub source: Option<String>,
    /// The card that the guest sees, such as `virtio`.
    pub model: Option<String>,
}

impl Interface {
    fn read(interface: &Element) -> Self {
        let kind = match interface.get("type").unwrap_or("user") {
            "network" => InterfaceKind::Network,
            "bridge" => InterfaceKind::Bridge,
            "user" => InterfaceKind::User,
            "direct" => InterfaceKind::Direct,
            "hostdev" => InterfaceKind::Hostdev,
            other => InterfaceKind::Other(other.to_string()),
        };
        let source = interface.child("source");
        let named = |source: &Element| {
            ["network", "bridge", "dev", "path", "name"]
                .iter()
                .find_map(|name| source.get(name))
                .map(str::to_string)
        };
        Interface {
            mac: mac(interface),
            kind,
            source: source.and_then(named),
            model: interface.child("model").and_then(|model| model.get("type")).map(str::to_string),
        }
    }
}

/// The address of an interface element.
pub(super) fn mac(interface: &Element) -> Option<MacAddress> {
    interface.child("mac")?.get("address")?.parse().ok()
}

impl Definition {
    /// Its network interfaces in order.
    pub fn interfaces(&self) -> Vec<Interface> {
        let devices = self.root().children("devices");
        devices.flat_map(|devices| devices.children("interface")).map(Interface::read).collect()
    }
}
