//! Tools that count by stacks: what may be asked of them, and one table at the end.

pub mod flame;
mod folded;
mod table;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Arg, ArgMatches, Command};
use kld_core::tool::Context;
use kld_core::ui::printable;
use kld_core::{Error, Result, fsio};
use kld_ebpf::events::stack::Of;
use kld_ebpf::events::table::{Spell, Total};
use kld_ebpf::events::text;
use kld_ebpf::probe::{Stacked, times};
use kld_ebpf::symbols::Frame;
use kld_ebpf::{Stack, Symbols, Table, monotonic};
use serde_json::{Map, Value, json};

use crate::args::{self, Wanted, flag};
use crate::view::View;
use crate::{stats, stop};

/// A probe whose stacks are printed.
pub trait Stacks: Stacked<Value: Spent> {
    /// What a flame graph of it is headed with, and what its numbers are.
    const FLAME: (&'static str, &'static str);

    /// The number that is printed: microseconds, or how often.
    fn number(spent: &Spell) -> u64 {
        spent.time / 1000
    }
    /// What a key stands for.
    fn label(key: &Self::Key) -> Label;
    /// All of it as text, where it is not printed as other tools print it.
    fn text(rows: &[Row], how: &How) -> String {
        table::text(rows, how)
    }
}

/// What is counted of a stack.
pub trait Spent {
    /// How often and how long.
    fn spent(&self) -> Spell;
}

impl Spent for Spell {
    fn spent(&self) -> Spell {
        *self
    }
}

impl Spent for Total {
    fn spent(&self) -> Spell {
        Spell { count: self.count, time: self.time, longest: 0 }
    }
}

/// What a stack's key stands for, everywhere that it is printed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Label {
    /// The line above a stack, where there is one.
    pub above: Option<String>,
    /// The line below it.
    pub below: String,
    /// The name before a folded stack.
    pub first: String,
    /// The name behind it, where there is one.
    pub last: Option<String>,
    /// All of it for programs.
    pub json: Map<String, Value>,
}

impl Label {
    /// That of a task's own stack.
    pub fn of_task(of: &Of) -> Label {
        let name = printable(text(&of.comm));
        Label {
            below: format!("{:<16} {name} ({})", "-", of.pid),
            first: name,
            json: Map::from_iter([
                ("pid".to_string(), of.pid.into()),
                ("comm".to_string(), text(&of.comm).into()),
            ]),
            ..Label::default()
        }
    }
}

/// One side of a stack: the program's own calls, or those in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The calls, from the innermost to the outermost.
    Calls(Vec<Frame>),
    /// There are none, or they were not asked for.
    None,
    /// There was no room for them.
    Lost,
}

impl Part {
    fn calls(&self) -> &[Frame] {
        if let Part::Calls(frames) = self { frames } else { &[] }
    }

    fn json(&self) -> Value {
        let frame = |frame: &Frame| {
            json!({
                "name": frame.name(), "address": format!("{:#x}", frame.address), "object": frame.object,
                "offset": frame.function.as_ref().map(|(_, offset)| offset),
            })
        };
        if *self == Part::Lost { Value::Null } else { self.calls().iter().map(frame).collect() }
    }
}

/// What was counted of a key, with the names of its calls.
#[derive(Debug)]
pub struct Row {
    /// Whose.
    pub label: Label,
    /// The calls in the kernel.
    pub kernel: Part,
    /// The program's own calls.
    pub user: Part,
    /// How often, how long, and, where that is counted, how long at most.
    pub spent: Spell,
    /// Which of them is printed.
    pub number: u64,
}

/// How it is printed.
#[derive(Debug, Default)]
pub struct How {
    /// A line for each stack.
    pub folded: bool,
    /// A mark between the program's own calls and those in the kernel.
    pub delimited: bool,
    /// A mark at each call in the kernel.
    pub annotated: bool,
    /// A picture in this file, and nothing printed.
    pub flame: Option<PathBuf>,
    /// So many callers of each lock.
    pub depth: usize,
    /// So many rows at most.
    pub most: usize,
}

/// The command with the flags that every tool with stacks has.
pub fn common(command: Command) -> Command {
    let command = args::ends(args::whose(command)).arg(
        Arg::new("seconds")
            .value_name("DURATION")
            .value_parser(args::lasting)
            .conflicts_with("duration")
            .help("End after so many seconds, as -d"),
    );
    command.args([
        flag("folded", 'f', "A line for each stack, as flame graphs' tools want it"),
        long("delimited", "Show where the kernel's calls end and the program's own begin"),
        flag("annotations", 'a', "Mark the kernel's calls in folded stacks with _[k]").requires("folded"),
        Arg::new("flame")
            .long("flame")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .conflicts_with("folded")
            .help("Print nothing: draw a flame graph into this file, as SVG"),
        Arg::new("stack-storage-size")
            .long("stack-storage-size")
            .value_name("N")
            .value_parser(clap::value_parser!(u32).range(1..=1 << 20))
            .help("Keep so many different stacks at most; 16384 unless given"),
    ])
}

