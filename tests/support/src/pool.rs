//! The ZFS pool of a host in the lab: in a file in the host's folder, made and destroyed with the host, and brought
//! back as it was as often as a test wants.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kld_core::exec::Exec;

use crate::root::{FNV_START, fnv1a};

/// How long udev and blkid may look at a device that was just closed.
const BUSY: Duration = Duration::from_secs(60);

/// A pool of a host's own.
#[derive(Debug)]
pub struct Pool {
    name: String,
    folder: PathBuf,
}

impl Pool {
    /// The pool of the host that has this folder.
    pub(crate) fn of(state: &Path) -> Pool {
        let digest = fnv1a(FNV_START, state.as_os_str().as_encoded_bytes());
        Pool { name: format!("kld{digest:016x}"), folder: state.join("pool") }
    }

    /// Its name, which no other host's pool has.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The dataset that kld's store keeps everything below.
    pub fn root(&self) -> String {
        format!("{}/kld", self.name)
    }

    fn file(&self) -> PathBuf {
        self.folder.join("disk")
    }

    /// Runs `zfs`, which must succeed, and gives what it printed.
    ///
    /// # Panics
    /// Where it fails, with what it said.
    #[track_caller]
    pub fn zfs(&self, args: &[&str]) -> String {
        ask(Exec::new("zfs").args(args))
    }

    /// Every dataset and snapshot of the pool with some properties, a line each, tabs between.
    pub fn list(&self, columns: &str) -> Vec<String> {
        let listed = self.zfs(&["list", "-H", "-p", "-r", "-t", "all", "-o", columns, &self.name]);
        listed.lines().map(str::to_string).collect()
    }

    /// Keeps the exported pool in a file, and brings it back.
    ///
    /// # Panics
    /// Where that fails.
    pub fn save(&self, to: &Path) {
        copy(&self.file(), to);
        self.import();
    }

    /// Takes the pool away from the system, so that nothing of it is mounted.
    pub fn export(&self) {
        let deadline = Instant::now() + BUSY;
        while let Err(error) = Exec::new("zpool").args(["export", "-f", &self.name]).run() {
            assert!(Instant::now() < deadline, "{error}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Makes the exported pool what it was when it was saved.
    ///
    /// # Panics
    /// Where that fails.
    pub fn restore(&self, from: &Path) {
        copy(from, &self.file());
        self.import();
    }

    /// Brings the pool back, with all that it mounts and all its devices.
    fn import(&self) {
        let folder = self.folder.display().to_string();
        ask(Exec::new("zpool").args(["import", "-o", "cachefile=none", "-d", &folder, &self.name]));
        let volumes = self.zfs(&["list", "-H", "-r", "-t", "volume", "-o", "name", &self.name]);
        let deadline = Instant::now() + BUSY;
        for volume in volumes.lines() {
            while !Path::new("/dev/zvol").join(volume).exists() {
                assert!(Instant::now() < deadline, "{volume} has no device");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    /// Reads everything that is in the pool, and gives what ZFS complains of.
    pub fn complaints(&self) -> Vec<String> {
        ask(Exec::new("zpool").args(["scrub", "-w", &self.name]));
        let said = ask(Exec::new("zpool").args(["status", "-x", &self.name]));
        let healthy = format!("pool '{}' is healthy", self.name);
        said.lines().filter(|line| **line != healthy).map(str::to_string).collect()
    }
}

fn copy(from: &Path, to: &Path) {
    ask(Exec::new("cp").arg("--sparse=always").args([from, to]));
}

#[track_caller]
fn ask(exec: Exec) -> String {
    match exec.limit(Duration::from_secs(120)).run() {
        Ok(finished) => String::from_utf8_lossy(&finished.stdout).into_owned(),
        Err(error) => panic!("{error}"),
    }
}
