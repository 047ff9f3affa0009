//! A libvirt host of a test's own: libvirtd and QEMU out of the [private root](crate::root), in their own mount,
//! PID and network namespaces, with all their state in one temporary folder that is gone afterwards. In the lab they
//! are the lab's own, and the host has a ZFS [pool](crate::pool) beside them.
#![allow(
    clippy::disallowed_types,
    reason = "a test needs a child with a pipe to it, which kld_core::exec has not"
)]

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use kld_core::error::Trying;
use kld_core::{Error, Result, fsio};

use crate::Pool;
use crate::root::{Root, cache_folder};
use crate::tool::{self, Ran};

/// libvirtd must be there after this time.
const PATIENCE: Duration = Duration::from_secs(120);

/// A Unix socket's path has at most 107 bytes; the longest name that libvirtd puts into its folder is this.
const LONGEST_SOCKET: &str = "/libvirt-admin-sock";

/// The user and the group that Debian has for QEMU.
const QEMU_USER: (&str, &str) = ("libvirt-qemu", "kvm");

const QEMU_CONF: &str = r#"security_driver = "none"
cgroup_controllers = []
namespaces = []
remember_owner = 0
stdio_handler = "file"
"#;

/// A running libvirt host. Dropping it ends its machines and its libvirtd and removes its folder; so does the end
/// of this process, a SIGKILL included.
#[derive(Debug)]
pub struct Host {
    state: PathBuf,
    keeper: Child,
    life: Option<ChildStdin>,
    pid: i32,
    pool: Option<Pool>,
}

/// Where a host's volumes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// In the directory store.
    Dir,
    /// On the host's pool.
    Zfs,
}

/// What a host stands on.
pub(crate) enum Ground {
    /// Programs that the machine which runs the tests need not have.
    PrivateRoot(Root),
    /// The lab's own programs, and a pool.
    Lab,
}

impl Ground {
    fn here() -> Result<Ground> {
        match crate::in_lab() {
            true => Ok(Ground::Lab),
            false => Root::ensure(&kld_core::ui::Ui::default()).map(Ground::PrivateRoot),
        }
    }

    /// The script that keeps the host.
    fn script(&self) -> &'static [u8] {
        match self {
            Ground::PrivateRoot(_) => include_bytes!("host.sh"),
            Ground::Lab => include_bytes!("host/lab.sh"),
        }
    }
}

/// What becomes of a host's folder when it ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum After {
    Keep,
    Remove,
}

impl Host {
    /// Starts a host in a fresh temporary folder.
    ///
    /// # Panics
    /// Where that is impossible, with the reason: a test cannot go on then.
    pub fn start() -> Host {
        Host::try_start().unwrap_or_else(|error| panic!("{}", explain(&error)))
    }

