//! The appliance: a small guest under QEMU that is booted, or restored in a second or two, to run commands in it. It has
//! no network beyond [private ones](Network) and no systemd; its disks are empty and gone with it.
//!
//! A guest ends with the process that started it, however that ends, and leaves nothing.

mod agent;
mod copy;
mod network;
mod qemu;
mod qmp;
#[allow(dead_code, reason = "the agent uses the rest")]
mod wire;
mod writes;

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use kld_core::error::Trying;
use kld_core::exec::{Exec, Running, Streams};
use kld_core::{Error, Result, fsio};
use serde_json::json;

pub use agent::{Agent, Pipes, Ran};
pub use network::{Network, Plug};
pub use qemu::{Disk, Disks, Qemu, Shape, Speed};
pub use writes::{Loss, Writes};

use crate::cache::{self, remove_tree};
use crate::digest::Digest;
use crate::image::Image;
use qmp::Qmp;

/// The file of a saved state.
const MEMORY: &str = "memory";

/// What a guest is made of.
#[derive(Debug, Clone)]
pub struct Design {
    /// Runs it.
    pub qemu: Qemu,
    /// What it boots.
    pub image: Image,
    /// Its hardware.
    pub shape: Shape,
    /// A guest that has not booted, or does not answer after it was restored, hangs after this time.
    pub patience: Duration,
}

/// A running guest. Dropping it ends it.
#[derive(Debug)]
pub struct Appliance {
    folder: PathBuf,
    qemu: Running,
    qmp: Qmp,
    // Removes the folder when its pipe closes, however this process ends.
    _undertaker: Running,
}

impl Design {
    /// Enough [patience](Self::patience) also on a busy machine that translates a guest's instructions.
    pub const PATIENCE: Duration = Duration::from_secs(150);

    /// A name for a state saved by this design: another QEMU, image or hardware is another state, and so is an image
    /// that was made again and holds something else.
    pub fn key(&self) -> Result<String> {
        let held = self.image.kernel.parent().and_then(cache::held).unwrap_or_default();
        let mut digest = Digest::of([self.qemu.version()?, held]);
        let line =
            qemu::arguments(&self.image, &self.shape, self.qemu.speed(), Path::new(""), Disks::Own, &[]);
        digest = line.iter().fold(digest, |digest, argument| digest.with(argument.as_encoded_bytes()));
        if self.qemu.speed() == Speed::Kvm {
            // The guest has learned what this processor can do.
            let cpu = fsio::read_text(Path::new("/proc/cpuinfo"), 16 << 20)?.unwrap_or_default();
            let model = cpu.lines().filter(|line| line.starts_with("model") || line.starts_with("flags"));
            digest = model.take(3).fold(digest, |digest, line| digest.with(line.as_bytes()));
        }
        Ok(digest.to_string())
    }

    /// Boots a guest, and waits until it takes commands. One that hangs, as one of many did on a busy machine that
    /// translates instructions, is given up, and booting is tried once more.
    pub fn boot(&self, plugs: &[Plug]) -> Result<Appliance> {
        self.boot_once(plugs).or_else(|_| self.boot_once(plugs))
    }

    fn boot_once(&self, plugs: &[Plug]) -> Result<Appliance> {
        let mut guest = Appliance::start(self, plugs, Disks::Own, None)?;
        guest.qmp.ask("cont", json!({}))?;
        let deadline = Instant::now() + self.patience;
        guest.await_ready(deadline)?;
        guest.settle(plugs, deadline)?;
        Ok(guest)
    }

    /// Restores a guest from a state that [`Appliance::save`] has made of the same design.
    pub fn restore(&self, state: &Path, plugs: &[Plug]) -> Result<Appliance> {
        self.restore_on(state, plugs, Disks::Own)
    }

    /// As [`restore`](Self::restore), with disks that outlive the guest. Where the state was saved with disks in use,
    /// they must be what they were at that moment.
    pub fn restore_on(&self, state: &Path, plugs: &[Plug], disks: Disks) -> Result<Appliance> {
        let mut guest = Appliance::start(self, plugs, disks, Some(&state.join(MEMORY)))?;
        guest.qmp.ask("cont", json!({}))?;
        guest.settle(plugs, Instant::now() + self.patience)?;
        Ok(guest)
    }
}

