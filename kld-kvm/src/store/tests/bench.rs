use std::path::{Path, PathBuf};
use std::process::Command;

use kld_core::ByteSize;
use kld_core::store::conformance::Bench;
use kld_core::store::{Volume, VolumeFormat, VolumeStore};

use crate::store::DirStore;

/// A directory store with real images, in a folder that goes with it.
pub(super) struct DirBench {
    pub store: DirStore,
    pub folder: tempfile::TempDir,
}

pub(super) fn bench() -> DirBench {
    // In memory where that can be had: most of the time of a thousand small changes is waiting for the disk.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    DirBench { store: DirStore::new(folder.path().join("store")), folder }
}

pub(super) fn fresh() -> Box<dyn Bench> {
    Box::new(bench())
}

/// Runs a program of QEMU, which the tests require, and returns what it printed.
pub(super) fn qemu(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().expect("the tests need qemu-utils");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}\n{text}\n{error}");
    text
}

impl DirBench {
    /// Every name under the store's folder but for its own fixed ones.
    pub(super) fn store_files(&self) -> Vec<String> {
        let mut all = Vec::new();
        list(self.store.root(), &mut all);
        let mut all: Vec<String> = all
            .iter()
            .map(|path| path.strip_prefix(self.store.root()).unwrap().display().to_string())
            .filter(|name| !["machines", "volumes", "staged", "lock"].contains(&name.as_str()))
            .collect();
        all.sort();
        all
    }
}

fn list(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        into.push(entry.path());
        if entry.path().is_dir() {
            list(&entry.path(), into);
        }
    }
}

impl Bench for DirBench {
    fn store(&self) -> &dyn VolumeStore {
        &self.store
    }

    fn image(&self, size: ByteSize, bytes: &[u8]) -> (PathBuf, VolumeFormat) {
        let number = std::fs::read_dir(self.folder.path()).unwrap().count();
        let path = self.folder.path().join(format!("image-{number}.qcow2"));
        qemu("qemu-img", &["create", "-q", "-f", "qcow2", path.to_str().unwrap(), &size.bytes().to_string()]);
        if !bytes.is_empty() {
            write(&path, VolumeFormat::Qcow2, 0, bytes);
        }
        (path, VolumeFormat::Qcow2)
    }

    fn write(&self, volume: &Volume, offset: u64, bytes: &[u8]) {
        write(&volume.path, volume.format, offset, bytes);
    }

    fn read(&self, volume: &Volume, offset: u64, len: usize) -> Vec<u8> {
        read(&volume.path, volume.format, offset, len)
    }

    fn leftovers(&self) -> Vec<String> {
        let outside = std::fs::read_dir(self.folder.path()).unwrap();
        let mut all: Vec<String> = outside
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "store")
            .collect();
        all.sort();
        all.extend(self.store_files());
        all
    }

    fn interrupt(&self, steps: usize) -> bool {
        *self.store.layout.fuse.lock().unwrap() = Some(steps);
        true
    }
}

pub(super) fn write(path: &Path, format: VolumeFormat, offset: u64, bytes: &[u8]) {
    let pattern = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(pattern.path(), bytes).unwrap();
    let command = format!("write -s {} {offset} {}", pattern.path().display(), bytes.len());
    qemu("qemu-io", &["-f", format.driver(), "-c", &command, path.to_str().unwrap()]);
}

pub(super) fn read(path: &Path, format: VolumeFormat, offset: u64, len: usize) -> Vec<u8> {
    let command = format!("read -v {offset} {len}");
    let dump = qemu("qemu-io", &["-r", "-f", format.driver(), "-c", &command, path.to_str().unwrap()]);
    let mut bytes = Vec::new();
    for line in dump.lines().filter(|line| line.get(8..9) == Some(":")) {
        bytes.extend(
            line[9..]
                .split_whitespace()
                .take_while(|word| word.len() == 2)
                .take(16)
                .map_while(|word| u8::from_str_radix(word, 16).ok()),
        );
        bytes.truncate(len);
    }
    assert_eq!(bytes.len(), len, "{dump}");
    bytes
}