    /// The host that the read-mostly tests of one process share: give machines names of your own there.
    pub fn shared() -> &'static Host {
        static SHARED: OnceLock<Host> = OnceLock::new();
        SHARED.get_or_init(Host::start)
    }

    /// Starts a host in a fresh temporary folder, or says why not.
    pub fn try_start() -> Result<Host> {
        Host::try_start_as(("root", "root"))
    }

    fn try_start_as(user: (&str, &str)) -> Result<Host> {
        let ground = Ground::here()?;
        let folder = tempfile::Builder::new().prefix("kld-").tempdir();
        let state = folder.trying(|| "cannot make a temporary folder".to_string())?.keep();
        fsio::set_mode(&state, 0o755)?;
        Host::start_with(&ground, &state, After::Remove, user)
    }

    /// Starts a host whose QEMU runs as the user that distributions have for it, and not as root.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub fn unprivileged() -> Host {
        Host::try_start_as(QEMU_USER).unwrap_or_else(|error| panic!("{}", explain(&error)))
    }

    /// Starts a host in `state`, an existing folder, which is kept afterwards.
    pub fn start_in(state: &Path) -> Result<Host> {
        Host::start_with(&Ground::here()?, state, After::Keep, ("root", "root"))
    }

    pub(crate) fn start_with(
        ground: &Ground,
        state: &Path,
        after: After,
        (user, group): (&str, &str),
    ) -> Result<Host> {
        let what = "cannot start a private libvirt host";
        if !nix::unistd::geteuid().is_root() {
            return Err(Error::failed(what, "it needs namespaces of its own, which only root may make")
                .with_hint("run the tests as root, in a container or a virtual machine if you like"));
        }
        if state.as_os_str().len() + LONGEST_SOCKET.len() > 107 {
            let cause = format!("{} is too long a path for a Unix socket", state.display());
            return Err(Error::failed(what, cause).with_hint("set TMPDIR to a short path"));
        }
        // Where QEMU is not root, the store's and the state's folders are the tools' to make, with the right modes.
        let folders = ["etc", "bin", "home", "store", "state"];
        for folder in folders.iter().take(if user == "root" { 5 } else { 3 }) {
            fsio::create_dir_all(&state.join(folder), 0o755)?;
        }
        fsio::replace(&state.join("host.sh"), ground.script(), 0o644)?;
        let qemu_conf = format!("user = \"{user}\"\ngroup = \"{group}\"\n{QEMU_CONF}");
        fsio::replace(&state.join("etc/qemu.conf"), qemu_conf.as_bytes(), 0o644)?;
        fsio::replace(&state.join("etc/libvirtd.conf"), libvirtd_conf(state).as_bytes(), 0o644)?;
        let log = File::create(state.join("host.log")).trying(|| what.to_string())?;
        let log_too = log.try_clone().trying(|| what.to_string())?;
        let (pool, needs) = match ground {
            Ground::PrivateRoot(root) => (None, vec![root.tree(), root.capabilities(), cache_folder()]),
            Ground::Lab => {
                let pool = Pool::of(state);
                let needs = vec![pool.name().into()];
                (Some(pool), needs)
            }
        };
        let mut keeper = Command::new("/bin/bash")
            .arg(state.join("host.sh"))
            .arg("outside")
            .arg(state)
            .arg(match after {
                After::Keep => "keep",
                After::Remove => "remove",
            })
            .args(needs)
            .env_clear()
            .env("PATH", kld_core::exec::SEARCH_PATH)
            .env("LC_ALL", "C")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(log_too)
            // Ctrl-C is for the test alone: the host ends when the test has.
            .process_group(0)
            .spawn()
            .trying(|| what.to_string())?;
        let life = keeper.stdin.take();
        let mut host = Host { state: state.to_path_buf(), keeper, life, pid: 0, pool };
        // Where QEMU is not root, the folder is the tools' to make.
        if host.pool.is_some() && host.state_dir().is_dir() {
            host.foretell_kvm()?;
        }
        host.wait_until_it_answers()?;
        Ok(host)
    }

    /// Lets kld know beforehand that there is no KVM: in the lab, which is emulated, finding out takes minutes, and the
    /// machines of these tests run nothing.
    fn foretell_kvm(&self) -> Result<()> {
        let emulator = Path::new("/usr/bin/qemu-system-x86_64");
        let modified = emulator.metadata().and_then(|meta| meta.modified()).ok();
        let modified = modified.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        let boot_id = fsio::read_text(Path::new("/proc/sys/kernel/random/boot_id"), 64)?.unwrap_or_default();
        let verdict = serde_json::json!({
            "boot_id": boot_id.trim(),
            "uri": self.uri(),
            "emulator": emulator,
            "modified": modified.map(|time| time.as_secs()),
            "kvm": { "runs_guests": false, "finding": "machines of tests run in emulation", "remedy": null },
        });
        fsio::replace(&self.state_dir().join("kvm-probe.json"), verdict.to_string().as_bytes(), 0o644)
    }

    fn wait_until_it_answers(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let log = self.state.join("host.log");
        // Held open, since the folder is removed when the host fails.
        let log = File::open(&log).trying(|| format!("cannot read {}", log.display()))?;
        let failed = |cause: &str| {
            let said = std::io::read_to_string(&log).unwrap_or_default();
            Error::failed("cannot start a private libvirt host", format!("{cause}: {}", said.trim()))
        };
        while UnixStream::connect(self.socket()).is_err() {
            if matches!(self.keeper.try_wait(), Ok(Some(_))) {
                return Err(failed("it ended at once"));
            }
            if Instant::now() > deadline {
                return Err(failed("libvirtd does not answer"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let pid = fsio::read_text(&self.state.join("pid"), 64)?.unwrap_or_default();
        self.pid = pid.trim().parse().map_err(|_| failed("its first process has no number"))?;
        Ok(())
    }

    /// The libvirt connection of this host.
    pub fn uri(&self) -> String {
        format!("qemu:///system?socket={}", self.socket().display())
    }

    fn socket(&self) -> PathBuf {
        self.state.join("libvirt-sock")
    }

    /// The folder that holds everything of this host; libvirtd and QEMU see it under the same path.
    pub fn folder(&self) -> &Path {
        &self.state
    }

    /// Where the directory store keeps its volumes.
    pub fn store_root(&self) -> PathBuf {
        self.state.join("store")
    }

    /// Where kld keeps its journal and locks.
    pub fn state_dir(&self) -> PathBuf {
        self.state.join("state")
    }

    /// Where its volumes are.
    pub fn store(&self) -> Store {
        if self.pool.is_some() { Store::Zfs } else { Store::Dir }
    }

    /// Its pool, where it has one.
    pub fn pool(&self) -> Option<&Pool> {
        self.pool.as_ref()
    }

    /// The settings that point kld's tools at this host, as environment variables.
    pub fn env(&self) -> Vec<(String, String)> {
        let path = |path: PathBuf| path.display().to_string();
        // In the lab, which is emulated, everybody is slow.
        let lab = |pool: &Pool| [("KLD_ZFS_ROOT", pool.root()), ("KLD_LIBVIRT_TIMEOUT", "300".to_string())];
        let zfs = self.pool.iter().flat_map(lab);
        let all = [
            ("HOME", path(self.state.join("home"))),
            ("KLD_LIBVIRT_URI", self.uri()),
            ("KLD_STORE_ROOT", path(self.store_root())),
            ("KLD_STATE_DIR", path(self.state_dir())),
            ("KLD_NETWORK", "none".to_string()),
            ("KLD_HOOK_DIR", path(self.state.join("hooks/qemu.d"))),
        ];
        all.into_iter().chain(zfs).map(|(name, value)| (name.to_string(), value)).collect()
    }

    /// What is of this host alone, and what stands for it in output that is compared.
    fn own(&self) -> Vec<(String, &'static str)> {
        let pool = self.pool.iter().map(|pool| (pool.name().to_string(), "[pool]"));
        [(self.state.display().to_string(), "[host]")].into_iter().chain(pool).collect()
    }

    /// A folder with the built tools under their names, such as `kvm-clone`: made as they are asked for.
    pub fn tool(&self, name: &str) -> PathBuf {
        tool::link(&self.state.join("bin"), name)
    }

    /// A command that runs one of kld's tools on this host, for tests that want to feed, kill or trace it.
    pub fn command(&self, tool: &str) -> Command {
        let mut command = tool::command(&self.tool(tool));
        command.envs(self.env());
        command
    }

    /// Runs one of kld's tools on this host.
    ///
    /// # Panics
    /// Where the tool is not built or does not end within [`tool::LIMIT`].
    pub fn run<S: AsRef<std::ffi::OsStr>>(&self, tool: &str, args: impl IntoIterator<Item = S>) -> Ran {
        let mut command = self.command(tool);
        command.args(args);
        tool::run(command).hiding(self.own())
    }

    /// Runs a program of the private root inside this host's namespaces.
    pub fn inside<S: AsRef<std::ffi::OsStr>>(&self, program: &str, args: impl IntoIterator<Item = S>) -> Ran {
        let mut command = tool::command(Path::new("/usr/bin/nsenter"));
        command.arg(format!("--target={}", self.pid));
        command.args(["--mount", "--pid", "--net", "--root", "--wd=/", program]).args(args);
        tool::run(command).hiding(self.own())
    }

    /// Runs `virsh` against this host.
    pub fn virsh<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        let uri = format!("--connect={}", self.uri());
        let args = args.into_iter().map(|arg| arg.as_ref().to_os_string());
        self.inside("virsh", [uri.into(), "--quiet".into()].into_iter().chain(args))
    }

    /// Runs `qemu-img`.
    pub fn qemu_img<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        self.inside("qemu-img", args)
    }

    /// Runs `qemu-io`.
    pub fn qemu_io<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        self.inside("qemu-io", args)
    }

    /// Sends libvirtd a signal, such as `STOP`, `CONT` or `KILL`.
    pub fn signal_libvirtd(&self, signal: &str) {
        let script = format!("kill -{signal} $(cat /run/libvirt/libvirtd.pid)");
        assert_eq!(self.inside("bash", ["-c", &script]).code, Some(0), "libvirtd does not run");
    }

    /// Ends libvirtd; its machines go on, and nobody answers at [`Host::uri`].
    pub fn stop_libvirtd(&self) {
        self.signal_libvirtd("KILL");
        while UnixStream::connect(self.socket()).is_ok() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts libvirtd again after [`Host::stop_libvirtd`].
    pub fn start_libvirtd(&mut self) -> Result<()> {
        use std::io::Write;
        if let Some(life) = &mut self.life {
            life.write_all(b"start\n").trying(|| "cannot start libvirtd again".to_string())?;
        }
        self.wait_until_it_answers()
    }

    /// Ends a QEMU as a crash or the out-of-memory killer would.
    pub fn kill_qemu(&self, machine: &str) {
        let script = "kill -KILL $(cat /run/libvirt/qemu/\"$1\".pid)";
        let ran = self.inside("bash", ["-c", script, "kill", machine]);
        assert_eq!(ran.code, Some(0), "{machine} does not run: {}", ran.stderr);
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.life.take();
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.keeper.try_wait(), Ok(None)) {
            if Instant::now() > deadline && self.pid > 0 {
                let first = nix::unistd::Pid::from_raw(self.pid);
                let _ = nix::sys::signal::kill(first, nix::sys::signal::Signal::SIGKILL);
                let _ = self.keeper.wait();
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn libvirtd_conf(state: &Path) -> String {
    format!(
        "unix_sock_dir = \"{}\"\nauth_unix_rw = \"none\"\nauth_unix_ro = \"none\"\nlog_outputs = \"2:stderr\"\n",
        state.display()
    )
}

fn explain(error: &Error) -> String {
    match error.hint() {
        Some(hint) => format!("{error}\nhint: {hint}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
