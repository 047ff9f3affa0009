//! Two network namespaces of the test's own, joined by a cable and by a tunnel, and processes that leak in one of them.
//! All of it ends with the test.
#![allow(clippy::disallowed_types, reason = "tests run programs in namespaces of their own")]

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kld_ebpf::{names, privilege};
use kld_test_support::in_lab;
use kld_test_support::tool::{self, Ran};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};

/// WireGuard's port on both sides.
const PORT: u16 = 51820;

/// Says why nothing can be looked at here, and whether that is so. As root it must work.
pub fn cannot_look() -> bool {
    let able = privilege::check().and_then(|()| privilege::check_network());
    let able = able.and_then(|()| privilege::check_pid_namespace());
    if let Err(error) = &able {
        eprintln!("not tested: {error}");
    }
    able.is_err()
}

/// A network namespace, kept by its descriptor.
#[derive(Clone)]
struct Namespace(Arc<File>);

impl Namespace {
    fn new() -> Namespace {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        Namespace(Arc::new(made.join().unwrap()))
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    fn enter(&self) {
        setns(&*self.0, CloneFlags::CLONE_NEWNET).unwrap();
    }

    /// Does something inside.
    fn inside<T: Send + 'static>(&self, deed: impl FnOnce() -> T + Send + 'static) -> T {
        let own = self.clone();
        let thread = std::thread::spawn(move || {
            own.enter();
            deed()
        });
        thread.join().unwrap()
    }

    fn command(&self, program: &Path) -> Command {
        let own = self.clone();
        let mut command = tool::command(program);
        let enter = move || setns(&*own.0, CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from);
        // SAFETY: the closure makes a system call.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Runs a program of the host's, which must succeed.
    fn run(&self, line: &str) {
        let mut words = line.split(' ');
        let name = words.next().unwrap();
        let folders = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(|folder| Path::new(folder).join(name));
        let program =
            folders.iter().find(|path| path.exists()).unwrap_or_else(|| panic!("there is no {name}"));
        let mut command = self.command(program);
        let ran = command.args(words).output().unwrap();
        assert!(ran.status.success(), "{line}: {}", String::from_utf8_lossy(&ran.stderr));
    }
}

/// The host that is looked at, and the other side.
pub struct Ground {
    host: Namespace,
    pub outside: Outside,
}

impl Ground {
    /// The host has 192.0.2.1 and 2001:db8::1 on `out0`, and 10.0.0.1 and fd00::1 on the tunnel `wg0`; the other side
    /// has the same that end in 2.
    pub fn new() -> Ground {
        let (host, other) = (Namespace::new(), Namespace::new());
        for side in [&host, &other] {
            side.run("ip link set lo up");
        }
        host.run(&format!("ip link add out0 type veth peer name out0 netns {}", other.path()));
        addresses(&host, &other, "out0", ["192.0.2", "2001:db8:"]);
        match in_lab() {
            true => wireguard(&host, &other),
            false => host.run(&format!("ip link add wg0 type veth peer name wg0 netns {}", other.path())),
        }
        addresses(&host, &other, "wg0", ["10.0.0", "fd00:"]);
        let outside = Outside(other);
        outside.serve(&[
            "192.0.2.2:7000",
            "192.0.2.2:7001",
            "[2001:db8::2]:7002",
            "10.0.0.2:7000",
            "10.0.0.2:7001",
            "[fd00::2]:7002",
        ]);
        Ground { host, outside }
    }

    /// The tunnel's port, where it is WireGuard's.
    pub fn port(&self) -> Option<u16> {
        in_lab().then_some(PORT)
    }

    /// From now on the host has one more tunnel of WireGuard's, with 10.9.0.1.
    pub fn another_tunnel(&self) {
        for line in
            ["ip link add wg1 type wireguard", "ip link set wg1 up", "ip address add 10.9.0.1/24 dev wg1"]
        {
            self.host.run(line);
        }
    }

    fn tool(&self, args: &[&str]) -> Command {
        let mut command = self.host.command(&program());
        command.arg("wg-leaks").args(args);
        if !in_lab() {
            command.args(["--tunnel", "wg0"]);
        }
        command
    }

    /// Runs the tool to its end.
    pub fn run(&self, args: &[&str]) -> Ran {
        tool::run(self.tool(args))
    }

    /// Starts the tool; it watches when this returns.
    pub fn watch(&self, args: &[&str]) -> Watching {
        let mut command = self.tool(&[&["--json", "--follow"], args].concat());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while links_of(child.id()) < 5 {
            assert!(Instant::now() < deadline, "the tool attaches no programs");
            std::thread::sleep(Duration::from_millis(5));
        }
        // A moment later it has opened its gate.
        std::thread::sleep(Duration::from_millis(200));
        Watching(child)
    }

    /// A process of this name that does something on the host, and stays.
    pub fn plant(&self, name: &'static str, deed: impl FnOnce()) -> Leaky {
        Leaky::start(&self.host, name, None, deed, true)
    }

    /// One that does something, and is gone.
    pub fn plant_shortly(&self, name: &'static str, deed: impl FnOnce()) -> Leaky {
        Leaky::start(&self.host, name, None, deed, false)
    }

