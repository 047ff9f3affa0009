//! What the tools print that look at files and into programs, and what they refuse.
#![allow(clippy::disallowed_types, reason = "tests run tools as a person would")]
#![allow(clippy::print_stderr, reason = "a test says why it does not run")]

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use kld_test_support::tool;
use serde_json::Value;

use common::{Tools, cannot_trace};

/// Runs a tool while this thread does something again and again, until the tool has ended.
fn beside(tools: &Tools, name: &str, args: &[&str], mut deed: impl FnMut()) -> String {
    let mut child = tools.start(name, args);
    let deadline = Instant::now() + Duration::from_secs(60);
    while child.try_wait().unwrap().is_none() {
        deed();
        assert!(Instant::now() < deadline, "{name} tells nothing");
        std::thread::sleep(Duration::from_millis(5));
    }
    let said = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{name} {args:?}: {said}");
    std::io::read_to_string(child.stdout.take().unwrap()).unwrap()
}

/// One line of columns below the heading, and one of JSON, of what this process does.
fn both(tools: &Tools, name: &str, args: &[&str], heading: &str, deed: &dyn Fn()) -> (String, Value) {
    let own = std::process::id().to_string();
    let args = [args, &["-p", &own, "-n", "1"]].concat();
    let text = beside(tools, name, &args, deed);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines.len(), lines[0]), (2, heading), "{name}");
    let json = beside(tools, name, &[&args[..], &["--json"]].concat(), deed);
    (lines[1].to_string(), serde_json::from_str(&json).unwrap())
}

#[test]
fn a_slow_read_or_write_is_a_line() {
    if cannot_trace() {
        return;
    }
    let tools = Tools::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("written by a test");
    let write = || std::fs::write(&path, [7; 3000]).unwrap();
    let heading = "TIME(s)  COMM           TID    D BYTES   LAT(ms) FILENAME";
    let (line, json) = both(&tools, "fileslower", &["0", "-c", &own_name()], heading, &write);
    assert!(line.contains(" W 3000 ") && line.ends_with(" written by a test"), "{line}");
    assert_eq!(
        (&json["operation"], &json["bytes"], &json["kind"]),
        (&"write".into(), &3000.into(), &"file".into())
    );
    assert_eq!(json["file"], "written by a test");
    assert!(json["taken_s"].as_f64() > Some(0.0) && json["device"].as_str().unwrap().contains(':'), "{json}");
}

/// This thread's name: the tools are children of this process, and write too.
fn own_name() -> String {
    std::fs::read_to_string("/proc/thread-self/comm").unwrap().trim_end().to_string()
}

#[test]
fn a_name_that_is_looked_up_is_a_line() {
    if cannot_trace() {
        return;
    }
    let tools = Tools::new();
    let look_up = || drop(std::net::ToSocketAddrs::to_socket_addrs("localhost:80"));
    let heading = "TIME      PID     COMM                  LATms HOST";
    let (line, json) = both(&tools, "gethostlatency", &[], heading, &look_up);
    assert!(line.ends_with(" localhost") && line.as_bytes()[2] == b':', "{line}");
    assert_eq!((&json["call"], &json["host"]), (&"getaddrinfo".into(), &"localhost".into()));
}

/// A bash on a terminal of its own.
struct Bash {
    terminal: File,
    child: Child,
}

impl Bash {
    fn start() -> Bash {
        // SAFETY: numbers, and a room for a name that is as long as it says.
        let (terminal, name) = unsafe {
            let fd = libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
            assert!(fd >= 0 && libc::grantpt(fd) == 0 && libc::unlockpt(fd) == 0);
            let mut name = [0_u8; 64];
            assert_eq!(libc::ptsname_r(fd, name.as_mut_ptr().cast(), name.len()), 0);
            (OwnedFd::from_raw_fd(fd), name)
        };
        let name = std::ffi::CStr::from_bytes_until_nul(&name).unwrap().to_str().unwrap().to_string();
        let end = || File::options().read(true).write(true).open(&name).unwrap();
        let mut bash = Command::new(kld_ebpf::libraries::BASH);
        bash.args(["--norc", "--noprofile", "-i"]).env("TERM", "dumb").env_remove("HISTFILE");
        let child = bash.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        Bash { terminal: terminal.into(), child }
    }