/// The flags that choose between the two sides of stacks.
pub fn sides() -> [Arg; 2] {
    [
        flag("user-stacks-only", 'U', "Only the program's own calls").conflicts_with("kernel-stacks-only"),
        flag("kernel-stacks-only", 'K', "Only the calls in the kernel"),
    ]
}

/// The flags that choose between the two kinds of threads.
pub fn threads() -> [Arg; 2] {
    [
        long("user-threads-only", "No threads of the kernel").conflicts_with("kernel-threads-only"),
        flag("kernel-threads-only", 'k', "Only threads of the kernel"),
    ]
}

/// The flags for times that are too short or too long.
pub fn bounds() -> [Arg; 2] {
    let bound = |name: &'static str, short: char, help: &'static str| {
        Arg::new(name)
            .long(name)
            .short(short)
            .value_name("MICROSECONDS")
            .value_parser(clap::value_parser!(u32))
            .help(help)
    };
    [
        bound("min-block-time", 'm', "Leave out what is shorter").default_value("1"),
        bound("max-block-time", 'M', "Leave out what is longer"),
    ]
}

fn long(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(clap::ArgAction::SetTrue).help(help)
}

/// What the flags of [`common`], [`sides`], [`threads`] and [`bounds`] say.
pub fn wanted<S: Stacked>(matches: &ArgMatches) -> Result<Wanted> {
    let mut wanted = args::wanted(matches)?;
    wanted.duration = wanted.duration.or(matches.get_one::<Duration>("seconds").copied());
    let switches = [
        ("user-stacks-only", S::NO_KERNEL),
        ("kernel-stacks-only", S::NO_USER),
        ("user-threads-only", S::ONLY_USER_THREADS),
        ("kernel-threads-only", S::ONLY_KERNEL_THREADS),
    ];
    let set = |(flag, _): &&(&str, u32)| matches.try_get_one::<bool>(flag).ok().flatten() == Some(&true);
    wanted.filter.switches |= switches.iter().filter(set).fold(0, |all, (_, switch)| all | switch);
    wanted.filter.stacks = matches.get_one("stack-storage-size").copied();
    let bound = |id| Some(Duration::from_micros((*matches.try_get_one::<u32>(id).ok()??).into()));
    let (shortest, longest) = (bound("min-block-time"), bound("max-block-time"));
    if longest.is_some_and(|longest| Some(longest) < shortest) {
        return Err(Error::usage("nothing is as short as --max-block-time and as long as --min-block-time")
            .with_hint("--max-block-time must not be below --min-block-time, which is 1 unless given"));
    }
    wanted.filter.numbers.extend(times(shortest, longest));
    Ok(wanted)
}

/// How the flags of [`common`] say that it is printed.
fn how(matches: &ArgMatches) -> Result<How> {
    let flame = matches.get_one::<PathBuf>("flame").cloned();
    if let Some(path) = &flame {
        check_place(path)?;
    }
    let [folded, delimited, annotated] =
        ["folded", "delimited", "annotations"].map(|flag| matches.get_flag(flag));
    let number = |id| matches.try_get_one::<usize>(id).ok().flatten().copied();
    let (depth, most) = (number("stacks").unwrap_or(1), number("rows").unwrap_or(usize::MAX));
    Ok(How { folded, delimited, annotated, flame, depth, most })
}

/// Fails where no file can come to be there: a minute's trace should not be lost for a name.
fn check_place(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let wrong = match (folder.is_dir(), path.is_dir() || path.file_name().is_none()) {
        (false, _) => format!("there is no folder {}", folder.display()),
        (_, true) => "it is a folder".to_string(),
        _ => return Ok(()),
    };
    Err(Error::usage(format!("cannot write {}: {wrong}", path.display())))
}

/// Counts until a time or a signal ends it, and prints what was counted.
pub fn run<S: Stacks>(context: &Context, matches: &ArgMatches, wanted: &Wanted) -> Result<()> {
    stop::on_signals();
    let how = how(matches)?;
    let mut table = Table::<S>::start(&wanted.filter)?;
    if wanted.stats {
        table.measure()?;
    }
    let view = View::new(Vec::new(), false);
    if wanted.duration.is_none() {
        context.ui.note(format!("{} counts until Ctrl-C", S::NAME));
    }
    stop::wait(wanted.duration.map(|duration| Instant::now() + duration));
    table.detach();
    let (ended, counted) = (monotonic(), table.take()?);
    let mut symbols = Symbols::new();
    let rows = named(&table, counted, &mut symbols)?;
    match &how.flame {
        Some(path) => fsio::replace(path, flame::svg(S::FLAME, &folded::calls(&rows)).as_bytes(), 0o644)?,
        None if context.ui.json => context.ui.line(all(&rows, ended, &view))?,
        None if how.folded => context.ui.raw(folded::text(&rows, &how).as_bytes())?,
        None => context.ui.raw(S::text(&rows, &how).as_bytes())?,
    }
    warn(context, &rows, &mut symbols);
    stats::report_table(context, table.running(), table.counts()?, wanted.stats)
}

