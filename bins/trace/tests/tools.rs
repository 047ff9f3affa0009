//! What the tools print that tell events, and what they say where they may not ask.
#![allow(clippy::disallowed_types, reason = "tests run tools as a person would")]
#![allow(clippy::print_stderr, reason = "a test says why it does not run")]

mod common;

use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kld_test_support::tool;

use common::{Tools, cannot_trace};

/// The tools are told to look at this process, so that one test would see what another does.
fn alone() -> Option<MutexGuard<'static, ()>> {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    (!cannot_trace()).then_some(alone)
}

#[test]
fn columns_and_json_tell_the_same() {
    let Some(_alone) = alone() else { return };
    let tools = Tools::new();
    let own = std::process::id().to_string();
    // This thread alone: the tools are children of this process, and open files too.
    let name = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
    let whose = ["-p", own.as_str(), "-c", name.trim_end(), "-n", "3"];
    let text = tools.start("opensnoop", &whose);
    let json = tools.start("opensnoop", &[&whose[..], &["--json", "--stats"]].concat());
    let mut both = [text, json];
    let deadline = Instant::now() + Duration::from_secs(60);
    while both.iter_mut().any(|child| child.try_wait().unwrap().is_none()) {
        let _ = std::fs::File::open("/nonexistent/opened by a test");
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
    let [text, json] = both.map(|mut child| std::io::read_to_string(child.stdout.take().unwrap()).unwrap());
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "PID    COMM               FD ERR PATH");
    assert_eq!(lines.len(), 4, "{text}");
    let ours = |line: &&&str| line.ends_with("  -1   2 /nonexistent/opened by a test");
    assert!(lines[1..].iter().any(|line| ours(&line)), "{text}");
    let objects: Vec<serde_json::Value> =
        json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(objects.len(), 4, "three events and the statistics: {json}");
    let event = objects.iter().find(|one| one["path"] == "/nonexistent/opened by a test").unwrap();
    assert_eq!(
        (&event["errno"], &event["fd"], &event["pid"]),
        (&2.into(), &().into(), &std::process::id().into())
    );
    assert!(objects[3]["stats"]["seen"].as_u64().unwrap() >= 3, "{json}");
}

#[test]
fn who_may_not_ask_is_told_which_capability_is_missing() {
    let Some(_alone) = alone() else { return };
    let tools = Tools::new();
    let (tool, text) = (tools.path("opensnoop"), "hint: run it as root, or give it CAP_BPF and CAP_PERFMON");
    let drop = |bounding: &str| {
        let mut command = tool::command(Path::new("/usr/bin/setpriv"));
        command.args(["--bounding-set", bounding, "--inh-caps", bounding]).arg(&tool).args(["-d", "0.1"]);
        tool::run(command)
    };
    for (bounding, lacking) in
        [("-sys_admin,-bpf,-perfmon", "CAP_PERFMON and CAP_BPF"), ("-sys_admin,-bpf", "CAP_BPF")]
    {
        let ran = drop(bounding);
        let sentence = format!("error: cannot look into the kernel: this process lacks {lacking}\n{text}");
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""));
        assert!(ran.stderr.starts_with(&sentence), "{}", ran.stderr);
    }
    drop("-sys_admin").ok();
    let mut command = tool::command(Path::new("/usr/bin/setpriv"));
    command.args(["--bounding-set", "-net_admin", "--inh-caps", "-net_admin"]).arg(tools.path("wg-leaks"));
    let ran = tool::run(command);
    let sentence = "error: cannot look at what leaves the host: this process lacks CAP_NET_ADMIN\n";
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains(sentence), "{}", ran.stderr);
}

#[test]
fn what_cannot_be_meant_is_refused_before_anything_is_loaded() {
    let Some(_alone) = alone() else { return };
    let tools = Tools::new();
    for (args, code, said) in [
        (&["-p", "2147483632"][..], 2, "error: there is no process 2147483632\n"),
        (&["-u", "no-such-user"], 2, "error: there is no user 'no-such-user'\n"),
        (&["--container", "0123456789ab"], 2, "error: there is no container '0123456789ab'\n"),
        (&["--machine", "no-such-machine"], 2, "error: there is no machine 'no-such-machine'\n"),
        (&["-d", "soon"], 2, "error: invalid value 'soon'"),
        (&["-n", "0"], 2, "error: invalid value '0'"),
    ] {
        let mut command: Command = tool::command(&tools.path("opensnoop"));
        command.args(args);
        let ran = tool::run(command);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(code), ""), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.starts_with(said), "{args:?}: {}", ran.stderr);
    }
}

