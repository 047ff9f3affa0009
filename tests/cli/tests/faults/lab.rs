//! A libvirt host in a prepared state that can be had again, and all that is on it as text.

use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kld_cli_tests::{eye, image};
use kld_test_support::{Host, redact};

/// Prints every definition as libvirt has written it down.
const DEFINITIONS: &str = "cat /etc/libvirt/qemu/*.xml 2>/dev/null; exit 0";

/// A host with a bystander, foreign files and whatever else a scenario prepares.
pub struct Lab {
    pub host: Host,
    /// The image that machines are made from.
    pub image: String,
    saved: PathBuf,
    domains: Vec<(String, String)>,
}

/// A prepared state for several scenarios. In the lab, where preparing takes longer than a scenario, they use one host
/// after each other, and each finds it as it was prepared.
pub struct Prepared {
    prepare: fn(&Lab),
    shared: Mutex<Option<Lab>>,
}

/// A host in its prepared state.
pub enum Lent {
    Own(Lab),
    Shared(MutexGuard<'static, Option<Lab>>),
}

impl Prepared {
    pub const fn new(prepare: fn(&Lab)) -> Prepared {
        Prepared { prepare, shared: Mutex::new(None) }
    }

    pub fn lend(&'static self) -> Lent {
        if !kld_test_support::in_lab() {
            return Lent::Own(Lab::new(self.prepare));
        }
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        match &*shared {
            Some(lab) => lab.restore(),
            None => *shared = Some(Lab::new(self.prepare)),
        }
        Lent::Shared(shared)
    }
}

impl Deref for Lent {
    type Target = Lab;
    fn deref(&self) -> &Lab {
        match self {
            Lent::Own(lab) => lab,
            Lent::Shared(lab) => lab.as_ref().expect("it was prepared before it was lent"),
        }
    }
}

/// All that is there, comparable from run to run: a line for each file, domain, disk and folder, sorted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen(Vec<String>);

impl Seen {
    /// What only one of the two has.
    pub fn difference(&self, other: &Seen) -> String {
        let missing = |from: &Seen, of: &Seen, sign: char| {
            let mut left = from.0.clone();
            of.0.iter().for_each(|line| {
                left.iter().position(|known| known == line).map(|at| left.remove(at));
            });
            left.iter()
                .map(|line| format!("{sign} {}\n", line.chars().take(400).collect::<String>()))
                .collect::<String>()
        };
        missing(self, other, '-') + &missing(other, self, '+')
    }
}

impl Lab {
    /// Starts a host, prepares it, and remembers that state.
    pub fn new(prepare: impl Fn(&Lab)) -> Lab {
        let host = Host::start();
        let image = image(&host, "debian.qcow2").display().to_string();
        let saved = host.folder().join("saved");
        let mut lab = Lab { host, image, saved, domains: Vec::new() };
        lab.tool("kvm-create", &["bystander", "--from", &lab.image, "--memory", "64M", "--cloud-init"]);
        prepare(&lab);
        lab.foreign_things();
        lab.save();
        lab
    }

    /// Runs a tool that must succeed.
    #[track_caller]
    pub fn tool(&self, tool: &str, args: &[&str]) -> String {
        self.host.run(tool, args).ok()
    }

    /// A machine `src`: two disks, UEFI with a file of variables, a cloud-init seed.
    pub fn source(&self) {
        let args = ["src", "--from", &self.image, "--disk", "10G", "--disk", "1G", "--memory", "64M"];
        self.tool("kvm-create", &[&args[..], &["--uefi", "--user", "admin"]].concat());
        self.set_variables("variables");
        self.write_to_source(0x11);
    }

    /// `src` with the snapshots `one`, `two` and `three`, and something else on its disk at each of them.
    pub fn source_with_snapshots(&self) {
        self.source();
        for (tag, byte) in [("one", 0x22), ("two", 0x33), ("three", 0x44)] {
            self.tool("kvm-snap", &["src", "create", tag]);
            self.write_to_source(byte);
            self.set_variables(tag);
        }
    }

    /// Makes this the UEFI variables of `src`.
    fn set_variables(&self, text: &str) {
        std::fs::write(eye(&self.host).state_of(&self.host, "src").join("nvram.fd"), text).unwrap();
    }

    fn write_to_source(&self, byte: u8) {
        let write = format!("write -P {byte} 1M 64k");
        for disk in self.disks("src") {
            self.host.qemu_io(["-f", eye(&self.host).format(), "-c", &write, &disk]).ok();
        }
    }

    /// The files or devices of a machine's disks.
    pub fn disks(&self, machine: &str) -> Vec<String> {
        let all = self.definitions().into_iter();
        all.filter(|(name, _)| name == machine).flat_map(|(_, xml)| disks_of(&xml)).collect()
    }

