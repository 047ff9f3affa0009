//! The definition as a whole: its name, its size, and the tree behind it.

use std::fmt;
use std::path::{Path, PathBuf};

use kld_core::{ByteSize, Error, Result};
use uuid::Uuid;

use super::xml::{Document, Element};

/// A libvirt domain definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    document: Document,
    /// The text of `<name>`, which may be written in several pieces.
    pub(super) name: String,
}

impl Definition {
    /// Reads a definition as `virsh dumpxml` prints it.
    pub fn parse(text: &str) -> Result<Self> {
        Self::from_document(Document::parse(text)?)
    }

    pub(super) fn from_document(document: Document) -> Result<Self> {
        let root = document.root();
        if root.name() != "domain" {
            let found: String = root.name().chars().take(40).collect();
            return Err(Error::failed("this is not a domain definition", format!("its root is <{found}>")));
        }
        let name = root.text_at("name").unwrap_or_default();
        if name.is_empty() {
            return Err(Error::failed("this is not a domain definition", "it has no <name>"));
        }
        Ok(Definition { document, name })
    }

    /// The definition as libvirt reads it.
    pub fn to_xml(&self) -> String {
        self.document.to_string()
    }

    /// The whole tree.
    pub fn root(&self) -> &Element {
        self.document.root()
    }

    pub(super) fn root_mut(&mut self) -> &mut Element {
        self.document.root_mut()
    }

    /// Its name; foreign domains may have names that are no [`kld_core::MachineName`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its UUID, where it has one that can be read; libvirt gives one to a definition that has none.
    pub fn uuid(&self) -> Option<Uuid> {
        parse_uuid(&self.root().text_at("uuid")?)
    }

    /// How it runs: `kvm` on hardware virtualisation, `qemu` in software emulation.
    pub fn kind(&self) -> &str {
        self.root().get("type").unwrap_or("kvm")
    }

    /// The machine type, such as `q35` or `pc-i440fx-9.2`.
    pub fn machine(&self) -> &str {
        self.root().find("os/type").and_then(|os| os.get("machine")).unwrap_or_default()
    }

    /// The memory that it starts with; zero where the definition does not say it in `<memory>`.
    pub fn memory(&self) -> ByteSize {
        let Some(memory) = self.root().child("memory") else { return ByteSize::default() };
        let unit = match memory.get("unit").unwrap_or("KiB").to_ascii_lowercase().as_str() {
            "b" | "byte" | "bytes" => 1,
            "kb" => 1000,
            "k" | "kib" => 1 << 10,
            "mb" => 1000 * 1000,
            "m" | "mib" => 1 << 20,
            "gb" => 1000 * 1000 * 1000,
            "g" | "gib" => 1 << 30,
            "tb" => 1000 * 1000 * 1000 * 1000,
            "t" | "tib" => 1 << 40,
            _ => 0,
        };
        ByteSize::new(memory.text().trim().parse::<u64>().unwrap_or(0).saturating_mul(unit))
    }

    /// The processors that it starts with.
    pub fn cpus(&self) -> u32 {
        let Some(vcpu) = self.root().child("vcpu") else { return 1 };
        let count = |text: &str| text.trim().parse().ok();
        vcpu.get("current").and_then(count).or_else(|| count(&vcpu.text())).unwrap_or(1)
    }

    /// Where its UEFI variables are kept.
    pub fn nvram(&self) -> Option<PathBuf> {
        let nvram = self.root().find("os/nvram")?;
        let path = match nvram.child("source") {
            Some(source) => source.get("file").or_else(|| source.get("dev"))?.to_string(),
            None => nvram.text().trim().to_string(),
        };
        (!path.is_empty()).then(|| PathBuf::from(path))
    }

    /// Names another file for its UEFI variables; the template that new ones are made from is kept.
    pub fn set_nvram(&mut self, path: &Path) -> Result<()> {
        let path = text_of(path)?;
        let os = self.root_mut().ensure("os", 1);
        if os.child("nvram").is_none() {
            os.append_after(&["type", "firmware", "loader"], Element::new("nvram"), 2);
        }
        let nvram = os.ensure("nvram", 2);
        nvram.unset("type");
        nvram.set_text(path);
        Ok(())
    }
}

impl fmt::Display for Definition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.document.fmt(f)
    }
}

/// Reads a UUID as libvirt does: any white space around it, with or without dashes.
pub(super) fn parse_uuid(text: &str) -> Option<Uuid> {
    Uuid::try_parse(text.trim()).ok()
}

/// A path as XML can say it.
pub(super) fn text_of(path: &Path) -> Result<&str> {
    let refused = |why: &str| {
        Error::usage(format!(
            "the path '{}' cannot stand in a definition: {why}",
            path.display().to_string().escape_debug()
        ))
    };
    let text = path.to_str().ok_or_else(|| refused("it is not UTF-8"))?;
    if text.chars().any(char::is_control) {
        return Err(refused("it has control characters"));
    }
    Ok(text)
}