impl Appliance {
    fn start(design: &Design, plugs: &[Plug], disks: Disks, memory: Option<&Path>) -> Result<Appliance> {
        qemu::check(&design.shape)?;
        let what = || "cannot start a guest".to_string();
        let folder = tempfile::Builder::new().prefix("kld-").tempdir().trying(what)?.keep();
        let undertaker = undertaker(&folder).inspect_err(|_| drop(remove_tree(&folder)))?;
        for disk in &design.shape.disks {
            let path = disks.file(&folder, disk);
            let file = File::options().write(true).create(true).truncate(false).open(path);
            file.and_then(|file| file.set_len(disk.size.bytes())).trying(what)?;
            if let Some(record) = disks.record(disk) {
                File::create(record).trying(what)?;
            }
        }
        let log = File::create(folder.join("qemu.log")).trying(what)?;
        let streams = Streams { stderr: Stdio::from(log), ..Streams::default() };
        let speed = design.qemu.speed();
        let arguments = qemu::arguments(&design.image, &design.shape, speed, &folder, disks, plugs);
        let mut program = design.qemu.program()?.args(arguments);
        if memory.is_some() {
            program = program.args(["-incoming", "defer"]);
        }
        let running = program.start(streams)?;
        let qmp = connect(&folder, &running)?;
        let mut guest = Appliance { folder, qemu: running, qmp, _undertaker: undertaker };
        if let Some(memory) = memory {
            guest.load(memory)?;
        }
        Ok(guest)
    }

    /// Its agent, through which commands run.
    pub fn agent(&self) -> Agent {
        Agent::at(&self.folder)
    }

    /// The folder that holds everything of it; other processes reach its agent there.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The process id of its QEMU.
    pub fn pid(&self) -> i32 {
        self.qemu.pid()
    }

    /// False once its QEMU has ended.
    pub fn is_running(&self) -> bool {
        self.qemu.ended().is_none()
    }

    /// What it has written on its serial console.
    pub fn console(&self) -> String {
        let bytes = fsio::read_bytes(&self.folder.join("console"), 16 << 20).ok().flatten();
        String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
    }

    /// Saves its state in a folder that exists, and ends it. Its disks are not saved: they must be as empty as at its
    /// start, or outlive it and be kept with the state as they are then.
    pub fn save(mut self, state: &Path) -> Result<()> {
        self.agent().limited(Duration::from_secs(60)).ask(&["sync"])?;
        self.qmp.ask("stop", json!({}))?;
        self.map_memory()?;
        let path = state.join(MEMORY);
        self.qmp.ask("migrate", json!({ "uri": format!("file:{}", path.display()) }))?;
        self.qmp.migrated("cannot save the guest's state", Duration::from_secs(300))
    }

    fn load(&mut self, memory: &Path) -> Result<()> {
        self.map_memory()?;
        self.qmp.ask("migrate-incoming", json!({ "uri": format!("file:{}", memory.display()) }))?;
        self.qmp
            .migrated("cannot restore a guest", Duration::from_secs(60))
            .map_err(|error| self.explain("cannot restore a guest").unwrap_or(error))
    }

    /// Each page has its place in the file, which therefore has holes instead of empty pages.
    fn map_memory(&mut self) -> Result<()> {
        let mapped = json!([{ "capability": "mapped-ram", "state": true }]);
        self.qmp.ask("migrate-set-capabilities", json!({ "capabilities": mapped })).map(drop)
    }