    /// One in a control group of its own, of this name.
    pub fn plant_in(&self, group: &str, name: &'static str, deed: impl FnOnce()) -> Leaky {
        Leaky::start(&self.host, name, Some(Group::new(group)), deed, true)
    }
}

fn program() -> PathBuf {
    match in_lab() {
        true => tool::built().join("kld-trace"),
        false => env!("CARGO_BIN_EXE_kld-trace").into(),
    }
}

fn links_of(pid: u32) -> usize {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
    let infos = entries.filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
    infos.filter(|text| text.contains("link_type:")).count()
}

fn addresses(host: &Namespace, other: &Namespace, interface: &str, [four, six]: [&str; 2]) {
    for (side, own) in [(host, 1), (other, 2)] {
        side.run(&format!("ip link set {interface} up"));
        side.run(&format!("ip address add {four}.{own}/24 dev {interface}"));
        side.run(&format!("ip address add {six}:{own}/64 dev {interface} nodad"));
    }
}

/// A tunnel over the cable.
fn wireguard(host: &Namespace, other: &Namespace) {
    let folder = tempfile::tempdir().unwrap();
    let keys = [1, 2].map(|side| {
        let private = folder.path().join(format!("{side}"));
        let made = Command::new("wg").arg("genkey").output().unwrap().stdout;
        std::fs::write(&private, made).unwrap();
        let input = File::open(&private).unwrap();
        let public = Command::new("wg").arg("pubkey").stdin(input).output().unwrap().stdout;
        (private, String::from_utf8(public).unwrap().trim().to_string())
    });
    for (side, own, peer) in [(host, 0, 1), (other, 1, 0)] {
        side.run("ip link add wg0 type wireguard");
        let (private, public) = (keys[own].0.display(), &keys[peer].1);
        side.run(&format!(
            "wg set wg0 private-key {private} listen-port {PORT} peer {public} endpoint 192.0.2.{}:{PORT} \
             allowed-ips 10.0.0.0/24,fd00::/64",
            peer + 1
        ));
    }
}

/// The other side of the cable.
pub struct Outside(Namespace);

impl Outside {
    /// Listens at these addresses, and holds what connects.
    fn serve(&self, addresses: &[&'static str]) {
        for address in addresses.iter().copied() {
            let listener = self.0.inside(move || TcpListener::bind(address).unwrap());
            std::thread::spawn(move || listener.incoming().collect::<Vec<_>>());
        }
    }

    /// Connects to the host, which need not accept.
    pub fn connect(&self, to: &'static str) {
        let stream = self.0.inside(move || TcpStream::connect(to).unwrap());
        std::mem::forget(stream);
    }

    /// Tries to connect to where nobody listens.
    pub fn is_refused(&self, to: &'static str) {
        let to: SocketAddr = to.parse().unwrap();
        let tried = self.0.inside(move || TcpStream::connect_timeout(&to, Duration::from_secs(5)).map(drop));
        assert_eq!(tried.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    }
}

/// A tool that runs.
pub struct Watching(Child);

impl Watching {
    /// Ends it as Ctrl-C does: how it ended, and what it said.
    pub fn end(self) -> Ended {
        std::thread::sleep(Duration::from_millis(200));
        kill(Pid::from_raw(self.0.id() as i32), Signal::SIGINT).unwrap();
        let out = self.0.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ended { code: out.status.code(), stdout: text(out.stdout), stderr: text(out.stderr) }
    }
}

/// How a tool ended.
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// A control group that is gone with this value.
struct Group(PathBuf);

impl Group {
    fn new(name: &str) -> Group {
        let root = names::cgroup_root().expect("the second hierarchy of control groups is mounted");
        let folder = root.join(name);
        std::fs::create_dir(&folder).unwrap();
        Group(folder)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// A process that leaks; it ends with the last of these values.
#[derive(Clone)]
pub struct Leaky {
    pub pid: u32,
    pub name: &'static str,
    _life: Arc<Life>,
}

struct Life {
    process: Pid,
    /// Removed once the process is gone.
    _group: Option<Group>,
}

impl Drop for Life {
    fn drop(&mut self) {
        let _ = kill(self.process, Signal::SIGKILL);
        let _ = waitpid(self.process, None);
    }
}

impl Leaky {
    /// `deed` runs in a forked child, which has no other threads; it is done when this returns.
    fn start(
        host: &Namespace,
        name: &'static str,
        group: Option<Group>,
        deed: impl FnOnce(),
        stays: bool,
    ) -> Leaky {
        let (mut done, word) = UnixStream::pair().unwrap();
        let comm = CString::new(name).unwrap();
        let join = group
            .as_ref()
            .map(|group| OpenOptions::new().write(true).open(group.0.join("cgroup.procs")).unwrap());
        // SAFETY: the child opens sockets and makes system calls, takes no lock of the parent's but the allocator's,
        // which glibc frees in children, and ends without returning.
        let child = match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => child,
            ForkResult::Child => {
                let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
                let _ = nix::sys::prctl::set_name(&comm);
                if let Some(mut join) = join {
                    let _ = join.write_all(b"0");
                }
                host.enter();
                deed();
                let _ = (&word).write_all(b"!");
                if stays {
                    nix::unistd::pause();
                }
                // SAFETY: nothing of the parent's is to be flushed or dropped.
                unsafe { libc::_exit(0) }
            }
        };
        drop(word);
        let life = Arc::new(Life { process: child, _group: group });
        assert!(done.read_exact(&mut [0]).is_ok(), "{name} does not leak");
        Leaky { pid: child.as_raw() as u32, name, _life: life }
    }
}

/// Keeps a socket until its process ends.
pub fn hold<T>(socket: std::io::Result<T>) {
    match socket {
        Ok(socket) => std::mem::forget(socket),
        // SAFETY: nothing of the parent's is to be flushed or dropped.
        Err(_) => unsafe { libc::_exit(1) },
    }
}