#[test]
fn in_a_pid_namespace_of_its_own_no_process_is_told_by_its_number() {
    let Some(_alone) = alone() else { return };
    let tools = Tools::new();
    let inside = |args: &[&str]| {
        let mut command = tool::command(Path::new("/usr/bin/unshare"));
        command.args(["--pid", "--fork", "--mount-proc"]).arg(tools.path("opensnoop")).args(args);
        tool::run(command)
    };
    let ran = inside(&["-p", "1"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""));
    assert_eq!(
        ran.stderr,
        "error: cannot tell processes by their numbers: this is a PID namespace of its own, and the kernel tells the host's numbers\n\
         hint: choose by --comm, --user or --cgroup, or share the host's namespace (podman run --pid=host)\n"
    );
    inside(&["-d", "0.1"]).ok();
}

/// Runs a tool on this test's own process while that does something again and again, until the tool has told one line.
fn one_line(tools: &Tools, name: &str, args: &[&str], mut deed: impl FnMut()) -> String {
    let own = std::process::id().to_string();
    // What has no process is filtered by its socket's user.
    let whose = match name {
        "tcpretrans" | "tcpdrop" => ["-u", "4809"],
        _ => ["-p", own.as_str()],
    };
    let mut child = tools.start(name, &[&whose, &["-n", "1"], args].concat());
    let deadline = Instant::now() + Duration::from_secs(60);
    while child.try_wait().unwrap().is_none() {
        deed();
        assert!(Instant::now() < deadline, "{name} tells nothing");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::io::read_to_string(child.stdout.take().unwrap()).unwrap()
}

/// A tool, its heading, what it is to see, what its line holds, and a field of its JSON.
type Row<'a> = (&'a str, &'a str, &'a dyn Fn(), &'a str, &'a str);

/// A connection of user 4809 whose other side throws away what it receives, for 300 ms.
fn lose() {
    let nothing = [libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0 }];
    let program = libc::sock_fprog { len: 1, filter: nothing.as_ptr().cast_mut() };
    let length = size_of::<libc::sock_fprog>() as u32;
    let (level, option) = (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER);
    // SAFETY: it is this thread's alone, and is set back.
    unsafe { libc::setfsuid(4809) };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = std::net::TcpStream::connect(listener.local_addr().unwrap());
    let server = listener.accept().unwrap().0;
    // SAFETY: the program is alive and as long as it says.
    unsafe {
        libc::setfsuid(0);
        libc::setsockopt(server.as_raw_fd(), level, option, (&raw const program).cast(), length);
    }
    std::io::Write::write_all(&mut client.unwrap(), b"hello").unwrap();
    std::thread::sleep(Duration::from_millis(300));
}

