//! `syscount`: which system calls are made how often, or by whom.

use std::path::Path;

use clap::{Arg, ArgMatches, Command};
use kld_core::tool::{Context, Tool};
use kld_core::ui::printable;
use kld_core::{Result, fsio};
use kld_ebpf::events::process::CALL_32;
use kld_ebpf::events::table::Total;
use kld_ebpf::probe::SysCount;
use kld_ebpf::syscalls;
use nix::errno::Errno;
use serde_json::{Map, Value};

use crate::args::{flag, wanted};
use crate::histogram::Labels;
use crate::prometheus::{Counter, Metric, counters};
use crate::stream::set_flags;
use crate::tables::{self, Rows, Tables, common, greatest};
use crate::view::View;

pub const TOOL: Tool = Tool { name: "syscount", about: kld_catalog::about("syscount"), command, run };

const FLAGS: &[&str] = &["failures", "latency", "milliseconds", "process"];

fn command() -> Command {
    common(Command::new("syscount"))
        .args([
            flag("failures", 'x', "Only calls that have failed"),
            Arg::new("errno")
                .long("errno")
                .short('e')
                .value_name("ERROR")
                .value_parser(error)
                .help("Only calls that have failed with this error, as ENOENT or 2"),
            Arg::new("syscall")
                .long("syscall")
                .value_name("NAME")
                .value_parser(call)
                .help("Only this system call"),
            flag("latency", 'L', "How long the calls take too; the longest first"),
            flag("milliseconds", 'm', "Times in milliseconds"),
            flag("process", 'P', "By process, not by call"),
            tables::rows().long("top").short('T').default_value("10"),
        ])
        .after_help(
            "Examples:\n  syscount\n  syscount 1 10 -L\n  syscount -P -T 5 -d 30\n  syscount -e ENOENT -p 1234 --json\n\n\
             Calls are counted when they end: one that does not end, as exit_group, is not counted.",
        )
}

/// An error's number, by name or number.
fn error(text: &str) -> Result<u32, String> {
    let named = |number: &u32| format!("{:?}", Errno::from_raw(*number as i32)) == text;
    let known = || (1..4096).find(named);
    let number = text.parse().ok().filter(|number| (1..4096).contains(number));
    number.or_else(known).ok_or_else(|| "there is no such error".to_string())
}

/// A call's number, by its name.
fn call(text: &str) -> Result<u32, String> {
    syscalls::number(text).ok_or_else(|| "there is no such system call".to_string())
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let mut flags = set_flags(matches, FLAGS);
    let mut wanted = wanted(matches)?;
    let own =
        [("failures", SysCount::FAILED), ("latency", SysCount::TIMED), ("process", SysCount::BY_PROCESS)];
    wanted.filter.switches |= tables::switches(&flags, &own);
    for (id, variable) in [("errno", SysCount::ONLY_ERROR), ("syscall", SysCount::ONLY_CALL)] {
        wanted.filter.numbers.extend(matches.get_one::<u32>(id).map(|number| (variable, *number)));
    }
    // As bcc's: the time of day stands above each table.
    flags.push("timestamp");
    tables::run::<SysCount>(context, matches, &wanted, flags)
}

/// What a key stands for.
fn labels(key: u64, view: &View) -> Labels {
    match view.has("process") {
        true => vec![("pid", key.into()), ("comm", comm(key).into())],
        false => vec![("syscall", name(key).into())],
    }
}

/// A process's name, where it has not ended.
fn comm(pid: u64) -> String {
    let path = format!("/proc/{pid}/comm");
    let found = fsio::read_text(Path::new(&path), 64).ok().flatten();
    found.map_or_else(|| "[ended]".to_string(), |name| name.trim_end().to_string())
}

/// A call's name. After rt_sigreturn(2) the registers hold -1 for its number.
fn name(key: u64) -> String {
    let number = key as u32;
    match syscalls::name(number) {
        _ if key & CALL_32 != 0 => format!("[32-bit: {number}]"),
        Some(name) => name.to_string(),
        None if number == u32::MAX => "rt_sigreturn".to_string(),
        None => format!("[unknown: {number}]"),
    }
}

fn sorted<'a>(rows: &'a Rows<SysCount>, view: &View) -> Vec<(&'a u64, &'a Total)> {
    let latency = view.has("latency");
    greatest(rows, view, |total| if latency { total.time } else { total.count })
}

impl Tables for SysCount {
    fn text(rows: &Rows<Self>, view: &View) -> String {
        let (latency, process) = (view.has("latency"), view.has("process"));
        let (title, unit, divisor) = match view.has("milliseconds") {
            true => ("TIME (ms)", 6, 1e6),
            false => ("TIME (us)", 3, 1e3),
        };
        let mut lines = format!("{:<22} {:>8}", if process { "PID    COMM" } else { "SYSCALL" }, "COUNT");
        lines += &if latency { format!(" {title:>16}\n") } else { "\n".to_string() };
        for (key, total) in sorted(rows, view) {
            let what = match process {
                true => format!("{key:<6} {:<15}", printable(&comm(*key))),
                false => format!("{:<22}", name(*key)),
            };
            lines += &format!("{what} {:>8}", total.count);
            if latency {
                lines += &format!(" {:>16.unit$}", total.time as f64 / divisor);
            }
            lines.push('\n');
        }
        lines
    }

    fn json(rows: &Rows<Self>, view: &View) -> Map<String, Value> {
        let one = |(key, total): (&u64, &Total)| {
            let labels = labels(*key, view).into_iter();
            let mut object: Map<_, _> = labels.map(|(name, value)| (name.to_string(), value)).collect();
            object.insert("count".into(), total.count.into());
            if view.has("latency") {
                object.insert("time_s".into(), (total.time as f64 / 1e9).into());
            }
            Value::Object(object)
        };
        let all: Vec<Value> = sorted(rows, view).into_iter().map(one).collect();
        Map::from_iter([("calls".to_string(), all.into())])
    }

    fn metrics(rows: &Rows<Self>, view: &View) -> Vec<Metric> {
        const COUNT: Counter = ("syscalls_total", "System calls.", |total| total.count as f64);
        const TIME: Counter =
            ("syscalls_seconds_total", "Time in system calls.", |total| total.time as f64 / 1e9);
        let all = if view.has("latency") { [COUNT, TIME].to_vec() } else { [COUNT].to_vec() };
        counters(rows, |key| labels(*key, view), &all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_known_by_name_and_number() {
        assert_eq!((error("ENOENT"), error("2"), error("EAGAIN")), (Ok(2), Ok(2), Ok(11)));
        assert!(["0", "-2", "5000", "ENONSENSE", ""].iter().all(|text| error(text).is_err()));
    }

    #[test]
    fn calls_without_a_name_are_told_by_their_number() {
        assert_eq!([0, CALL_32 + 3, 999, 0xffff_ffff].map(name).join(" "), {
            let first = syscalls::name(0).unwrap();
            format!("{first} [32-bit: 3] [unknown: 999] rt_sigreturn")
        });
    }
}
