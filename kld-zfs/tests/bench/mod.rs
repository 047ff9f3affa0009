//! A store on a pool of its own, in a file.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kld_core::ByteSize;
use kld_core::store::conformance::{Bench, Sample};
use kld_core::store::{Volume, VolumeFormat, VolumeStore};
use kld_zfs::engine::Engine;
use kld_zfs::{DatasetName, ZvolStore, device};

/// Whether this is the lab; says so where it is not.
pub fn in_lab() -> bool {
    let lab = std::env::var("KLD_LAB").is_ok_and(|value| value == "1");
    if !lab {
        eprintln!("skipped: this needs a kernel with OpenZFS; 'cargo xtask lab test' runs it in one");
    }
    lab
}

/// True where everything is tried: `cargo xtask test --full`.
pub fn full() -> bool {
    std::env::var_os("KLD_FULL").is_some()
}

/// Runs a program that must succeed, and returns what it printed.
#[track_caller]
pub fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A pool in a file, which goes with it. One at a time.
pub struct Pool {
    _alone: MutexGuard<'static, ()>,
    pub name: String,
    file: PathBuf,
    count: AtomicU32,
}

impl Pool {
    pub fn get() -> Pool {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let name = format!("kldtest{}", std::process::id());
        let file = std::env::temp_dir().join(format!("{name}.pool"));
        File::create(&file).unwrap().set_len(4 << 30).unwrap();
        run(
            "zpool",
            &["create", "-O", "compression=off", "-O", "mountpoint=none", &name, file.to_str().unwrap()],
        );
        Pool { _alone: alone, name, file, count: AtomicU32::new(0) }
    }

    pub fn bench(&self, engine: Arc<dyn Engine>) -> ZfsBench {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let place = DatasetName::parse(&format!("{}/bench{number}", self.name)).unwrap();
        run("zfs", &["create", place.as_str()]);
        let folder = tempfile::tempdir().unwrap();
        let store = ZvolStore::with_engine(place.child("kld").unwrap(), folder.path(), engine);
        ZfsBench { store, place, sample: Sample::ALL, _folder: folder }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = Command::new("zpool").args(["destroy", "-f", &self.name]).status();
        let _ = std::fs::remove_file(&self.file);
    }
}

pub struct ZfsBench {
    pub store: ZvolStore,
    pub place: DatasetName,
    pub sample: Sample,
    _folder: tempfile::TempDir,
}

impl Drop for ZfsBench {
    fn drop(&mut self) {
        for _ in 0..20 {
            let done = Command::new("zfs").args(["destroy", "-R", "-f", self.place.as_str()]).output();
            if done.is_ok_and(|done| done.status.success()) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }
}

/// Opens the device, past the page cache, once it is there and is the one that is meant.
fn open(path: &Path, write: bool) -> File {
    let name = path.strip_prefix("/dev/zvol").unwrap().to_str().unwrap().to_string();
    for attempt in 0.. {
        match device::name_of(path) {
            Ok(found) if found == name => break,
            other => assert!(attempt < 600, "{}: {other:?}", path.display()),
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let mut options = File::options();
    options.read(true).write(write).custom_flags(nix::libc::O_DIRECT).open(path).unwrap()
}

/// A piece of memory that O_DIRECT takes, of whole sectors.
#[repr(align(4096))]
struct Page([u8; 4096]);

/// Does something with each page that a range touches: its place, the part of the page, and the part of the range.
fn pages(offset: u64, len: usize, mut each: impl FnMut(u64, std::ops::Range<usize>, std::ops::Range<usize>)) {
    let (mut at, end) = (offset, offset + len as u64);
    while at < end {
        let page = at & !4095;
        let stop = end.min(page + 4096);
        each(
            page,
            (at - page) as usize..(stop - page) as usize,
            (at - offset) as usize..(stop - offset) as usize,
        );
        at = stop;
    }
}

impl Bench for ZfsBench {
    fn store(&self) -> &dyn VolumeStore {
        &self.store
    }

    fn image(&self, size: ByteSize, bytes: &[u8]) -> (PathBuf, VolumeFormat) {
        let number =
            run("zfs", &["list", "-H", "-o", "name", "-d", "1", self.place.as_str()]).lines().count();
        let name = self.place.child(&format!("image{number}")).unwrap();
        run("zfs", &["create", "-s", "-V", &size.bytes().to_string(), name.as_str()]);
        let path = device::path(&name);
        let volume = Volume {
            name: "vda".into(),
            path: path.clone(),
            format: VolumeFormat::Block,
            size,
            adopted: true,
        };
        self.write(&volume, 0, bytes);
        (path, VolumeFormat::Block)
    }

    fn write(&self, volume: &Volume, offset: u64, bytes: &[u8]) {
        let file = open(&volume.path, true);
        pages(offset, bytes.len(), |at, part, of| {
            let mut page = Page([0; 4096]);
            file.read_exact_at(&mut page.0, at).unwrap();
            page.0[part].copy_from_slice(&bytes[of]);
            file.write_all_at(&page.0, at).unwrap();
        });
        drop(file);
        // What a listing tells is as of the last transaction group.
        if bytes.len() > 4096 {
            run("zpool", &["sync", self.place.pool().as_str()]);
        }
    }

    fn read(&self, volume: &Volume, offset: u64, len: usize) -> Vec<u8> {
        // Snapshots have no devices of their own.
        if let Some((_, snapshot)) =
            volume.path.to_str().unwrap().split_once("/dev/zvol/").filter(|(_, name)| name.contains('@'))
        {
            let clone = self.place.child("look").unwrap();
            run("zfs", &["clone", snapshot, clone.as_str()]);
            let bytes = self.read(&Volume { path: device::path(&clone), ..volume.clone() }, offset, len);
            for attempt in 0.. {
                let gone = Command::new("zfs").args(["destroy", clone.as_str()]).output().unwrap();
                if gone.status.success() {
                    return bytes;
                }
                assert!(attempt < 100, "{}", String::from_utf8_lossy(&gone.stderr));
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
        }
        let file = open(&volume.path, false);
        let mut bytes = vec![0; len];
        pages(offset, len, |at, part, of| {
            let mut page = Page([0; 4096]);
            file.read_exact_at(&mut page.0, at).unwrap();
            bytes[of].copy_from_slice(&page.0[part]);
        });
        bytes
    }

    fn leftovers(&self) -> Vec<String> {
        let root = self.store.root().as_str();
        let listed = run("zfs", &["list", "-H", "-r", "-o", "name", "-t", "all", self.place.as_str()]);
        let fixed = [self.place.as_str().to_string(), root.to_string(), format!("{root}/.bases")];
        let mut all: Vec<String> =
            listed.lines().filter(|name| !fixed.iter().any(|one| one == name)).map(String::from).collect();
        let state = self._folder.path().join(root);
        list(&state, &mut all);
        all.sort();
        all
    }

    fn interrupt(&self, steps: usize) -> bool {
        self.store.interrupt(steps);
        true
    }

    fn sample(&self) -> Sample {
        self.sample
    }
}

fn list(folder: &Path, into: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        into.push(entry.path().display().to_string());
        if entry.path().is_dir() {
            list(&entry.path(), into);
        }
    }
}
