//! Killing one tool at each of its mutating calls, and looking at what comes of it.

use std::io::Write;

use kld_test_support::Ran;
use kld_test_support::kill::{Outcome, kill_at};

use crate::lab::{Lab, Seen};

/// How many kills a scenario has unless everything is to be tried. In the lab, which is emulated, each takes seconds,
/// and everything takes hours: a full run there tries this many, and `KLD_EVERY=1` tries all.
const SAMPLE: usize = 20;
const SAMPLE_IN_LAB: usize = 5;
/// How many kills of the killed run, and of the recovery for each, in [`sweep_recovery`].
const SAMPLE_TWICE: usize = 5;

/// Whether the next run has something to mend.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mending {
    /// It must say what it did with an operation that is in the journal.
    Told,
    /// The killed tool keeps no journal.
    Nothing,
}

/// What the next run said of the killed one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    Nothing,
    Finished,
    Undid,
}

impl Said {
    pub fn of(ran: &Ran) -> Said {
        let begun = "what a killed run had begun: ";
        match &ran.stderr {
            text if text.is_empty() => Said::Nothing,
            text if text.starts_with(&format!("note: finished {begun}")) && text.lines().count() == 1 => {
                Said::Finished
            }
            text if text.starts_with(&format!("note: undid {begun}")) && text.lines().count() == 1 => {
                Said::Undid
            }
            text => panic!("the next run said something else: {text}"),
        }
    }
}

/// True where as much is tried as there is time for: `cargo xtask test --full`.
pub fn full() -> bool {
    std::env::var_os("KLD_FULL").is_some()
}

/// True where every kill is tried.
fn every() -> bool {
    std::env::var_os("KLD_EVERY").is_some() || full() && !kld_test_support::in_lab()
}

/// Which of `calls` kill points are tried: all, or about `most` of them, evenly spread, the last one included.
pub fn points(calls: usize, most: usize) -> Vec<usize> {
    let most = if kld_test_support::in_lab() && !full() { SAMPLE_IN_LAB } else { most };
    let step = if every() { 1 } else { calls.div_ceil(most).max(1) };
    let mut points: Vec<usize> = (1..=calls).step_by(step).collect();
    if points.last() != Some(&calls) {
        points.push(calls);
    }
    points
}

/// The next run that changes something: here one that finds nothing to change, so that only the mending is seen.
pub fn next_run(lab: &Lab) -> Ran {
    let ran = lab.host.run("kvm-template", ["bystander", "--undo"]);
    assert_eq!(ran.code, Some(0), "the next run fails:\n{}", ran.stderr);
    ran
}

fn killed(lab: &Lab, tool: &str, args: &[&str], n: Option<usize>) -> Outcome {
    let mut command = lab.host.command(tool);
    command.args(args);
    kill_at(command, n)
}

/// The prepared state, the state after a whole run, and the number of that run's calls.
fn before_and_after(lab: &Lab, tool: &str, args: &[&str]) -> (Seen, Seen, usize) {
    let before = lab.see();
    let whole = killed(lab, tool, args, None);
    assert_eq!(whole.code, Some(0), "{}", whole.stderr);
    let after = lab.see();
    assert_ne!(before, after, "it changed nothing");
    assert_eq!(lab.journal_entries(), 0);
    lab.restore();
    assert_eq!(lab.see(), before, "the prepared state comes back:\n{}", before.difference(&lab.see()));
    (before, after, whole.calls)
}

fn report(text: String) {
    // Past the harness, which keeps what a passing test prints.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Kills the tool at its n-th call for every n (or a sample of them) until it runs through.
pub fn sweep(lab: &Lab, scenario: &str, tool: &str, args: &[&str], mending: Mending) {
    let (before, after, calls) = before_and_after(lab, tool, args);
    let (mut tried, mut finished, mut undone) = (0, 0, 0);
    // A run has a few calls more or less from time to time: go on to where it is not killed any more.
    for n in points(calls, SAMPLE).into_iter().chain(calls + 1..) {
        let outcome = killed(lab, tool, args, Some(n));
        if !outcome.killed {
            assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
            break;
        }
        tried += 1;
        let at = format!("{scenario}, killed at {n} of {calls} ({})", outcome.names.join(" "));
        let begun = lab.journal_entries();
        let ran = next_run(lab);
        let now = lab.see();
        let said = Said::of(&ran);
        match said {
            Said::Nothing => assert_eq!(begun, 0, "{at}: the next run does not say what it did"),
            Said::Finished => finished += 1,
            Said::Undid => undone += 1,
        }
        let (is_before, is_after) = (now == before, now == after);
        let right = match said {
            Said::Nothing => is_before || is_after,
            Said::Finished => is_after,
            Said::Undid => is_before,
        };
        assert!(
            right,
            "{at}, journal {begun}, {said:?}:\nto the state before:\n{}\nto the state after:\n{}",
            before.difference(&now),
            after.difference(&now)
        );
        assert_eq!(lab.journal_entries(), 0, "{at}: something is left to mend");
        if !kld_test_support::in_lab() || full() {
            assert_eq!(next_run(lab).stderr, "", "{at}: something is left to mend");
        }
        if !is_before {
            lab.restore();
        }
    }
    assert_eq!(lab.complaints(), Vec::<String>::new(), "{scenario}");
    let told = finished + undone > 0;
    assert_eq!(told, mending == Mending::Told, "{scenario}: {finished} finished, {undone} undone");
    report(format!("{scenario}: {calls} kill points, {tried} tried: {finished} finished, {undone} undone"));
}

/// Kills the tool, then the run that mends it, at each call of both; the run after that has to put all right.
pub fn sweep_recovery(lab: &Lab, scenario: &str, tool: &str, args: &[&str]) {
    let (before, after, calls) = before_and_after(lab, tool, args);
    let mut tried = 0;
    for n in points(calls, 4 * SAMPLE_TWICE) {
        let mut mended = None;
        for m in 1.. {
            let outcome = killed(lab, tool, args, Some(n));
            if lab.journal_entries() == 0 {
                break;
            }
            // Spread over the recovery's calls, which are counted by its first whole run.
            let m = match (mended, full()) {
                (Some(calls), false) => 1 + (m - 2) * usize::max(calls / SAMPLE_TWICE, 1),
                (Some(_), true) => m - 1,
                (None, _) => usize::MAX,
            };
            let second = killed(lab, "kvm-template", &["bystander", "--undo"], Some(m));
            mended.get_or_insert(second.calls);
            let third = next_run(lab);
            let now = lab.see();
            let at =
                format!("{scenario}, killed at {n} ({}), then at {m} of {mended:?}", outcome.names.join(" "));
            let right = match Said::of(&third) {
                Said::Finished => now == after,
                Said::Undid => now == before,
                Said::Nothing => now == after || now == before,
            };
            assert!(
                right,
                "{at}:\n{}\nto the state before:\n{}\nto the state after:\n{}",
                third.stderr,
                before.difference(&now),
                after.difference(&now)
            );
            tried += 1;
            lab.restore();
            if !second.killed && m != usize::MAX {
                break;
            }
        }
        lab.restore();
    }
    report(format!("{scenario}: {tried} pairs of kills tried"));
}
