//! A libvirt host in a prepared state that can be had again, and all that is on it as text.
#![allow(clippy::disallowed_types, reason = "folders are copied with all their attributes")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use kld_cli_tests::image;
use kld_test_support::{Host, redact};

/// Prints every definition, then what the first sectors of each disk hold, then what `qemu-img check` says of each
/// volume. Arguments: the connection, the folder of the volumes, `all` or `domains` for the definitions alone.
const LOOK: &str = r#"
names=$(virsh -q -c "$1" list --all --name)
commands=
for name in $names; do commands="$commands dumpxml --inactive $name;"; done
virsh -q -c "$1" "${commands:-list --all --name}"
echo "== contents"
[ "$3" = all ] || exit 0
for name in $names; do
    for disk in $(virsh -q -c "$1" domblklist --inactive "$name" | sed -n 's/^ *vd[a-z]* *//p'); do
        echo "$name $disk $(qemu-io -U -r -f qcow2 -c 'read -v 0 32' -c 'read -v 1M 32' "$disk" 2>&1 |
            sed -n 's/^[0-9a-f]*:  \([0-9a-f ]*\)  .*/\1/p' | tr -d ' \n')"
    done
done
echo "== checks"
for volume in "$2"/*.qcow2; do
    [ -e "$volume" ] && { qemu-img check -q -U -f qcow2 "$volume" 2>&1 || echo "$volume is damaged"; }
done
exit 0
"#;

/// A host with a bystander, foreign files and whatever else a scenario prepares.
pub struct Lab {
    pub host: Host,
    /// The image that machines are made from.
    pub image: String,
    saved: PathBuf,
    domains: Vec<(String, String)>,
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
        lab.foreign_files();
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
        std::fs::write(self.host.store_root().join("machines/src/nvram.fd"), "variables").unwrap();
        self.write_to_source(0x11);
    }

    /// `src` with the snapshots `one`, `two` and `three`, and something else on its disk at each of them.
    pub fn source_with_snapshots(&self) {
        self.source();
        for (tag, byte) in [("one", 0x22), ("two", 0x33), ("three", 0x44)] {
            self.tool("kvm-snap", &["src", "create", tag]);
            self.write_to_source(byte);
            std::fs::write(self.host.store_root().join("machines/src/nvram.fd"), tag).unwrap();
        }
    }

    fn write_to_source(&self, byte: u8) {
        let write = format!("write -P {byte} 1M 64k");
        for disk in self.disks("src") {
            self.host.qemu_io(["-f", "qcow2", "-c", &write, &disk]).ok();
        }
    }

    /// The files of a machine's disks.
    pub fn disks(&self, machine: &str) -> Vec<String> {
        let listed = self.host.virsh(["domblklist", "--inactive", machine]).ok();
        let words = listed.lines().filter_map(|line| line.trim().split_once(' '));
        words
            .filter(|(target, _)| target.starts_with("vd"))
            .map(|(_, path)| path.trim().to_string())
            .collect()
    }

    /// Things that kld did not make and must not touch.
    fn foreign_files(&self) {
        let store = self.host.store_root();
        for path in
            ["volumes/foreign.qcow2.bak", "volumes/.hidden", "notes", "machines/notes", "staged/notes"]
        {
            std::fs::write(store.join(path), format!("not kld's: {path}")).unwrap();
        }
        if store.join("machines/src").is_dir() {
            std::fs::write(store.join("machines/src/notes"), "the administrator's own").unwrap();
        }
    }

    fn save(&mut self) {
        std::fs::create_dir(&self.saved).unwrap();
        for folder in [self.host.store_root(), self.host.state_dir()] {
            copy(&folder, &self.saved.join(folder.file_name().unwrap()));
        }
        let (domains, _) = self.look("domains");
        for (name, xml) in &domains {
            std::fs::write(self.saved.join(format!("{name}.xml")), xml).unwrap();
        }
        self.domains = domains;
    }

    /// Brings the prepared state back.
    pub fn restore(&self) {
        let (now, _) = self.look("domains");
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
        for folder in [self.host.store_root(), self.host.state_dir()] {
            for entry in std::fs::read_dir(&folder).unwrap().flatten() {
                let path = entry.path();
                if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }
                    .unwrap();
            }
            copy(&self.saved.join(folder.file_name().unwrap()), &folder);
        }
    }

    /// Every domain with its definition; the contents of every disk and the complaints about volumes.
    fn look(&self, what: &str) -> (Vec<(String, String)>, Vec<String>) {
        let volumes = self.host.store_root().join("volumes").display().to_string();
        let text = self.host.inside("bash", ["-c", LOOK, "look", &self.host.uri(), &volumes, what]).ok();
        let (definitions, rest) = text.split_once("== contents").unwrap();
        let mut domains = Vec::new();
        for part in definitions.split("</domain>").filter(|part| !part.trim().is_empty()) {
            let name = part.split_once("<name>").and_then(|(_, rest)| rest.split_once("</name>")).unwrap().0;
            domains.push((name.to_string(), format!("{}</domain>\n", part.trim())));
        }
        (domains, rest.lines().map(str::to_string).filter(|line| !line.is_empty()).collect())
    }

    /// All that is there.
    pub fn see(&self) -> Seen {
        let (domains, mut lines) = self.look("all");
        for (name, xml) in domains {
            lines.push(format!("domain {name}: {xml}"));
        }
        for folder in [self.host.store_root(), self.host.state_dir()] {
            walk(&folder, &mut lines);
        }
        let mut lines: Vec<String> = lines.iter().map(|line| redact(line)).collect();
        lines.sort();
        Seen(lines)
    }

    /// The files of the store's volumes.
    pub fn volumes(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.host.store_root().join("volumes")).unwrap().flatten();
        let paths =
            entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|is| is == "qcow2"));
        paths.map(|path| path.display().to_string()).collect()
    }

    /// What `qemu-img check` complains about.
    pub fn complaints(&self) -> Vec<String> {
        let lines = self.look("all").1.into_iter();
        lines.skip_while(|line| line != "== checks").skip(1).collect()
    }

    /// How many operations stand in the journal.
    pub fn journal_entries(&self) -> usize {
        let Ok(entries) = std::fs::read_dir(self.host.state_dir().join("journal")) else { return 0 };
        entries.flatten().filter(|entry| entry.path().extension().is_some_and(|is| is == "json")).count()
    }
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

fn copy(from: &Path, to: &Path) {
    let status = Command::new("/bin/cp").args(["-a", "--no-target-directory"]).args([from, to]).status();
    assert!(status.unwrap().success(), "cannot copy {}", from.display());
}