    /// Things that kld did not make and must not touch.
    fn foreign_things(&self) {
        eye(&self.host).plant(&self.host);
        let source = eye(&self.host).state_of(&self.host, "src");
        if source.is_dir() {
            std::fs::write(source.join("notes"), "the administrator's own").unwrap();
        }
    }

    fn save(&mut self) {
        std::fs::create_dir(&self.saved).unwrap();
        eye(&self.host).save(&self.host, &self.saved);
        let domains = self.definitions();
        for (name, xml) in &domains {
            std::fs::write(self.saved.join(format!("{name}.xml")), xml).unwrap();
        }
        self.domains = domains;
    }

    /// Brings the prepared state back.
    pub fn restore(&self) {
        let now = self.definitions();
        let mut commands = Vec::new();
        for (name, _) in now.iter().filter(|(name, _)| !self.domains.iter().any(|(known, _)| known == name)) {
            commands.push(format!("undefine {name} --keep-nvram"));
        }
        for one in self.domains.iter().filter(|one| !now.contains(one)) {
            commands.push(format!("define {}", self.saved.join(format!("{}.xml", one.0)).display()));
        }
        if !commands.is_empty() {
            self.host.virsh([commands.join("; ")]).ok();
        }
        eye(&self.host).restore(&self.host, &self.saved);
    }

    /// Every domain with its definition, by name.
    fn definitions(&self) -> Vec<(String, String)> {
        let text = self.host.inside("bash", ["-c", DEFINITIONS]).ok();
        // A comment that says how to edit it comes first.
        let parts = text.split("</domain>").filter_map(|part| Some(&part[part.find("<domain ")?..]));
        let named = parts.map(|part| {
            let name = part.split_once("<name>").and_then(|(_, rest)| rest.split_once("</name>")).unwrap().0;
            (name.to_string(), format!("{part}</domain>\n"))
        });
        named.collect()
    }

    /// All that is there.
    pub fn see(&self) -> Seen {
        let mut lines = Vec::new();
        for (name, xml) in self.definitions() {
            for disk in disks_of(&xml) {
                lines.push(format!("{name} {disk} {}", eye(&self.host).contents(&self.host, &disk)));
            }
            lines.push(format!("domain {name}: {xml}"));
        }
        for folder in [self.host.store_root(), self.host.state_dir()] {
            walk(&folder, &mut lines);
        }
        lines.extend(eye(&self.host).inventory(&self.host));
        let mut lines: Vec<String> = lines.iter().map(|line| redact(line)).collect();
        lines.sort();
        Seen(lines)
    }

    /// What is wrong with volumes.
    pub fn complaints(&self) -> Vec<String> {
        eye(&self.host).complaints(&self.host)
    }

    /// How many operations stand in the journal.
    pub fn journal_entries(&self) -> usize {
        let Ok(entries) = std::fs::read_dir(self.host.state_dir().join("journal")) else { return 0 };
        entries.flatten().filter(|entry| entry.path().extension().is_some_and(|is| is == "json")).count()
    }
}

/// The files or devices that a definition has for disks; its seed is none.
fn disks_of(xml: &str) -> Vec<String> {
    let sources = xml.split("<source ").skip(1).filter_map(|rest| {
        let rest = rest.strip_prefix("file='").or_else(|| rest.strip_prefix("dev='"))?;
        Some(rest.split_once('\'')?.0.to_string())
    });
    sources.filter(|path| !path.ends_with(".iso")).collect()
}

/// A line for each file and folder: its kind, its mode and, where it is small text, what is in it. What only guests
/// and QEMU fill is compared by what a machine reads, not by its bytes.
fn walk(folder: &Path, lines: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let meta = path.symlink_metadata().unwrap();
        let (shown, mode) = (path.display(), meta.permissions().mode());
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        // Locks stay, empty folders of the store and of the journal too, and so does what is known of the host.
        let own = ["locks", "lock", "kvm-probe.json", "journal", "staged", "volumes", "machines"];
        if meta.is_dir() {
            if !own.contains(&name.as_str()) {
                lines.push(format!("folder {shown} {mode:o}"));
            }
            if name != "locks" {
                walk(&path, lines);
            }
        } else if !own.contains(&name.as_str()) {
            let content = match name.rsplit_once('.') {
                Some((_, "qcow2")) => String::new(),
                Some((_, "iso")) => format!("{} bytes", meta.len()),
                _ => without_times(&String::from_utf8_lossy(&std::fs::read(&path).unwrap_or_default())),
            };
            lines.push(format!("file {shown} {mode:o} {content}"));
        }
    }
}

fn without_times(text: &str) -> String {
    text.lines().filter(|line| !line.contains("\"created\":")).map(|line| format!("{line}\n")).collect()
}
