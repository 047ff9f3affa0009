//! What the tools print that count in the kernel, and what they refuse.
#![allow(clippy::disallowed_types, reason = "tests run tools as a person would")]
#![allow(clippy::print_stderr, reason = "a test says why it does not run")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kld_test_support::tool;

use common::{Tools, cannot_trace};

#[test]
fn what_tables_cannot_mean_is_refused_before_anything_is_loaded() {
    if cannot_trace() {
        return;
    }
    let tools = Tools::new();
    for (tool, args, said) in [
        ("biolatency", &["--disk", "no-such-disk"][..], "error: there is no disk 'no-such-disk'\nhint: "),
        ("biolatency", &["--by", "pool"], "error: invalid value 'pool' for '--by <WHAT>'"),
        (
            "biolatency",
            &["--by", "disk", "-D"],
            "error: the argument '--by <WHAT>' cannot be used with '--disks'",
        ),
        ("biosnoop", &["--disk", "../block/x"], "error: there is no disk '../block/x'\nhint: "),
        ("runqlat", &["0"], "error: invalid value '0'"),
        ("runqlat", &["1", "0"], "error: invalid value '0'"),
        ("runqlat", &["-P", "-L"], "error: the argument '--pids' cannot be used with '--tids'"),
        ("syscount", &["-e", "ENONSENSE"], "error: invalid value 'ENONSENSE'"),
        ("syscount", &["--syscall", "nonsense"], "error: invalid value 'nonsense'"),
        ("slabratetop", &["-r", "many"], "error: invalid value 'many'"),
        ("runqlen", &["-p", "1"], "error: cannot choose by --pid: a processor's queue "),
        ("runqlen", &["--container", "0123"], "error: cannot choose by --container: a processor's queue "),
        (
            "runqlat",
            &["-d", "0"],
            "error: invalid value '0' for '--duration <TIME>': in no time nothing is seen",
        ),
        ("vfsstat", &["1e19"], "error: invalid value '1e19' for '[INTERVAL]': it is longer than a year"),
        ("offcputime", &["1e19"], "error: invalid value '1e19' for '[DURATION]': it is longer than a year"),
        ("why-slow", &["-d", "1e19"], "error: invalid value '1e19' for '--seconds <TIME>': it is longer "),
        ("filetop", &["-r", "0"], "error: invalid value '0' for '--rows <N>'"),
        ("filetop", &["-p", "cp"], "error: invalid value 'cp' for '--pid <PID>': a process has a number "),
        ("gethostlatency", &["-p", "2147483632"], "error: there is no process 2147483632\nhint: pgrep "),
        (
            "vfsstat",
            &["--prometheus", "a"],
            "error: cannot write metrics to a: its name does not end in .prom\nhint: ",
        ),
        (
            "vfsstat",
            &["--prometheus", "/no/a.prom"],
            "error: cannot write metrics to /no/a.prom: there is no folder /no\n",
        ),
        (
            "runqlen",
            &["-F", "4000000000"],
            "error: the kernel does not permit 4000000000 samples in a second\nhint: ",
        ),
        ("runqlen", &["-O", "--log2"], "error: the argument '--runqocc' cannot be used with '--log2'"),
        ("tcptop", &["-4", "-6"], "error: the argument '--ipv4' cannot be used with '--ipv6'"),
        ("tcptop", &["-p", "0"], "error: invalid value '0'"),
        ("tcprtt", &["-p", "1"], "error: cannot choose by --pid: packets have no process: "),
        (
            "tcprtt",
            &["--container", "0123"],
            "error: cannot choose by --container: packets have no process: ",
        ),
        ("tcpdrop", &["-p", "1"], "error: cannot choose by --pid: packets have no process: "),
        ("tcpretrans", &["-c", "a"], "error: cannot choose by --comm: packets have no process: "),
        ("why-slow", &["-p", "1"], "error: cannot choose by --pid: it is the whole host "),
        ("wg-leaks", &["-u", "0"], "error: cannot choose by --user: what leaves the host "),
        ("runqlat", &["--listen", "0.0.0.0:0"], "error: no metrics are told on 0.0.0.0: it is of neither "),
        (
            "runqlat",
            &["--listen", "localhost:9435"],
            "error: invalid value 'localhost:9435' for '--listen <ADDRESS:PORT>': write an address and a port, ",
        ),
        ("tcprtt", &["--lport", "70000"], "error: invalid value '70000'"),
    ] {
        let mut command: Command = tool::command(&tools.path(tool));
        command.args(args);
        let ran = tool::run(command);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{tool} {args:?}: {}", ran.stderr);
        assert!(ran.stderr.starts_with(said), "{tool} {args:?}: {}", ran.stderr);
    }
}

