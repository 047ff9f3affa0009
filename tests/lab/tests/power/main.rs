//! The host loses its power in the middle of a tool. The lab's QEMU is killed, and another lab started on the disks
//! that are left: what each tool was about is there wholly or not at all, the next tool mends what was begun, and the
//! pool has no errors. A cut may also lose what the guest had written and not flushed, as a disk with a cache does.
//!
//! A few points of some tools are tried, and 20 of each with `KLD_FULL=1`. `KLD_SEED` repeats a run's points, and `KLD_ONLY`
//! names one tool's scenario.

mod ground;
mod look;

use std::io::Write;
use std::time::{Duration, SystemTime};

use ground::{Cache, Cut, Ground, Seen};
use kld_core::ui::Ui;
use kld_lab::Parts;

/// Each tool that changes something.
const SCENARIOS: &[(&str, &str)] = &[
    ("create", "kvm-create new --from /root/debian.qcow2 --disk 8M --disk 4M --memory 64M --user me"),
    ("clone", "kvm-clone src web"),
    ("clone of three", "kvm-clone src web-1 web-2 web-3"),
    ("full clone", "kvm-clone src copy --full"),
    ("snapshot", "kvm-snap src create three"),
    ("rollback", "kvm-snap src rollback one -r"),
    ("snapshot deletion", "kvm-snap src delete one"),
    ("template", "kvm-template src"),
    ("delete", "kvm-delete spare"),
    ("delete of the source", "kvm-delete src --promote"),
];

/// Those that are tried where not all are.
const SAMPLE: [&str; 2] = ["clone", "delete"];

fn full() -> bool {
    std::env::var_os("KLD_FULL").is_some()
}

/// How many cuts in its middle a scenario has.
fn cuts() -> usize {
    if full() { 20 } else { 3 }
}

/// Numbers that can be had again (xorshift).
struct Dice(u64);

impl Dice {
    fn new() -> Dice {
        let given = std::env::var("KLD_SEED").ok().and_then(|seed| seed.parse().ok());
        let now =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        let seed = given.unwrap_or(now % 1_000_000);
        say(&format!("KLD_SEED={seed}"));
        let mut dice = Dice((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        dice.next();
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A part of a time and a little more, so that some cuts come just after the end.
    fn part_of(&mut self, time: Duration) -> Duration {
        time.mul_f64((self.next() % 1100) as f64 / 1000.0)
    }
}

/// Past the harness, which keeps what a passing test prints.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// What was found after the cuts of one scenario.
#[derive(Default)]
struct Tally {
    old: usize,
    new: usize,
    undone: usize,
    finished: usize,
    lost: usize,
}

/// What only one of two states has.
fn difference(one: &[String], other: &[String]) -> String {
    let only = |some: &[String], others: &[String], sign: char| -> String {
        some.iter().filter(|line| !others.contains(line)).map(|line| format!("{sign} {line}\n")).collect()
    };
    only(one, other, '-') + &only(other, one, '+')
}

fn judge(
    at: &str,
    cut: &Cut,
    seen: &Seen,
    before: &[String],
    after: &[String],
    tally: &mut Tally,
) -> Result<(), String> {
    let (is_old, is_new) = (seen.lines == before, seen.lines == after);
    let (undid, finished) = (seen.said.starts_with("note: undid"), seen.said.starts_with("note: finished"));
    let told = (seen.begun > 0) == (undid || finished);
    let right = match (undid, finished) {
        (true, _) => is_old,
        (_, true) => is_new,
        _ => (is_old || is_new) && seen.said.is_empty(),
    };
    // A tool that has said that it is done has done it, whatever comes.
    let kept = cut.code.is_none() || is_new;
    tally.old += usize::from(is_old);
    tally.new += usize::from(is_new);
    tally.undone += usize::from(undid);
    tally.finished += usize::from(finished);
    tally.lost += cut.loss.lost;
    let state = if is_old {
        "old"
    } else if is_new {
        "new"
    } else {
        "neither"
    };
    say(&format!("{at}: {state}; {}; lost {} of {}", seen.said, cut.loss.lost, cut.loss.unsettled));
    match right && told && kept {
        true => Ok(()),
        false => Err(format!(
            "{at}: ended {:?}, {} begun, the next run says '{}', {:?}\nto the state before:\n{}to the state after:\n{}",
            cut.code,
            seen.begun,
            seen.said,
            cut.loss,
            difference(before, &seen.lines),
            difference(after, &seen.lines)
        )),
    }
}

fn scenario(ground: &Ground, name: &str, command: &str, before: &[String], dice: &mut Dice) -> Vec<String> {
    let words: Vec<&str> = command.split(' ').collect();
    let (whole, time) = ground.cut(&words, None, Cache::Stays, &mut || true);
    let time = time.expect("the tool comes to its end");
    let after = ground.come_back(&whole, name).lines;
    assert_ne!(before, after, "{name} changes nothing");
    let mut failures = Vec::new();
    let mut tally = Tally::default();
    let kinds = [Cache::Stays, Cache::IsLost, Cache::IsTorn];
    // Right after the tool's end, and then in its middle.
    let ends = [Cache::IsLost].into_iter().map(|cache| (None, cache));
    let middles = (0..cuts()).map(|number| (Some(dice.part_of(time)), kinds[number % kinds.len()]));
    for (moment, cache) in ends.chain(middles.collect::<Vec<_>>()) {
        let at = format!("{name}, cut at {moment:?} of {time:.1?}, cache {cache:?}");
        let (cut, _) = ground.cut(&words, moment, cache, &mut || dice.next() & 1 == 0);
        let seen = ground.come_back(&cut, &at);
        if let Err(failure) = judge(&at, &cut, &seen, before, &after, &mut tally) {
            say(&failure);
            failures.push(failure);
        }
    }
    let Tally { old, new, undone, finished, lost } = tally;
    say(&format!(
        "{name} ({time:.1?}): {} cuts: {old} old, {new} new; {undone} undone and {finished} finished by the next run; {lost} writes lost",
        cuts() + 1
    ));
    failures
}

#[test]
#[ignore = "minutes: cargo xtask lab test"]
fn a_power_cut_leaves_the_old_or_the_new_state() {
    let parts = Parts::ensure(&kld_build::Cache::of_user(), &Ui::default()).unwrap();
    let ground = Ground::new(parts);
    let mut dice = Dice::new();
    let (idle, _) = ground.cut(&["true"], None, Cache::Stays, &mut || true);
    let before = ground.come_back(&idle, "without a tool").lines;
    let only = std::env::var("KLD_ONLY").ok();
    let wanted = |name: &str| only.as_ref().map_or(full() || SAMPLE.contains(&name), |only| only == name);
    let mut failures = Vec::new();
    for (name, command) in SCENARIOS.iter().filter(|(name, _)| wanted(name)) {
        failures.extend(scenario(&ground, name, command, &before, &mut dice));
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}