#[test]
fn every_tool_prints_its_columns_and_its_json() {
    let Some(_alone) = alone() else { return };
    let tools = Tools::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let connect = || {
        let client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let _ = listener.accept();
        drop(client);
    };
    let listen = || drop(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let start = || _ = Command::new("/bin/true").arg("kld").status();
    // SAFETY: signal 0 is none.
    let signal = || _ = unsafe { libc::kill(libc::getpid(), 0) };
    let port_text = format!("{port}");
    let ask = || _ = std::fs::metadata("/nonexistent/asked by a test");
    let thread = || std::thread::spawn(|| ()).join().unwrap();
    // SAFETY: there is no such mount.
    let unmount = || _ = unsafe { libc::umount2(c"/nonexistent/mount".as_ptr(), 0) };
    // SAFETY: nothing changes.
    let chroot = || _ = unsafe { libc::chroot(c"/".as_ptr()) };
    let mut file = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = std::cell::RefCell::new(&mut file);
    let write = || {
        file.borrow_mut().write_all(b"work").unwrap();
        file.borrow_mut().sync_all().unwrap();
    };
    let sleep = || std::thread::sleep(Duration::from_millis(1));
    let all: [Row<'_>; 17] = [
        (
            "biosnoop",
            "TIME(s)     COMM           PID     DISK      T SECTOR     BYTES   LAT(ms)",
            &write,
            " W ",
            "taken_s",
        ),
        (
            "runqslower",
            "TIME     COMM             TID           LAT(us)",
            &sleep,
            // Whichever of this process's threads waits first, or the tool itself, which it has started.
            ":",
            "waited_s",
        ),
        (
            "statsnoop",
            "PID     COMM               FD ERR PATH",
            &ask,
            "  -1   2 /nonexistent/asked by a test",
            "syscall",
        ),
        ("threadsnoop", "TIME(ms)   PID     COMM             TID", &thread, "", "new_tid"),
        (
            "mountsnoop",
            "COMM             PID     TID     MNT_NS      CALL",
            &unmount,
            "umount(\"/nonexistent/mount\", 0) = -ENOENT",
            "mnt_ns",
        ),
        (
            "tcpaccept",
            "PID     COMM         IP RADDR            RPORT LADDR            LPORT",
            &connect,
            &port_text,
            "remote_port",
        ),
        (
            "tcpconnlat",
            "PID     COMM         IP SADDR            DADDR            DPORT LAT(ms)",
            &connect,
            &port_text,
            "latency_s",
        ),
        (
            "tcpretrans",
            "TIME     PID     IP LADDR:LPORT          T> RADDR:RPORT          STATE",
            &lose,
            "R> 127.0.0.1",
            "sequence",
        ),
        (
            "tcpdrop",
            "TIME     PID     IP SADDR:SPORT          > DADDR:DPORT          STATE (FLAGS)             REASON",
            &lose,
            // What the filter drops, or the end of a connection that it has troubled.
            "> 127.0.0.1:",
            "reason",
        ),
        (
            "bindsnoop",
            "     PID COMM         PROT ADDR            PORT   OPTS IF",
            &listen,
            " TCP  127.0.0.1 ",
            "interface",
        ),
        ("solisten", "PID     COMM         PROTO  BACKLOG  PORT  ADDR", &listen, " TCPv4 ", "backlog"),
        ("execsnoop", "PCOMM            PID     PPID    RET ARGS", &start, "/bin/true kld", "args"),
        (
            "exitsnoop",
            "PCOMM            PID     PPID    TID     AGE(s)  EXIT_CODE",
            &start,
            " 0",
            "exit_code",
        ),
        ("killsnoop", "TIME      PID     COMM             SIG  TPID    RESULT", &signal, " 0", "target"),
        (
            "tcpconnect",
            "PID     COMM         IP SADDR            DADDR            DPORT",
            &connect,
            &port_text,
            "destination_port",
        ),
        (
            "tcplife",
            "PID     COMM       LADDR           LPORT RADDR           RPORT TX_KB RX_KB MS",
            &connect,
            "127.0.0.1",
            "received",
        ),
        (
            "tcpstates",
            "SKADDR           C-PID   C-COMM     LADDR           LPORT RADDR           RPORT OLDSTATE    -> NEWSTATE    MS",
            &connect,
            " -> ",
            "lasted_s",
        ),
    ];
    let has_cap_capable = kld_ebpf::Btf::of_kernel().unwrap().tracepoint("cap_capable").is_some();
    let capable: Row<'_> = (
        "capable",
        "TIME      UID    PID     COMM             CAP  NAME                   RESULT",
        &chroot,
        "CAP_",
        "granted",
    );
    for (name, heading, deed, said, field) in all.into_iter().chain(has_cap_capable.then_some(capable)) {
        // Waits of any length.
        let more = if name == "runqslower" { &["0"][..] } else { &[] };
        let text = one_line(&tools, name, more, deed);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines.len(), lines[0]), (2, heading), "{name}");
        assert!(lines[1].contains(said), "{name}: {}", lines[1]);
        let json: serde_json::Value =
            serde_json::from_str(&one_line(&tools, name, &[&["--json"], more].concat(), deed)).unwrap();
        assert!(
            json.get(field).is_some() && json["time_ns"].as_u64() > Some(1_600_000_000_000_000_000),
            "{name}: {json}"
        );
    }
}