/// Runs a tool to its end, while a thread makes work of every kind.
fn run_beside_work(tools: &Tools, name: &str, args: &[&str]) -> String {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            while !over.load(Ordering::Relaxed) {
                file.write_all(b"work").unwrap();
                file.sync_all().unwrap();
                let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
                let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                listener.accept().unwrap().0.write_all(b"work").unwrap();
                client.read_exact(&mut [0; 4]).unwrap();
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let mut command: Command = tool::command(&tools.path(name));
        command.args(args);
        let ran = tool::run(command);
        over.store(true, Ordering::Relaxed);
        assert_eq!(ran.code, Some(0), "{name} {args:?}: {}", ran.stderr);
        ran.stdout
    })
}

const TIMES: &str = "     usecs               : count     distribution";

#[test]
fn every_table_has_its_heading_its_json_and_its_metrics() {
    if cannot_trace() {
        return;
    }
    let tools = Tools::new();
    let folder = tempfile::tempdir().unwrap();
    for (name, heading, list, metric) in [
        ("runqlat", TIMES, "distributions", "kld_runqueue_wait_seconds histogram"),
        (
            "runqlen",
            "     runqlen       : count     distribution",
            "distributions",
            "kld_runqueue_length_tasks histogram",
        ),
        ("cpudist", TIMES, "distributions", "kld_on_cpu_seconds histogram"),
        ("biolatency", TIMES, "distributions", "kld_block_latency_seconds histogram"),
        (
            "bitesize",
            "     Kbytes              : count     distribution",
            "distributions",
            "kld_block_request_size_bytes histogram",
        ),
        (
            "biotop",
            "PID     COMM             D MAJ MIN DISK       I/O  Kbytes  AVGms",
            "processes",
            "kld_block_requests_total counter",
        ),
        (
            "biopattern",
            "DISK       %RND  %SEQ    COUNT     KBYTES",
            "disks",
            "kld_block_pattern_bytes_total counter",
        ),
        ("hardirqs", "HARDIRQ                    TOTAL_usecs", "handlers", "kld_hardirqs_total counter"),
        (
            "slabratetop",
            "CACHE                            ALLOCS      BYTES",
            "caches",
            "kld_slab_allocations_total counter",
        ),
        ("softirqs", "SOFTIRQ                    TOTAL_usecs", "handlers", "kld_softirqs_total counter"),
        ("syscount", "SYSCALL                   COUNT", "calls", "kld_syscalls_total counter"),
        ("tcprtt", TIMES, "distributions", "kld_tcp_rtt_seconds histogram"),
        (
            "tcptop",
            "PID     COMM         LADDR                 RADDR                  RX_KB  TX_KB",
            "connections",
            "kld_tcp_sent_bytes_total counter",
        ),
        (
            "filetop",
            "TID     COMM             READS  WRITES R_Kb    W_Kb    T FILE",
            "files",
            "kld_file_written_bytes_total counter",
        ),
        (
            "vfsstat",
            "  READ/s  WRITE/s  FSYNC/s   OPEN/s CREATE/s UNLINK/s  MKDIR/s  RMDIR/s",
            "operations",
            "kld_vfs_operations_total counter",
        ),
    ] {
        let text = run_beside_work(&tools, name, &["-d", "0.4"]);
        assert!(text.lines().any(|line| line == heading), "{name}: {text}");
        let json = run_beside_work(&tools, name, &["0.2", "2", "--json", "--stats"]);
        let objects: Vec<serde_json::Value> =
            json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(objects.len(), 3, "two intervals and the statistics: {json}");
        let (mut told, mut seconds) = (0, 0.0);
        for interval in &objects[..2] {
            assert!(interval["time_ns"].as_u64() > Some(1_600_000_000_000_000_000), "{name}: {json}");
            seconds += interval["interval_s"].as_f64().unwrap();
            let counts = interval[list].as_array().unwrap().iter();
            told += counts.map(|one| one["count"].as_u64().unwrap_or(1)).sum::<u64>();
        }
        assert!(told > 0 && seconds >= 0.35, "{name}: {json}");
        assert!(objects[2]["stats"]["seen"].as_u64().unwrap() >= told, "{name}: {json}");
        assert_eq!(objects[2]["stats"]["lost"], 0, "{name}: {json}");
        let file = folder.path().join(format!("{name}.prom"));
        let said = run_beside_work(&tools, name, &["0.2", "2", "--prometheus", file.to_str().unwrap()]);
        assert_eq!(said, "");
        let metrics = std::fs::read_to_string(file).unwrap();
        assert!(metrics.contains(&format!("# TYPE {metric}\n")), "{name}: {metrics}");
        assert!(metrics.lines().any(|line| !line.starts_with('#')), "{name}: {metrics}");
    }
}

