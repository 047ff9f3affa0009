//! `klockstat`: which of the kernel's locks are waited for, where and how long.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use clap::builder::TypedValueParser;
use clap::{Arg, ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_core::ui::printable;
use kld_ebpf::events::stack::Contention;
use kld_ebpf::events::table::{Spell, Tally};
use kld_ebpf::probe::LockWait;
use serde_json::Map;

use crate::stacks::{self, How, Label, Part, Row, Stacks, bounds, common};
use crate::tables;

pub const TOOL: Tool = Tool { name: "klockstat", about: kld_catalog::about("klockstat"), command, run };

fn command() -> Command {
    common(Command::new("klockstat"))
        .args(bounds())
        .args([
            Arg::new("stacks")
                .long("stacks")
                .short('s')
                .value_name("N")
                .value_parser(clap::value_parser!(u8).range(1..).map(usize::from))
                .default_value("1")
                .help("So many callers of each lock"),
            tables::rows(),
        ])
        .after_help(
            "Examples:\n  klockstat 5\n  klockstat -s 3 -p 1234 -d 30\n  klockstat --flame locks.svg 10\n  \
             klockstat --json 5\n\n\
             Only waits are seen: a lock that is free costs the tool nothing. The most time first.",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    stacks::run::<LockWait>(context, matches, &stacks::wanted::<LockWait>(matches)?)
}

impl Stacks for LockWait {
    const FLAME: (&'static str, &'static str) = ("Waits for locks", "us");

    fn label(key: &Contention) -> Label {
        let kind = LockWait::kind(key.kind);
        Label {
            first: kind.to_string(),
            json: Map::from_iter([("kind".to_string(), kind.into())]),
            ..Label::default()
        }
    }

    fn text(rows: &[Row], how: &How) -> String {
        let mut text = format!(
            "\n{:>40} {:<10} {:>10} {:>8} {:>10} {:>12}\n",
            "Caller", "Kind", "Avg Wait", "Count", "Max Wait", "Total Wait"
        );
        for ((callers, kind), spent) in by_callers(rows, how.depth).into_iter().take(how.most) {
            let mut callers = callers.iter().map(|name| printable(name));
            text += &format!(
                "{:>40} {kind:<10} {:>10} {:>8} {:>10} {:>12}\n",
                callers.next().unwrap_or_default(),
                time(spent.time / spent.count.max(1)),
                spent.count,
                time(spent.longest),
                time(spent.time),
            );
            callers.for_each(|name| text += &format!("{name:>40}\n"));
        }
        text
    }
}

/// The waits by their nearest callers and the kind of lock, the most time first.
fn by_callers(rows: &[Row], depth: usize) -> Vec<((Vec<String>, String), Spell)> {
    let mut all = BTreeMap::<_, Spell>::new();
    for row in rows {
        let key = (callers(&row.kernel, depth), row.label.first.clone());
        all.entry(key).or_insert(*Spell::ZERO).merge(&row.spent);
    }
    let mut sorted: Vec<_> = all.into_iter().collect();
    sorted.sort_by_key(|(_, spent)| Reverse(spent.time));
    sorted
}

/// Beginnings of the names of those functions that locks are taken with, which are no callers.
const LOCKS: [&str; 20] = [
    "__down",
    "__mutex_lock",
    "__percpu_",
    "__pv_queued_spin_lock",
    "__rt_mutex",
    "__ww_mutex",
    "_raw_read_lock",
    "_raw_spin_",
    "_raw_write_lock",
    "down_",
    "mutex_lock",
    "native_queued_spin_lock",
    "percpu_down",
    "percpu_rwsem",
    "queued_",
    "raw_spin_rq_lock",
    "resilient_queued_spin_lock",
    "rt_mutex",
    "rwsem_",
    "ww_mutex",
];

/// The functions that have asked for a lock, the nearest first.
fn callers(kernel: &Part, depth: usize) -> Vec<String> {
    let Part::Calls(frames) = kernel else { return vec!["[Missed Kernel Stack]".to_string()] };
    let names: Vec<String> = frames.iter().map(|frame| frame.name()).collect();
    let is_lock = |name: &String| name == "down" || LOCKS.iter().any(|lock| name.starts_with(lock));
    let first = names.iter().position(|name| !is_lock(name)).unwrap_or(0);
    names.into_iter().skip(first).take(depth).collect()
}

/// A time in the unit that suits it.
fn time(nanoseconds: u64) -> String {
    let units = [(1_000_000_000, "s"), (1_000_000, "ms"), (1000, "us")];
    let unit = units.iter().find(|(size, _)| nanoseconds >= *size);
    unit.map_or_else(
        || format!("{nanoseconds} ns"),
        |(size, name)| format!("{:.1} {name}", nanoseconds as f64 / *size as f64),
    )
}

#[cfg(test)]
mod tests {
    use kld_ebpf::symbols::Frame;

    use super::*;

    fn row(kind: u64, calls: &[&str], spent: Spell) -> Row {
        let frame = |name: &&str| Frame { address: 1, function: Some((name.to_string(), 0)), object: None };
        let stack = kld_ebpf::events::stack::Ids { kernel: 1, user: -14 };
        Row {
            label: LockWait::label(&Contention { stack, kind }),
            kernel: Part::Calls(calls.iter().map(frame).collect()),
            user: Part::None,
            spent,
            number: spent.time / 1000,
        }
    }

    fn spent(count: u64, time: u64, longest: u64) -> Spell {
        Spell { count, time, longest }
    }

    #[test]
    fn waits_are_told_by_who_asked_for_the_lock() {
        let rows = [
            row(32, &["__mutex_lock.constprop.0", "pipe_write", "vfs_write"], spent(2, 3_000_000, 2_000_000)),
            row(33, &["mutex_lock", "pipe_write", "ksys_write"], spent(1, 1_000, 1_000)),
            row(1, &["native_queued_spin_lock_slowpath", "_raw_spin_lock", "futex_wake"], spent(3, 600, 300)),
        ];
        insta::assert_snapshot!(LockWait::text(&rows, &How { depth: 1, most: 9, ..How::default() }), @r"

            Caller Kind         Avg Wait    Count   Max Wait   Total Wait
        pipe_write mutex          1.0 ms        3     2.0 ms       3.0 ms
        futex_wake spinlock       200 ns        3     300 ns       600 ns
        ");
        let deep = LockWait::text(&rows, &How { depth: 2, most: 1, ..How::default() });
        assert_eq!(deep.lines().count(), 4, "an empty line, the heading, and two callers: {deep}");
        assert!(deep.ends_with("                               vfs_write\n"), "{deep}");
    }

    #[test]
    fn a_stack_of_nothing_but_locks_is_told_by_its_innermost_function() {
        let calls = ["down_read", "rwsem_down_read_slowpath"];
        assert_eq!(callers(&row(2, &calls, spent(1, 1, 1)).kernel, 1), ["down_read"]);
        assert_eq!(callers(&Part::Lost, 1), ["[Missed Kernel Stack]"]);
    }

    #[test]
    fn times_have_the_unit_that_suits_them() {
        assert_eq!([999, 1000, 1_250_000, 2_000_000_000].map(time), ["999 ns", "1.0 us", "1.2 ms", "2.0 s"]);
    }
}
