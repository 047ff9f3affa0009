//! What the tools that tell stacks print, and what they refuse.
#![allow(clippy::disallowed_types, reason = "tests run tools as a person would")]
#![allow(clippy::print_stderr, reason = "a test says why it does not run")]

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kld_test_support::tool::{self, Ran};

use common::{Tools, cannot_trace};

#[test]
fn what_cannot_be_meant_is_refused_before_anything_is_loaded() {
    if cannot_trace() {
        return;
    }
    let tools = Tools::new();
    for (tool, args, said) in [
        (
            "offcputime",
            &["--flame", "/no-such-folder/a.svg"][..],
            "error: cannot write /no-such-folder/a.svg: there is no folder",
        ),
        ("offcputime", &["--flame", "/"], "error: cannot write /: it is a folder"),
        (
            "offcputime",
            &["--flame", "a.svg", "-f"],
            "error: the argument '--flame <FILE>' cannot be used with '--folded'",
        ),
        (
            "offcputime",
            &["-m", "10", "-M", "5"],
            "error: nothing is as short as --max-block-time and as long as",
        ),
        (
            "offcputime",
            &["5", "-d", "5"],
            "error: the argument '[DURATION]' cannot be used with '--duration <TIME>'",
        ),
        (
            "offcputime",
            &["-U", "-K"],
            "error: the argument '--user-stacks-only' cannot be used with '--kernel-stacks-only'",
        ),
        ("offcputime", &["--state", "256"], "error: invalid value '256'"),
        ("offcputime", &["--stack-storage-size", "0"], "error: invalid value '0'"),
        ("klockstat", &["-s", "0"], "error: invalid value '0'"),
        ("klockstat", &["-k"], "error: unexpected argument '-k' found"),
        ("wakeuptime", &["-U"], "error: unexpected argument '-U' found"),
        ("profile", &["-F", "0"], "error: invalid value '0'"),
        (
            "profile",
            &["-F", "4000000000"],
            "error: the kernel does not permit 4000000000 samples in a second\nhint: ",
        ),
        ("offcputime", &["-a"], "error: the following required arguments were not provided:\n  --folded"),
    ] {
        let mut command: Command = tool::command(&tools.path(tool));
        command.args(args);
        let ran = tool::run(command);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{tool} {args:?}: {}", ran.stderr);
        assert!(ran.stderr.starts_with(said), "{tool} {args:?}: {}", ran.stderr);
    }
}

/// Whose stacks are looked at: a thread of this process that does what every tool can see.
const NAME: &str = "napper";

/// Runs a program to its end beside that thread.
fn run_beside_work(mut command: Command) -> Ran {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let work = || {
            while !over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(2));
                (0..2000).for_each(|_| drop(std::fs::metadata("/proc/self")));
            }
        };
        std::thread::Builder::new().name(NAME.to_string()).spawn_scoped(scope, work).unwrap();
        // Of this process alone: the tools are its children, and have no thread of that name.
        command.args(["-p", &std::process::id().to_string(), "-c", NAME, "-d", "0.5"]);
        let ran = tool::run(command);
        over.store(true, Ordering::Relaxed);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        ran
    })
}

/// A tool, and a call that its stacks have in the kernel.
const TOOLS: [(&str, &str); 3] =
    [("offcputime", "schedule"), ("wakeuptime", "hrtimer_wakeup"), ("profile", "do_syscall_64")];

fn tool_with(tools: &Tools, name: &str, args: &[&str]) -> Command {
    let mut command = tool::command(&tools.path(name));
    command.args(args);
    command
}

