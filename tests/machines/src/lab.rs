//! A pool of a test's own in the lab, and kld's tools on it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kld_test_support::{Console, Ran, tool};

/// What is translated instruction by instruction, on a machine that has more to do, takes its time.
pub const PATIENCE: Duration = Duration::from_secs(1200);

/// A pool on one of the lab's disks, and what kld keeps beside it. One at a time; machines, pool and hook go with it.
pub struct Lab {
    _alone: MutexGuard<'static, ()>,
    folder: tempfile::TempDir,
    is_slow: bool,
}

const POOL: &str = "kldtest";
const DISK: &str = "/dev/disk/by-id/virtio-data1";
/// The same disk, where each write and each flush takes 20 ms.
const SLOW: &str = "kldslow";
/// What a test before has found out of KVM here, which takes a guest to find out.
const PROBE: &str = "/run/kld/kvm-probe.json";

impl Lab {
    /// The lab; `None` elsewhere, and says so.
    pub fn get() -> Option<Lab> {
        Self::on(false)
    }

    /// The same on a disk that takes its time, and nobody's processor: each write and each flush takes 20 ms.
    pub fn on_a_slow_disk() -> Option<Lab> {
        Self::on(true)
    }

    fn on(is_slow: bool) -> Option<Lab> {
        static ALONE: Mutex<()> = Mutex::new(());
        if std::env::var("KLD_LAB").ok().as_deref() != Some("1") {
            eprintln!(
                "skipped: this needs OpenZFS and KVM; 'cargo xtask lab test -p kld-machine-tests' runs it"
            );
            return None;
        }
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let lab = Lab { _alone: alone, folder: tempfile::tempdir().unwrap(), is_slow };
        let slow = format!("/dev/mapper/{SLOW}");
        let disk = if is_slow { lab.slow_down(&slow) } else { DISK };
        lab.ok("zpool", &["create", "-f", "-O", "mountpoint=none", "-O", "compression=off", POOL, disk]);
        lab.ok("zfs", &["create", "-o", "volmode=dev", &lab.root()]);
        std::fs::create_dir_all(lab.folder().join("state")).unwrap();
        let _ = std::fs::copy(PROBE, lab.folder().join("state/kvm-probe.json"));
        Some(lab)
    }