    /// Types a line, and takes what has come of the lines before.
    fn line(&mut self, line: &str) {
        self.terminal.write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut ready = libc::pollfd { fd: self.terminal.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: there is one of it.
        while unsafe { libc::poll(&mut ready, 1, 5) } > 0 && ready.revents & libc::POLLIN != 0 {
            let _ = self.terminal.read(&mut [0; 4096]);
        }
    }
}

impl Drop for Bash {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_line_that_is_given_to_bash_is_a_line() {
    if cannot_trace() {
        return;
    }
    if !std::path::Path::new(kld_ebpf::libraries::BASH).exists() {
        return eprintln!("not tested: there is no bash here");
    }
    let tools = Tools::new();
    let bash = std::cell::RefCell::new(Bash::start());
    let pid = bash.borrow().child.id().to_string();
    let args = ["-p", &pid, "-n", "1"];
    let text = beside(&tools, "bashreadline", &args, || bash.borrow_mut().line(": typed by a test"));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "TIME      PID     COMMAND");
    assert!(lines[1].ends_with(&format!(" {pid:<7} : typed by a test")), "{text}");
    let args = [&args[..], &["--json"]].concat();
    let json = beside(&tools, "bashreadline", &args, || bash.borrow_mut().line(": typed by a test"));
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["line"], &json["comm"]), (&": typed by a test".into(), &"bash".into()));
}

#[test]
fn the_cache_of_pages_is_told_in_every_form() {
    if cannot_trace() {
        return;
    }
    let tools = Tools::new();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("read by a test");
    std::fs::write(&path, [7; 40_000]).unwrap();
    let read = || _ = std::fs::read(&path).unwrap();
    let text = beside(&tools, "cachestat", &["0.5", "1"], read);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[1], "    HITS   MISSES  DIRTIES HITRATIO   BUFFERS_MB  CACHED_MB");
    let words: Vec<&str> = lines[2].split_whitespace().collect();
    assert!(words.len() == 6 && words[3].ends_with('%') && words[5].parse::<u64>().unwrap() > 0, "{text}");
    let json: Value =
        serde_json::from_str(&beside(&tools, "cachestat", &["0.5", "1", "--json"], read)).unwrap();
    let pages = &json["pages"];
    assert!(
        pages["wanted"].as_u64() >= Some(10) && pages["hits"].as_u64() <= pages["wanted"].as_u64(),
        "{json}"
    );
    let file = folder.path().join("cachestat.prom");
    assert_eq!(beside(&tools, "cachestat", &["0.5", "1", "--prometheus", file.to_str().unwrap()], read), "");
    let metrics = std::fs::read_to_string(file).unwrap();
    assert!(metrics.contains("kld_page_cache_pages_total{what=\"wanted\"} "), "{metrics}");
}

#[test]
fn what_the_tools_cannot_mean_is_refused() {
    if cannot_trace() {
        return;
    }
    let tools = Tools::new();
    for (tool, args, said) in [
        ("filetop", &["-s", "size"][..], "error: invalid value 'size'"),
        ("fileslower", &["soon"], "error: invalid value 'soon'"),
        ("fileslower", &["nan"], "error: invalid value 'nan'"),
        ("cachestat", &["0"], "error: invalid value '0'"),
        ("vfsstat", &["1", "0"], "error: invalid value '0'"),
        ("gethostlatency", &["-l", "/proc/version"], "error: /proc/version is no program and no library"),
        ("gethostlatency", &["-l", "/nonexistent/libc.so"], "error: there is no file /nonexistent/libc.so"),
        (
            "gethostlatency",
            &["-l", env!("CARGO_BIN_EXE_kld-trace")],
            concat!(
                "error: there is no function getaddrinfo in ",
                env!("CARGO_BIN_EXE_kld-trace"),
                "\nhint: "
            ),
        ),
        ("bashreadline", &["-s", "/bin/true"], "error: there is no function readline in /bin/true\nhint: "),
    ] {
        let mut command: Command = tool::command(&tools.path(tool));
        command.args(args);
        let ran = tool::run(command);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{tool} {args:?}: {}", ran.stderr);
        assert!(ran.stderr.starts_with(said), "{tool} {args:?}: {}", ran.stderr);
    }
}

#[test]
fn what_this_host_lacks_is_named() {
    if cannot_trace() {
        return;
    }
    let tools = Tools::new();
    let kprobes = std::path::Path::new("/sys/bus/event_source/devices/kprobe").exists();
    let zfs = std::path::Path::new("/sys/module/zfs").exists();
    for name in ["zfsslower", "zfsdist"] {
        let mut command: Command = tool::command(&tools.path(name));
        command.args(["-d", "0.1"]);
        let ran = tool::run(command);
        let said = match (kprobes, zfs) {
            (false, _) => "this kernel has no probes on its functions (kprobes)\nhint: boot a kernel",
            (true, false) => "this kernel has no function zpl_iter_read\nhint: load its module zfs",
            (true, true) => "",
        };
        assert_eq!(ran.code, Some(if said.is_empty() { 0 } else { 1 }), "{}", ran.stderr);
        assert!(ran.stderr.contains(said), "{}", ran.stderr);
    }
}
