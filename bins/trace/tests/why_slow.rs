//! What `why-slow` prints, and that it makes its page also where it may not ask the kernel.
#![allow(clippy::disallowed_types, reason = "tests run tools as a person would")]
#![allow(clippy::print_stderr, reason = "a test says why it does not run")]

mod common;

use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use kld_ebpf::why::{Evidence, Finding, judge};
use kld_test_support::tool;

use common::{Tools, cannot_trace};

fn run(args: &[&str]) -> tool::Ran {
    let tools = Tools::new();
    let mut command: Command = tool::command(&tools.path("why-slow"));
    command.args(args);
    tool::run(command)
}

#[test]
fn a_page_says_what_is_wrong_or_that_nothing_is_and_what_was_seen() {
    if cannot_trace() {
        return;
    }
    let ran = run(&["--seconds", "0.5"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "whatever it has found");
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert!(lines[0].starts_with("watched "), "{}", ran.stdout);
    assert!(lines[2] == "nothing wrong" || lines[2].starts_with("1. 0.") || lines[2].starts_with("1. 1."));
    for seen in ["run queue", "disks", "memory", "kills", "network", "connections", "drops"] {
        assert!(lines.iter().any(|line| line.starts_with(&format!("  {seen} "))), "{seen}: {}", ran.stdout);
    }
}

#[test]
fn programs_get_what_was_judged_and_judge_it_again() {
    if cannot_trace() {
        return;
    }
    let ran = run(&["-s", "300ms", "--json"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let told: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let evidence: Evidence = serde_json::from_value(told["evidence"].clone()).unwrap();
    let findings: Vec<Finding> = serde_json::from_value(told["findings"].clone()).unwrap();
    let kinds = |all: &[Finding]| all.iter().map(|finding| finding.kind).collect::<Vec<_>>();
    assert_eq!(kinds(&judge(&evidence)), kinds(&findings));
    assert!((0.3..30.0).contains(&evidence.seconds) && evidence.cpus > 0, "{evidence:?}");
    assert!(evidence.run_queue.is_some_and(|queue| queue.waits > 0));
    assert!(told["figures"]["run queue"].is_string());
}

#[test]
fn without_its_capabilities_it_makes_the_page_from_the_rest() {
    if cannot_trace() {
        return;
    }
    let tools = Tools::new();
    let mut command = tool::command(Path::new("/usr/bin/setpriv"));
    let lacking = "-sys_admin,-bpf,-perfmon";
    command
        .args(["--bounding-set", lacking, "--inh-caps", lacking])
        .arg(tools.path("why-slow"))
        .args(["-s", "0.2"]);
    let ran = tool::run(command);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let said: Vec<&str> = ran.stdout.lines().filter(|line| line.starts_with("not looked at with ")).collect();
    assert_eq!(said.len(), 1, "{}", ran.stdout);
    assert!(said[0].contains("runqlat") && said[0].contains("this process lacks CAP_PERFMON and CAP_BPF"));
    assert!(ran.stdout.contains("\n  limits ") && !ran.stdout.contains("\n  run queue "), "{}", ran.stdout);
}

#[test]
fn ctrl_c_ends_it_with_its_page() {
    if cannot_trace() {
        return;
    }
    let tools = Tools::new();
    let began = Instant::now();
    let mut child = tools.start("why-slow", &["--seconds", "1h"]);
    std::thread::sleep(Duration::from_secs(2));
    // SAFETY: the child is ours and not yet waited for.
    unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    let mut page = String::new();
    child.stdout.take().unwrap().read_to_string(&mut page).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(page.starts_with("watched ") && page.contains("\nseen\n"), "{page}");
    assert!(began.elapsed() < Duration::from_secs(60));
}