    /// Makes the slow disk of the fast one.
    fn slow_down<'a>(&self, slow: &'a str) -> &'a str {
        self.ok("modprobe", &["dm-delay"]);
        let sectors = self.ok("blockdev", &["--getsz", DISK]);
        let table = format!("0 {} delay {DISK} 0 0 {DISK} 0 20", sectors.trim());
        self.ok("dmsetup", &["create", SLOW, "--table", &table]);
        slow
    }

    /// The store's root.
    pub fn root(&self) -> String {
        format!("{POOL}/kld")
    }

    /// A folder of the test's own.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A command with the settings of this lab.
    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = tool::command(Path::new(program));
        command.args(args).env("HOME", "/root").env("KLD_NETWORK", "none").env("KLD_ZFS_ROOT", self.root());
        command.env("KLD_STATE_DIR", self.folder().join("state")).env("KLD_LIBVIRT_TIMEOUT", "900");
        command
    }

    /// Runs a program to its end.
    pub fn run(&self, program: &str, args: &[&str]) -> Ran {
        tool::run_within(self.command(program, args), PATIENCE)
    }

    /// Runs a program that must succeed, and returns what it printed.
    #[track_caller]
    pub fn ok(&self, program: &str, args: &[&str]) -> String {
        let began = Instant::now();
        let ran = self.run(program, args);
        eprintln!("{:6.1} s  {program} {}", began.elapsed().as_secs_f64(), args.join(" "));
        ran.ok()
    }

    /// A template of the guest that says what its disk bears.
    pub fn template(&self) {
        let image = self.folder().join("mark.raw");
        crate::mark::image(&image);
        let image = image.to_str().unwrap();
        self.ok("kvm-create", &["template", "--from", image, "--from-format", "raw", "--memory", "16M"]);
        self.ok("kvm-template", &["template"]);
    }

    /// Clones of the template, made in one call, each of which bears its name as its mark.
    pub fn clones(&self, names: &[String]) {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.ok("kvm-clone", &[&["template"], &names[..]].concat());
        for name in names {
            self.wait_for(&self.link(name));
            crate::mark::write(&self.link(name), &bears(name));
        }
    }

    /// The datasets of a machine with this UUID, as kld makes them, and of the template that its disk is a clone of; libvirt
    /// knows of neither.
    pub fn datasets(&self, machine: &str, uuid: &str) {
        let root = self.root();
        let mark = format!("org.kld:machine={uuid}");
        self.ok("zfs", &["create", &format!("{root}/template")]);
        self.ok("zfs", &["create", "-s", "-V", "16M", &format!("{root}/template/vda")]);
        self.ok("zfs", &["snapshot", &format!("{root}/template/vda@kld-clone-1")]);
        self.ok("zfs", &["create", "-o", &mark, &format!("{root}/{machine}")]);
        let clone = format!("{root}/{machine}/vda");
        self.ok("zfs", &["clone", &format!("{root}/template/vda@kld-clone-1"), &clone]);
        self.wait_for(&self.link(machine));
    }

    /// ZFS makes devices after its commands have returned, and udev their links after that, unless it has missed them.
    fn wait_for(&self, link: &Path) {
        let began = Instant::now();
        self.ok("udevadm", &["settle"]);
        while !link.exists() {
            assert!(began.elapsed() < PATIENCE, "{} is missing", link.display());
            self.ok("udevadm", &["trigger", "--settle", "--action=add", "--sysname-match=zd*"]);
        }
    }

    /// The path of a machine's disk.
    pub fn link(&self, machine: &str) -> PathBuf {
        Path::new("/dev/zvol").join(self.root()).join(machine).join("vda")
    }

    /// Makes the path of a machine's disk point at another's. udev, which makes it right whenever somebody has written
    /// to the disk, must have nothing left to do.
    pub fn exchange(&self, machine: &str, other: &str) {
        self.lose(machine);
        let other = std::fs::canonicalize(self.link(other)).unwrap();
        std::os::unix::fs::symlink(other, self.link(machine)).unwrap();
    }

    /// Takes the path of a machine's disk away, as if udev had not come to it.
    pub fn lose(&self, machine: &str) {
        self.ok("udevadm", &["settle"]);
        std::fs::remove_file(self.link(machine)).unwrap();
    }

    /// Makes the path of a machine's disk as udev would.
    pub fn mend(&self, machine: &str) {
        let dataset = format!("{}/{machine}/vda", self.root());
        let devices = std::fs::read_dir("/dev").unwrap().map(|entry| entry.unwrap().path());
        let mut zvols = devices.filter(|path| path.to_str().is_some_and(|path| path.starts_with("/dev/zd")));
        let name = |path: &PathBuf| self.run("/usr/lib/udev/zvol_id", &[path.to_str().unwrap()]).stdout;
        let device = zvols.find(|path| name(path).trim() == dataset).expect("the disk has a device");
        let _ = std::fs::remove_file(self.link(machine));
        std::os::unix::fs::symlink(device, self.link(machine)).unwrap();
    }

    /// Has OpenZFS wait longer for its own lock, as the book advises for hosts that start many machines at once. Here,
    /// where every processor is translated, dozens need it.
    pub fn expect_many(&self) {
        std::fs::write("/sys/module/zfs/parameters/zvol_open_timeout_ms", "60000").unwrap();
    }

    /// Installs kld's hook, and has libvirt look for it.
    pub fn install_hook(&self) {
        self.ok("kvm-hook", &["--install"]);
        self.reload();
    }

    /// Has libvirt read its configuration.
    pub fn reload(&self) {
        self.ok("pkill", &["-HUP", "-x", "libvirtd"]);
        std::thread::sleep(Duration::from_secs(3));
        self.ok("virsh", &["list"]);
    }

    /// A machine's state, as virsh has it.
    pub fn state(&self, machine: &str) -> String {
        self.run("virsh", &["domstate", machine]).ok().trim().to_string()
    }

    /// The console of a running machine.
    pub fn console(&self, machine: &str) -> Console {
        Console::connect(self.command("kvm-console", &["--quiet", machine])).unwrap()
    }

    /// Panics unless a running machine says that its disk bears its own mark.
    #[track_caller]
    pub fn sees_its_own_disk(&self, machine: &str) {
        let mut console = self.console(machine);
        let deadline = Instant::now() + PATIENCE;
        let said = loop {
            // It may have said it before anybody listened, and a key may come before it can hear.
            console.say("").unwrap();
            match console.wait_for("[", Duration::from_secs(20)) {
                Ok(said) => break said,
                Err(error) => assert!(Instant::now() < deadline, "{machine}: {error}"),
            }
        };
        assert_eq!(said, format!("[{}]", bears(machine)));
    }

    /// The pool's allocation in bytes, when all that was given up is free.
    pub fn allocated(&self) -> u64 {
        let began = Instant::now();
        loop {
            self.run("zpool", &["sync", POOL]).ok();
            let text = self.run("zpool", &["list", "-Hp", "-o", "freeing,allocated", POOL]).ok();
            let numbers: Vec<u64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            match numbers[..] {
                [0, allocated] => return allocated,
                _ => assert!(began.elapsed() < PATIENCE, "it is still being freed: {text}"),
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}

/// The mark of a machine.
fn bears(machine: &str) -> String {
    format!("the disk of {machine}")
}

impl Drop for Lab {
    fn drop(&mut self) {
        let listed = self.run("zfs", &["list", "-H", "-o", "name", "-d", "1", &self.root()]);
        let names =
            listed.stdout.lines().filter_map(|line| line.strip_prefix(&self.root())?.strip_prefix('/'));
        for name in names {
            for args in
                [&["destroy", name][..], &["managedsave-remove", name], &["undefine", name, "--nvram"]]
            {
                self.run("virsh", args);
            }
        }
        let _ = std::fs::copy(self.folder().join("state/kvm-probe.json"), PROBE);
        self.run("kvm-hook", &["--remove"]);
        let began = Instant::now();
        while self.run("zpool", &["destroy", "-f", POOL]).code != Some(0) && began.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(500));
        }
        if self.is_slow {
            self.run("dmsetup", &["remove", "--retry", SLOW]);
        }
    }
}