#[test]
fn what_is_no_volume_is_told_by_its_disk_whatever_it_is_told_by() {
    if cannot_trace() {
        return;
    }
    let tools = Tools::new();
    let fields = ["machine", "uuid", "dataset", "origin"];
    for (name, args, list) in [
        ("biolatency", &["--by", "machine"][..], "distributions"),
        ("biolatency", &["--by", "zvol"], "distributions"),
        ("biolatency", &["--by", "disk"], "distributions"),
        ("biotop", &["--by", "machine", "1", "1"], "places"),
        ("biosnoop", &["-Z"], ""),
    ] {
        let text = run_beside_work(&tools, name, &[args, &["-d", "1", "--json"]].concat());
        let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let rows: Vec<_> = match list {
            "" => lines.collect(),
            list => lines.flat_map(|line| line[list].as_array().unwrap().clone()).collect(),
        };
        assert!(!rows.is_empty(), "{name} {args:?}: {text}");
        for row in rows.iter().filter(|row| !row["disk"].as_str().unwrap().starts_with("zd")) {
            assert!(fields.iter().all(|field| row.get(field) == Some(&serde_json::Value::Null)), "{row}");
        }
    }
    let text = run_beside_work(&tools, "biotop", &["--by", "machine", "1", "1"]);
    assert!(text.contains("MACHINE                          D   I/O  Kbytes  AVGms\n"), "{text}");
    let text = run_beside_work(&tools, "biolatency", &["--by", "machine", "-d", "0.5"]);
    assert!(text.contains("\ndisk = "), "{text}");
}

/// What a server at an address answers.
fn ask(address: &str, request: &str) -> String {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    std::io::read_to_string(stream).unwrap()
}

#[test]
fn prometheus_is_served_over_the_loopback_while_a_tool_counts() {
    if cannot_trace() {
        return;
    }
    let tools = Tools::new();
    let pid = std::process::id().to_string();
    let mut child =
        tools.start("syscount", &["0.1", "-p", &pid, "--syscall", "getppid", "--listen", "127.0.0.1:0"]);
    let mut notes = BufReader::new(child.stderr.take().unwrap()).lines();
    let said = notes.next().unwrap().unwrap();
    let url = said.strip_prefix("note: metrics are at http://").unwrap();
    let address = url.strip_suffix("/metrics").unwrap();
    let metrics = || ask(address, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let series = "kld_syscalls_total{syscall=\"getppid\"} ";
    let counted = |answer: &str| -> u64 {
        let line = answer.lines().find_map(|line| line.strip_prefix(series));
        line.map_or(0, |number| number.parse().unwrap())
    };
    // It may listen a moment before it counts.
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut called = 0;
    while counted(&metrics()) == 0 {
        assert!(Instant::now() < deadline, "{}", metrics());
        // SAFETY: it takes nothing.
        unsafe { libc::syscall(libc::SYS_getppid) };
        called += 1;
        std::thread::sleep(Duration::from_millis(10));
    }
    let answer = metrics();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("# TYPE kld_syscalls_total counter\n") && counted(&answer) <= called, "{answer}");
    assert!(ask(address, "GET / HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 404 "));
    // SAFETY: the child is ours and not yet waited for.
    unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(std::io::read_to_string(child.stdout.take().unwrap()).unwrap(), "", "nothing is printed");
}

#[test]
fn tables_come_by_the_interval_with_their_times() {
    if cannot_trace() {
        return;
    }
    let tools = Tools::new();
    let began = Instant::now();
    let text = run_beside_work(&tools, "runqlat", &["0.3", "3", "-T"]);
    assert!(began.elapsed() >= Duration::from_millis(900));
    assert_eq!(text.lines().filter(|line| *line == TIMES).count(), 3, "{text}");
    let times: Vec<&str> =
        text.lines().filter(|line| line.len() == 8 && line.as_bytes()[2] == b':').collect();
    assert_eq!(times.len(), 3, "{text}");
    let by_task =
        run_beside_work(&tools, "runqlat", &["-P", "-d", "0.3", "-p", &std::process::id().to_string()]);
    assert!(by_task.contains(&format!("\npid = {}\n{TIMES}\n", std::process::id())), "{by_task}");
    let lines = run_beside_work(&tools, "runqlat", &["--quantiles", "-m", "-d", "0.3"]);
    assert!(lines.starts_with("\nmsecs                         count       mean        p50"), "{lines}");
}

#[test]
fn ctrl_c_prints_what_was_counted() {
    if cannot_trace() {
        return;
    }
    let tools = Tools::new();
    let mut child = tools.start("syscount", &["-p", &std::process::id().to_string(), "--syscall", "getppid"]);
    // It says so when it counts.
    let mut said = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "note: syscount counts until Ctrl-C\n");
    for _ in 0..1234 {
        // SAFETY: it takes nothing.
        unsafe { libc::syscall(libc::SYS_getppid) };
    }
    // SAFETY: the child is ours and not yet waited for.
    unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let text = std::io::read_to_string(child.stdout.take().unwrap()).unwrap();
    assert_eq!(text.lines().last(), Some("getppid                    1234"), "{text}");
}