#[test]
fn stacks_are_told_in_every_form() {
    if cannot_trace() {
        return;
    }
    let tools = Tools::new();
    let folder = tempfile::tempdir().unwrap();
    for (name, call) in TOOLS {
        let text = run_beside_work(tool_with(&tools, name, &[])).stdout;
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.contains(&format!("    {call}").as_str()), "{name}: {text}");
        let last = lines.last().and_then(|line| line.strip_prefix("        "));
        assert!(last.is_some_and(|number| number.parse::<u64>().is_ok()), "{name}: {text}");

        let folded = run_beside_work(tool_with(&tools, name, &["-f", "-a"])).stdout;
        for line in folded.lines() {
            let (stack, number) = line.rsplit_once(' ').unwrap();
            assert!(
                stack.split(';').any(|part| part == NAME) && number.parse::<u64>().is_ok(),
                "{name}: {line}"
            );
        }
        assert!(folded.contains(&format!(";{call}_[k]")), "{name}: {folded}");

        let json = run_beside_work(tool_with(&tools, name, &["--json", "--stats"])).stdout;
        let objects: Vec<serde_json::Value> =
            json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let (all, stats) = (&objects[0], &objects[1]["stats"]);
        assert!(all["time_ns"].as_u64() > Some(1_600_000_000_000_000_000), "{name}: {json}");
        assert!(all["interval_s"].as_f64() >= Some(0.5), "{name}: {json}");
        let stacks = all["stacks"].as_array().unwrap();
        let counted: u64 = stacks.iter().map(|stack| stack["count"].as_u64().unwrap()).sum();
        assert!(counted > 0 && stats["seen"] == counted && stats["lost"] == 0, "{name}: {json}");
        let calls = stacks.iter().flat_map(|stack| stack["kernel"].as_array().unwrap());
        let mut named = calls.filter(|frame| frame["name"] == call);
        assert!(
            named.next().is_some_and(|frame| frame["address"].as_str().unwrap().starts_with("0xff")),
            "{json}"
        );

        let picture = folder.path().join(format!("{name}.svg"));
        let said = run_beside_work(tool_with(&tools, name, &["--flame", picture.to_str().unwrap()]));
        assert_eq!((said.stdout.as_str(), said.stderr.as_str()), ("", ""), "{name}");
        let svg = std::fs::read_to_string(picture).unwrap();
        assert!(svg.starts_with("<?xml ") && svg.contains(&format!("data-n=\"{call}\"")), "{name}: {svg}");
    }
}

#[test]
fn names_that_the_kernel_hides_are_told_as_hidden() {
    let hides = |file: &str| {
        let text = std::fs::read_to_string(Path::new("/proc/sys/kernel").join(file)).unwrap_or_default();
        text.trim().parse::<i32>().unwrap_or(0)
    };
    // kallsyms_show_value() in kernel/ksyms_common.c: who has not CAP_SYSLOG, and may not profile the kernel.
    if cannot_trace() || hides("kptr_restrict") == 0 && hides("perf_event_paranoid") <= 1 {
        return eprintln!("not tested: this kernel hides nothing");
    }
    let tools = Tools::new();
    let mut command = tool::command(Path::new("/usr/bin/setpriv"));
    command
        .args(["--bounding-set", "-syslog", "--inh-caps", "-syslog"])
        .arg(tools.path("offcputime"))
        .arg("-K");
    let ran = run_beside_work(command);
    assert!(ran.stdout.lines().any(|line| line.starts_with("    0xff")), "{}", ran.stdout);
    assert!(ran.stderr.starts_with("note: the kernel hides its names from this process: "), "{}", ran.stderr);
}

#[test]
fn stacks_that_found_no_room_are_told() {
    if cannot_trace() {
        return;
    }
    let tools = Tools::new();
    let ran = run_beside_work(tool_with(&tools, "offcputime", &["--stack-storage-size", "1"]));
    assert!(ran.stdout.contains("    [Missed "), "{}", ran.stdout);
    let note = " the stack was lost for want of room: --stack-storage-size gives more\n";
    assert!(ran.stderr.starts_with("note: of ") && ran.stderr.ends_with(note), "{}", ran.stderr);
}

#[test]
fn ctrl_c_prints_what_was_counted() {
    if cannot_trace() {
        return;
    }
    let tools = Tools::new();
    let mut child =
        tools.start("offcputime", &["-f", "-p", &std::process::id().to_string(), "-c", "offcputime"]);
    let mut said = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "note: offcputime counts until Ctrl-C\n");
    // It sleeps itself, and sees it.
    std::thread::sleep(Duration::from_millis(300));
    // SAFETY: the child is ours and not yet waited for.
    unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let text = std::io::read_to_string(child.stdout.take().unwrap()).unwrap();
    assert!(text.lines().any(|line| line.starts_with("offcputime;")), "{text}");
}

#[test]
fn waits_for_locks_are_a_table() {
    if cannot_trace() {
        return;
    }
    let tools = Tools::new();
    let heading =
        "                                  Caller Kind         Avg Wait    Count   Max Wait   Total Wait";
    let run = |args: &[&str]| {
        let ran = tool::run(tool_with(&tools, "klockstat", &[&["-d", "0.5"], args].concat()));
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        ran.stdout
    };
    let text = run(&["-r", "3", "-s", "1"]);
    assert!(text.lines().nth(1) == Some(heading) && text.lines().count() <= 5, "{text}");
    let json: serde_json::Value = serde_json::from_str(&run(&["--json"])).unwrap();
    for stack in json["stacks"].as_array().unwrap() {
        let numbers = ["time_s", "longest_s", "count"].map(|name| stack[name].as_f64().unwrap());
        assert!(numbers[0] >= numbers[1] && numbers[2] >= 1.0 && stack["kind"] != "unknown", "{stack}");
    }
}
