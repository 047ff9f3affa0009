//! However a tool ends, the kernel holds nothing of it; and whoever is late to read it, neither it nor who is traced pays for that.
#![allow(clippy::print_stderr, reason = "a test says why it does not run")]
#![allow(clippy::print_stdout, reason = "and what it has measured")]

mod common;
mod held;

use std::io::{BufRead, BufReader};
use std::process::Child;
use std::time::{Duration, Instant};

use common::{Tools, cannot_trace};
use held::{Kind, held, listed};
use kld_test_support::tool::peak_memory;

/// How a tool ends.
#[derive(Debug, Clone, Copy)]
enum End {
    /// Its time (`--duration`) has come.
    Time,
    Signal(i32),
    /// Nobody reads what it prints any more.
    Pipe,
}

/// Ways to end, with the exit code; none where it is killed.
const ENDS: [(End, Option<i32>); 4] = [
    (End::Time, Some(0)),
    (End::Signal(libc::SIGINT), Some(0)),
    (End::Signal(libc::SIGTERM), Some(0)),
    (End::Signal(libc::SIGKILL), None),
];

#[test]
fn after_its_time_a_signal_a_kill_or_a_closed_pipe_nothing_is_left() {
    if cannot_trace() {
        return;
    }
    let tools = Tools::new();
    let own = std::process::id().to_string();
    let nobody = ["-c", "nobody-has-this"];
    // One that tells events, one that keeps a table, one that keeps stacks, one on the processors' clocks, one on a program's function,
    // and one on the control groups; what there is on this host is no matter to them.
    let all: [(&str, &[&str]); 6] = [
        ("opensnoop", &nobody),
        ("runqlat", &nobody),
        ("offcputime", &nobody),
        ("profile", &nobody),
        ("bashreadline", &nobody),
        ("wg-leaks", &["--allow", "from=0.0.0.0/0", "--allow", "from=::/0"]),
    ];
    for (tool, args) in all {
        ENDS.iter().for_each(|(end, code)| nothing_is_left(&tools, tool, args, *end, *code));
    }
    // Who prints nothing does not notice that nobody would read it.
    let printing: [(&str, &[&str]); 2] = [("opensnoop", &["-p", &own]), ("runqlat", &["0.05"])];
    for (tool, args) in printing {
        nothing_is_left(&tools, tool, args, End::Pipe, Some(0));
    }
}

fn nothing_is_left(tools: &Tools, tool: &str, args: &[&str], end: End, code: Option<i32>) {
    let what = format!("{tool} {args:?} {end:?}");
    let time = if matches!(end, End::Time) { "2" } else { "60" };
    let before = listed();
    let mut child = tools.start(tool, &[args, &["-d", time]].concat());
    let ours = all_that_is_held(&child);
    let has = |wanted: Kind| ours.iter().any(|(kind, _)| *kind == wanted);
    // What hangs on functions and clocks is held by files of perf events.
    let has_links = !matches!(tool, "bashreadline" | "profile");
    assert!(has(Kind::Map) && has(Kind::Link) == has_links, "{what}: {ours:?}");
    assert!(ours.is_disjoint(&before), "{what}: they are its own");
    assert!(ours.is_subset(&listed()), "{what}: they are there while it runs");
    match end {
        End::Time => {}
        // SAFETY: the child is ours and not yet waited for.
        End::Signal(signal) => _ = unsafe { libc::kill(child.id() as i32, signal) },
        End::Pipe => drop(child.stdout.take()),
    }
    wait_for("its end", || {
        let _ = std::fs::File::open("/dev/null");
        child.try_wait().unwrap().is_some()
    });
    let said = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
    assert_eq!(child.wait().unwrap().code(), code, "{what}: {said}");
    assert!(!matches!(end, End::Pipe) || said.is_empty(), "{what}: it ends quietly: {said}");
    // The kernel frees some of them a moment later.
    wait_for("the end of its programs, maps and links", || ours.is_disjoint(&listed()));
}

