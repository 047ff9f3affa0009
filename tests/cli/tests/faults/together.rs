//! Tools that run at the same time.
#![allow(clippy::disallowed_types, reason = "tools are started beside each other")]

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use kld_cli_tests::eye;
use kld_test_support::host::Store;

use crate::lab::Lab;

fn spawn(lab: &Lab, tool: &str, args: &[&str]) -> Child {
    let mut command = lab.host.command(tool);
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Exit code and standard error.
fn end(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// Runs one tool while another one has its locks and waits for a libvirtd that is stopped meanwhile.
fn while_one_is_at_work(lab: &Lab, first: (&str, &[&str], &str), second: (&str, &[&str])) -> String {
    let (tool, args, locked) = first;
    lab.host.signal_libvirtd("STOP");
    let child = spawn(lab, tool, args);
    let lock = lab.host.state_dir().join(format!("locks/{locked}.lock"));
    let holder = format!("\"pid\":{},", child.id());
    let deadline = Instant::now() + Duration::from_secs(20);
    while !std::fs::read_to_string(&lock).is_ok_and(|text| text.contains(&holder)) {
        assert!(Instant::now() < deadline, "{tool} takes no lock");
        std::thread::sleep(Duration::from_millis(5));
    }
    let ran = lab.host.run(second.0, second.1);
    let named = format!("(process {}, since ", child.id());
    lab.host.signal_libvirtd("CONT");
    let (code, said) = end(child);
    assert_eq!((code, said.as_str()), (Some(0), ""), "the first one wins");
    assert!(ran.stderr.contains(&named), "it names the process: {}", ran.stderr);
    ran.to_string()
}

#[test]
fn of_two_runs_on_one_name_one_wins_and_the_other_is_told_who_it_is() {
    let lab = crate::SOURCE.lend();
    let clone = ("kvm-clone", &["src", "web"][..]);
    insta::assert_snapshot!(while_one_is_at_work(&lab, (clone.0, clone.1, "web"), clone), @"
    exit 3
    -- stderr --
    error: web is in use by kvm-clone (process [pid], since [time])
    hint: wait until it is done, then try again
    ");
    insta::assert_snapshot!(
        while_one_is_at_work(&lab, ("kvm-snap", &["web", "create", "one"], "web"), ("kvm-delete", &["web"])), @"
    exit 3
    -- stderr --
    error: web is in use by kvm-snap (process [pid], since [time])
    hint: wait until it is done, then try again
    ");
    insta::assert_snapshot!(
        while_one_is_at_work(&lab, ("kvm-delete", &["web"], "web"), ("kvm-create", &["web", "--disk", "1G", "--json"])), @"
    exit 3
    -- stderr --
    error: web is in use by kvm-delete (process [pid], since [time])
    hint: wait until it is done, then try again
    ");
}

#[test]
fn two_clones_of_one_source_at_once_both_win() {
    let lab = crate::SOURCE.lend();
    let both = [spawn(&lab, "kvm-clone", &["src", "a"]), spawn(&lab, "kvm-clone", &["src", "b"])];
    for child in both {
        assert_eq!(end(child), (Some(0), String::new()));
    }
    // One after the other comes to the same.
    let together = lab.see();
    lab.restore();
    lab.tool("kvm-clone", &["src", "a"]);
    lab.tool("kvm-clone", &["src", "b"]);
    assert_eq!(lab.see(), together, "{}", together.difference(&lab.see()));
}

#[test]
fn eight_clones_of_one_source_at_once_all_win_and_share_its_base() {
    let lab = crate::SOURCE.lend();
    let before = lab.see();
    let names: Vec<String> = (1..=8).map(|n| format!("web-{n}")).collect();
    let children: Vec<Child> = names.iter().map(|name| spawn(&lab, "kvm-clone", &["src", name])).collect();
    for child in children {
        assert_eq!(end(child), (Some(0), String::new()));
    }
    let together = lab.see();
    let (bystander, source, foreign) = match lab.host.store() {
        Store::Dir => (1, 2 * 2, 0),
        Store::Zfs => (1, 2, 1),
    };
    assert_eq!(
        eye(&lab.host).volumes(&lab.host).len(),
        bystander + source + foreign + 8 * 2,
        "the bystander, the source (on its bases, where they are files), two for each clone"
    );
    if lab.host.store() == Store::Zfs {
        // Each run has taken a snapshot of its own, of the same contents.
        return;
    }
    lab.restore();
    assert_eq!(lab.see(), before);
    lab.tool("kvm-clone", &[&["src"][..], &names.iter().map(String::as_str).collect::<Vec<_>>()].concat());
    assert_eq!(lab.see(), together, "as if they were made in one call:\n{}", together.difference(&lab.see()));
}
