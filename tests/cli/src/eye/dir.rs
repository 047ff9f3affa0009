//! The directory store: qcow2 files, some of them bases of others.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use kld_test_support::Host;

use super::{Eye, copy, replace};

pub(super) struct Dir;

fn folders(host: &Host) -> [PathBuf; 2] {
    [host.store_root(), host.state_dir()]
}

/// Says what `qemu-img check` says. Arguments: the volumes.
const CHECK: &str = r#"
for volume in "$@"; do
    qemu-img check -q -U -f qcow2 "$volume" 2>&1 || echo "$volume is damaged"
done
"#;

impl Eye for Dir {
    fn format(&self) -> &'static str {
        "qcow2"
    }

    fn contents(&self, host: &Host, disk: &str) -> String {
        let read = ["-U", "-r", "-f", "qcow2", "-c", "read -v 0 32", "-c", "read -v 1M 32", disk];
        let printed = host.qemu_io(read).stdout;
        // 00000000:  6b 6b 6b ...  kkk...
        let bytes = printed.lines().filter_map(|line| line.split("  ").nth(1));
        bytes.flat_map(|bytes| bytes.split_whitespace()).collect()
    }

    fn state_of(&self, host: &Host, machine: &str) -> PathBuf {
        host.store_root().join("machines").join(machine)
    }

    fn volumes(&self, host: &Host) -> Vec<String> {
        let entries = std::fs::read_dir(host.store_root().join("volumes")).unwrap().flatten();
        let paths =
            entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|is| is == "qcow2"));
        paths.map(|path| path.display().to_string()).collect()
    }

    fn orphans(&self, host: &Host, disks: &[String]) -> BTreeSet<String> {
        let mut left: BTreeSet<String> = self.volumes(host).into_iter().collect();
        for disk in disks {
            let chain = host.qemu_img(["info", "-U", "--backing-chain", "--output=json", disk]).json();
            for image in chain.as_array().unwrap() {
                left.remove(image["filename"].as_str().unwrap());
            }
        }
        left
    }

    fn plant(&self, host: &Host) {
        for path in
            ["volumes/foreign.qcow2.bak", "volumes/.hidden", "notes", "machines/notes", "staged/notes"]
        {
            std::fs::write(host.store_root().join(path), format!("not kld's: {path}")).unwrap();
        }
    }

    fn inventory(&self, host: &Host) -> Vec<String> {
        self.complaints(host)
    }

    fn identities(&self, _host: &Host) -> Vec<(String, String)> {
        Vec::new()
    }

    fn complaints(&self, host: &Host) -> Vec<String> {
        let words = ["-c", CHECK, "check"].map(str::to_string).into_iter();
        let said = host.inside("bash", words.chain(self.volumes(host))).ok();
        said.lines().map(str::to_string).collect()
    }

    fn save(&self, host: &Host, to: &Path) {
        for folder in folders(host) {
            copy(&folder, &to.join(folder.file_name().unwrap()));
        }
    }

    fn restore(&self, host: &Host, from: &Path) {
        for folder in folders(host) {
            replace(&folder, &from.join(folder.file_name().unwrap()));
        }
    }
}