/// What a tool holds when it has loaded and hung all: then it is more no more.
fn all_that_is_held(child: &Child) -> held::Held {
    let mut last = held(child.id());
    wait_for("the tool", || {
        std::thread::sleep(Duration::from_millis(100));
        let before = std::mem::replace(&mut last, held(child.id()));
        last == before && last.iter().any(|(kind, _)| *kind == Kind::Program)
    });
    last
}

fn wait_for(what: &str, mut come: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !come() {
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The most memory that a tool may have had, debug information and all, whatever nobody reads of it.
const MEMORY: u64 = 64 << 20;
/// The most of its own processor time that an open may cost more where it is traced.
const COST: Duration = Duration::from_micros(20);
/// So many files each of the two threads opens.
const OPENS: u32 = 300_000;

#[test]
fn a_tool_that_nobody_reads_grows_no_further_and_tells_what_was_lost_and_who_is_traced_does_not_wait() {
    if cannot_trace() {
        return;
    }
    let tools = Tools::new();
    let untraced = opens();
    let mut child = tools.start("opensnoop", &["-c", FLOOD, "--json", "--stats"]);
    let pid = child.id();
    all_that_is_held(&child);
    let began = Instant::now();
    let traced = opens();
    let rate = f64::from(2 * OPENS) / began.elapsed().as_secs_f64();
    // SAFETY: the child is ours and not yet waited for.
    unsafe { libc::kill(pid as i32, libc::SIGINT) };
    let (mut peak, mut told, mut last) = (peak_memory(pid).unwrap(), 0, String::new());
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        last = line.unwrap();
        told += 1;
        if told % 1000 == 0 {
            peak = peak.max(peak_memory(pid).unwrap_or(0));
        }
    }
    assert_eq!(child.wait().unwrap().code(), Some(0));

    let stats: serde_json::Value = serde_json::from_str(&last).unwrap();
    let [seen, lost] = ["seen", "lost"].map(|field| stats["stats"][field].as_u64().unwrap());
    // The last line is the statistics'.
    assert_eq!((seen, told - 1 + lost), (u64::from(2 * OPENS), u64::from(2 * OPENS)));
    assert!(lost > seen / 2, "nobody read: {lost} of {seen}");
    assert!(peak <= MEMORY, "{peak} bytes");
    let [untraced, traced] = [untraced, traced].map(|(time, waits)| (time / (2 * OPENS), waits));
    println!(
        "{rate:.0} opens a second, {lost} lost, {peak} bytes; {:?} an open, {:?} untraced",
        traced.0, untraced.0
    );
    assert!(traced.0 <= untraced.0 + COST, "{traced:?}, untraced {untraced:?}");
    assert!(traced.1 <= untraced.1 + 5, "{traced:?}, untraced {untraced:?}: it waits for nobody");
}

/// The name of the threads that open.
const FLOOD: &str = "flood";

/// Opens that fail, by two threads at once, as fast as they go: the threads' time on the processors, and how often they have waited.
fn opens() -> (Duration, u64) {
    let thread = || std::thread::Builder::new().name(FLOOD.into());
    let threads = [(); 2].map(|()| thread().spawn(opens_of_one).unwrap());
    let spent = threads.map(|thread| thread.join().unwrap());
    (spent[0].0 + spent[1].0, spent[0].1 + spent[1].1)
}

fn opens_of_one() -> (Duration, u64) {
    let spent = || {
        // SAFETY: the structures are there to be written.
        let (time, usage) = unsafe {
            let (mut time, mut usage) =
                (std::mem::zeroed::<libc::timespec>(), std::mem::zeroed::<libc::rusage>());
            libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time);
            libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage);
            (time, usage)
        };
        (Duration::new(time.tv_sec as u64, time.tv_nsec as u32), usage.ru_nvcsw as u64)
    };
    let before = spent();
    for _ in 0..OPENS {
        // SAFETY: the path is alive; there is no such file.
        unsafe { libc::open(c"/nonexistent/flood".as_ptr(), libc::O_RDONLY) };
    }
    let after = spent();
    (after.0 - before.0, after.1 - before.1)
}
