//! Name and UUID, wherever the definition says them.

use kld_core::MachineName;
use uuid::Uuid;

use super::Definition;
use super::definition::parse_uuid;
use super::xml::Element;

impl Definition {
    /// Gives it another name and UUID.
    ///
    /// The SMBIOS entries that repeat the UUID follow: libvirt refuses a definition in which they differ.
    pub fn set_identity(&mut self, name: &MachineName, uuid: Uuid) {
        let old = self.uuid();
        self.name = name.to_string();
        let root = self.root_mut();
        root.ensure("name", 1).set_text(name.as_str());
        let text = uuid.to_string();
        match root.child_mut("uuid") {
            Some(element) => element.set_text(text.as_str()),
            None => drop(root.append_after(&["name"], Element::new("uuid").with_text(text.as_str()), 1)),
        }
        if let Some(hardware) = root.child_mut("hwuuid") {
            hardware.set_text(text.as_str());
        }
        for entry in smbios_entries_mut(root) {
            // A UUID that is not the domain's is still the machine's identity, and may not be shared.
            let is_uuid = entry.0 == "system" && entry.1.is("name", "uuid");
            if is_uuid || old.is_some() && parse_uuid(&entry.1.text()) == old {
                entry.1.set_text(text.as_str());
            }
        }
    }
}

/// The entries of SMBIOS tables, each with the table that it stands in.
pub(super) fn smbios_entries_mut(root: &mut Element) -> impl Iterator<Item = (String, &mut Element)> {
    root.children_mut("sysinfo")
        .filter(|sysinfo| sysinfo.get("type").unwrap_or("smbios") == "smbios")
        .flat_map(|sysinfo| sysinfo.elements_mut())
        .flat_map(|table| {
            let name = table.name().to_string();
            table.children_mut("entry").map(move |entry| (name.clone(), entry))
        })
}