/// Looks up the names of all calls; the greatest number comes last.
fn named<S: Stacks>(
    table: &Table<S>,
    counted: BTreeMap<S::Key, S::Value>,
    symbols: &mut Symbols,
) -> Result<Vec<Row>> {
    let mut rows = Vec::with_capacity(counted.len());
    for (key, value) in counted {
        let (ids, pid) = S::stacks(&key);
        let kernel = match table.stack(ids.kernel)? {
            Stack::Calls(addresses) => Part::Calls(symbols.kernel(&addresses)),
            other => without_calls(&other),
        };
        let user = match table.stack(ids.user)? {
            Stack::Calls(addresses) => Part::Calls(symbols.user(pid, &addresses)),
            other => without_calls(&other),
        };
        let spent = value.spent();
        rows.push(Row { label: S::label(&key), kernel, user, spent, number: S::number(&spent) });
    }
    rows.sort_by_key(|row| row.number);
    Ok(rows)
}

fn without_calls(stack: &Stack) -> Part {
    if *stack == Stack::Lost { Part::Lost } else { Part::None }
}

/// All for programs.
fn all(rows: &[Row], ended: u64, view: &View) -> Value {
    let one = |row: &Row| {
        let mut object = row.label.json.clone();
        object.insert("kernel".into(), row.kernel.json());
        object.insert("user".into(), row.user.json());
        object.insert("count".into(), row.spent.count.into());
        object.insert("time_s".into(), (row.spent.time as f64 / 1e9).into());
        if row.spent.longest > 0 {
            object.insert("longest_s".into(), (row.spent.longest as f64 / 1e9).into());
        }
        Value::Object(object)
    };
    let stacks: Vec<Value> = rows.iter().map(one).collect();
    let lasted = ended.saturating_sub(view.began) as f64 / 1e9;
    json!({"time_ns": view.wall(ended), "interval_s": lasted, "stacks": stacks})
}

/// Tells what is missing of what was printed.
fn warn(context: &Context, rows: &[Row], symbols: &mut Symbols) {
    let lost = |row: &&Row| row.kernel == Part::Lost || row.user == Part::Lost;
    let lost: u64 = rows.iter().filter(lost).map(|row| row.spent.count).sum();
    if lost > 0 {
        let all: u64 = rows.iter().map(|row| row.spent.count).sum();
        context.ui.note(format!(
            "of {lost} of {all} the stack was lost for want of room: --stack-storage-size gives more"
        ));
    }
    if rows.iter().any(|row| !row.kernel.calls().is_empty()) && symbols.kernel_is_hidden() {
        context.ui.note(
            "the kernel hides its names from this process: run it with CAP_SYSLOG, and kernel.kptr_restrict below 2",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stack with both sides, and one whose calls in the kernel were lost.
    pub fn rows() -> Vec<Row> {
        let call = |name: &str| Frame { address: 16, function: Some((name.into(), 4)), object: None };
        let label = |comm: [u8; 16], pid| {
            let stack = kld_ebpf::events::stack::Ids { kernel: 1, user: 2 };
            Label::of_task(&Of { stack, pid, pad: 0, comm })
        };
        let spent = Spell { count: 2, time: 2_000_000, longest: 0 };
        vec![
            Row {
                label: label(*b"worker\0\0\0\0\0\0\0\0\0\0", 8),
                kernel: Part::Lost,
                user: Part::Calls(vec![call("main")]),
                spent,
                number: 30,
            },
            Row {
                label: label(*b"sleeper\0\0\0\0\0\0\0\0\0", 7),
                kernel: Part::Calls(vec![call("schedule"), call("do_nanosleep")]),
                user: Part::Calls(vec![call("a::nap;2"), call("main")]),
                spent,
                number: 2000,
            },
        ]
    }

    #[test]
    fn programs_get_the_calls_with_their_addresses() {
        let view = View::new(Vec::new(), false);
        let object = all(&rows(), view.began + 2_000_000_000, &view);
        assert_eq!(object["interval_s"], 2.0);
        insta::assert_snapshot!(object["stacks"][0], @r#"{"comm":"worker","count":2,"kernel":null,"pid":8,"time_s":0.002,"user":[{"address":"0x10","name":"main","object":null,"offset":4}]}"#);
        assert_eq!(object["stacks"][1]["kernel"][1]["name"], "do_nanosleep");
    }

    #[test]
    fn a_place_where_no_file_can_be_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(check_place(&folder.path().join("a.svg")).is_ok());
        for place in [folder.path().to_path_buf(), folder.path().join("no-such/a.svg"), "/".into(), "".into()]
        {
            assert!(check_place(&place).is_err(), "{place:?}");
        }
    }
}