    /// Waits for the guest's word that its devices are there. Speaking to the agent's ports while the kernel sets them
    /// up asks for trouble.
    fn await_ready(&self, deadline: Instant) -> Result<()> {
        while !self.console().contains("kld: ready") {
            if Instant::now() > deadline || !self.is_running() {
                let what = "the guest does not boot";
                let silent = || Error::failed(what, "it says nothing");
                return Err(self.explain(what).unwrap_or_else(silent));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// A guest that was restored has the past's time and the interfaces' addresses of all its siblings.
    fn settle(&self, plugs: &[Plug], deadline: Instant) -> Result<()> {
        let left = || deadline.saturating_duration_since(Instant::now());
        let agent = self.agent();
        agent.wait(left()).map_err(|error| self.explain("the guest does not answer").unwrap_or(error))?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let time = format!("{}.{:09}", now.as_secs(), now.subsec_nanos());
        let mut random = [0; 32];
        let source = File::open("/dev/urandom");
        let read = source.and_then(|mut source| std::io::Read::read_exact(&mut source, &mut random));
        read.trying(|| "cannot read /dev/urandom".to_string())?;
        let seed: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut command = vec!["sh".to_string(), "-ec".to_string(), SETTLE.to_string(), "settle".to_string()];
        command.extend([time, seed.clone()]);
        command.extend(
            (0..plugs.len()).map(|number| format!("52:54:00:{}:{}:{number:02x}", &seed[..2], &seed[2..4])),
        );
        agent.limited(left()).ask(&command).map(drop)
    }

    /// Why the guest does not answer: QEMU's last words where it failed, else those of the guest.
    fn explain(&self, what: &str) -> Option<Error> {
        let ended = self.qemu.wait(Duration::from_millis(200));
        if ended.is_some_and(|status| !status.success()) {
            return Some(last_words(what, &self.folder));
        }
        let console = self.console();
        let hangs = console.lines().find(|line| line.contains("blocked for more than"));
        let last = hangs.or_else(|| console.lines().rev().find(|line| !line.trim().is_empty()))?;
        Some(Error::failed(what, last.trim()))
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        self.qemu.signal(nix::sys::signal::Signal::SIGKILL);
        self.qemu.wait(Duration::from_secs(10));
        let _ = remove_tree(&self.folder);
    }
}

/// Sets the clock, stirs the kernel's random numbers, and gives each interface that is plugged in its address. One that
/// is up stays so: Linux 6.12 was seen to wait for itself for ever where it is taken down while virtio_net's work
/// on its receive mode has not been done (`virtnet_close` holds the lock that the work waits for).
const SETTLE: &str = r#"
date -u -s "@${1%.*}" >/dev/null
echo "$2" >/dev/urandom
shift 2
for new; do
    number=${new##*:}
    for interface in /sys/class/net/*; do
        case $(cat "$interface/address") in
        52:54:00:*":$number") ip link set "${interface##*/}" address "$new" ;;
        esac
    done
done
"#;

fn undertaker(folder: &Path) -> Result<Running> {
    // The inner shell is no child of this process, and so not bound to its life. A shell gives what it runs in the
    // background no standard input of its own accord.
    let script = r#"exec 3<&0; { read -r _; rm -rf --one-file-system "$1"; } <&3 >/dev/null 2>&1 &"#;
    let streams = Streams { stdin: Stdio::piped(), ..Streams::default() };
    Exec::new("sh").args(["-c", script, "kld-undertaker"]).arg(folder).start(streams)
}

fn connect(folder: &Path, qemu: &Running) -> Result<Qmp> {
    let deadline = Instant::now() + Duration::from_secs(30);
    let what = "cannot start a guest";
    loop {
        if let Ok(stream) = UnixStream::connect(folder.join("qmp")) {
            return Qmp::greet(stream);
        }
        if qemu.ended().is_some() {
            return Err(last_words(what, folder));
        }
        if Instant::now() > deadline {
            return Err(Error::failed(what, "QEMU does not answer"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn last_words(what: &str, folder: &Path) -> Error {
    let log = fsio::read_text(&folder.join("qemu.log"), 1 << 20).ok().flatten().unwrap_or_default();
    let last = log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("QEMU ended");
    // QEMU begins with its own path.
    Error::failed(
        what,
        last.split_once(": ").filter(|(start, _)| start.contains("qemu")).map_or(last, |(_, rest)| rest),
    )
}
