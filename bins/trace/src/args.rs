//! Arguments that the tools share.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use kld_core::{Error, Result, fsio};
use kld_ebpf::Filter;
use kld_ebpf::events::socket;
use kld_ebpf::names::Cgroups;

use crate::impossible::OF_PACKETS;

/// What everybody may ask of a tool.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Whose events.
    pub filter: Filter,
    /// For how long.
    pub duration: Option<Duration>,
    /// How many.
    pub count: Option<u64>,
    /// Whether to tell what the tool has cost.
    pub stats: bool,
}

/// A flag with a short name.
pub fn flag(name: &'static str, short: char, help: &'static str) -> Arg {
    Arg::new(name).long(name).short(short).action(ArgAction::SetTrue).help(help)
}

/// The command with the flags that every tool has.
pub fn common(command: Command) -> Command {
    whose(until(command))
}

/// The command of a tool whose events are of sockets: who runs when they happen is a matter of chance, but the socket
/// has a user and a control group.
pub fn common_of_sockets(command: Command) -> Command {
    OF_PACKETS.of(whose_sockets(until(command)))
}

/// The flags for one version of the addresses.
pub fn families() -> [Arg; 2] {
    [flag("ipv4", '4', "Only version 4").conflicts_with("ipv6"), flag("ipv6", '6', "Only version 6")]
}

/// The switches that the flags of [`families`] stand for.
pub fn family_switches(matches: &ArgMatches) -> u32 {
    let switches = [("ipv4", socket::IPV4), ("ipv6", socket::IPV6)];
    switches.iter().filter(|(flag, _)| matches.get_flag(flag)).map(|(_, switch)| switch).sum()
}

/// The flag for one port only.
pub fn port(help: &'static str) -> Arg {
    Arg::new("port")
        .long("port")
        .short('P')
        .value_name("PORT")
        .value_parser(clap::value_parser!(u16).range(1..))
        .help(help)
}

/// What the flag of [`port`] says; 0 where it is not given.
pub fn port_argument(matches: &ArgMatches) -> u64 {
    matches.get_one::<u16>("port").copied().unwrap_or(0).into()
}

/// The flag for how often a tool that samples does so.
pub fn frequency(default: &'static str) -> Arg {
    Arg::new("frequency")
        .long("frequency")
        .short('F')
        .value_name("HZ")
        .value_parser(clap::value_parser!(u32).range(1..))
        .default_value(default)
        .help("Look at each processor so many times a second")
}

/// The most samples in a second that the kernel permits.
const MOST_SAMPLES: &str = "/proc/sys/kernel/perf_event_max_sample_rate";

/// What the flag of [`frequency`] says.
pub fn frequency_of(matches: &ArgMatches) -> Result<u32> {
    let frequency = matches.get_one::<u32>("frequency").copied().unwrap_or_default();
    let most = fsio::read_text(Path::new(MOST_SAMPLES), 64).ok().flatten();
    let most = most.and_then(|text| text.trim().parse::<u32>().ok());
    match most.filter(|most| frequency > *most) {
        None => Ok(frequency),
        Some(most) => {
            Err(Error::usage(format!("the kernel does not permit {frequency} samples in a second"))
                .with_hint(format!("{most} at most, as kernel.perf_event_max_sample_rate says")))
        }
    }
}

/// The flags that say how long, or how many.
fn until(command: Command) -> Command {
    ends(command).arg(
        Arg::new("count")
            .long("count")
            .short('n')
            .value_name("N")
            .value_parser(clap::value_parser!(u64).range(1..))
            .help("End after so many events"),
    )
}

/// When a tool ends, and what it tells then.
pub fn ends(command: Command) -> Command {
    command.args([
        Arg::new("duration")
            .long("duration")
            .short('d')
            .value_name("TIME")
            .value_parser(lasting)
            .help("End after so many seconds (10, 0.5) or as written (10s, 5m, 1h)"),
        Arg::new("stats")
            .long("stats")
            .action(ArgAction::SetTrue)
            .help("At the end, tell events seen and lost, and what the tool has cost"),
    ])
}

/// The flags that say whose events are wanted.
pub fn whose(command: Command) -> Command {
    let command = command.args([
        option("pid", "PID", "Only this process and its descendants; may be given several times")
            .short('p')
            .action(ArgAction::Append)
            .value_parser(pid),
        option("comm", "NAME", "Only threads of exactly this name").short('c'),
    ]);
    whose_sockets(command)
}

/// A flag that says whose events are wanted.
fn option(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help).help_heading("Whose")
}

/// Those of the flags that fit what has no process.
fn whose_sockets(command: Command) -> Command {
    command.args([
        option("user", "USER", "Only processes of this user, by name or number").short('u'),
        option("cgroup", "FOLDER", "Only this control group and those below it")
            .value_parser(clap::value_parser!(PathBuf))
            .conflicts_with_all(["container", "machine"]),
        option("container", "ID", "Only this container, by the beginning of its id")
            .conflicts_with("machine"),
        option("machine", "NAME", "Only this virtual machine's processes on the host"),
    ])
}

/// What the flags of [`common`] say.
pub fn wanted(matches: &ArgMatches) -> Result<Wanted> {
    Ok(Wanted {
        filter: filter(matches)?,
        duration: matches.get_one::<Duration>("duration").copied(),
        count: matches.try_get_one::<u64>("count").ok().flatten().copied(),
        stats: matches.get_flag("stats"),
    })
}

fn filter(matches: &ArgMatches) -> Result<Filter> {
    // Some tools have no flags that say whose.
    if matches.try_contains_id("user").is_err() {
        return Ok(Filter::all());
    }
    let owner = |id: &str| matches.get_one::<String>(id).map(|name| group_of(id, name)).transpose();
    let cgroup = match matches.get_one::<PathBuf>("cgroup") {
        Some(folder) => Some(folder.clone()),
        None => owner("container")?.or(owner("machine")?),
    };
    Ok(Filter {
        pids: given_many(matches, "pid"),
        uid: matches.get_one::<String>("user").map(|user| uid(user)).transpose()?,
        comm: matches.try_get_one::<String>("comm").ok().flatten().cloned(),
        cgroup,
        ..Filter::default()
    })
}

/// The values of a flag that the tool may lack.
fn given_many(matches: &ArgMatches, flag: &str) -> Vec<u32> {
    matches.try_get_many(flag).ok().flatten().into_iter().flatten().copied().collect()
}

/// The control group of a container or machine.
fn group_of(kind: &str, name: &str) -> Result<PathBuf> {
    Cgroups::look().of(name).ok_or_else(|| {
        Error::usage(format!("there is no {kind} '{}'", name.escape_debug()))
            .with_hint(format!("no control group here is of a {kind} of that name"))
    })
}

/// A user's number, by name or number.
fn uid(user: &str) -> Result<u32> {
    if let Ok(number) = user.parse() {
        return Ok(number);
    }
    let found = nix::unistd::User::from_name(user).ok().flatten();
    found
        .map(|user| user.uid.as_raw())
        .ok_or_else(|| Error::usage(format!("there is no user '{}'", user.escape_debug())))
}

/// A process's number.
fn pid(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| "a process has a number from 1 on; pgrep tells it by the name".into())
}

/// A length of time that is long enough to count in.
pub fn interval(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|time| match time >= Duration::from_millis(10) {
        true => Ok(time),
        false => Err("an interval is 10 ms or longer".into()),
    })
}

/// No tool runs for longer, unless it runs until Ctrl-C. The clock could not count to just any time.
const LONGEST: Duration = Duration::from_secs(365 * 86400);

/// How long a tool looks: not for no time at all.
pub fn lasting(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("in no time nothing is seen; leave it out to go on until Ctrl-C".into()),
        time => Ok(time),
    }
}

/// Seconds, or a number with a unit.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1.0,
        "ms" => 0.001,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("write seconds, or a number with ms, s, m or h".into()),
    };
    let number = digits.parse::<f64>().map_err(|_| "it is no number".to_string())?;
    match Duration::try_from_secs_f64(number * unit) {
        Ok(time) if time <= LONGEST => Ok(time),
        Ok(_) => Err("it is longer than a year".into()),
        Err(_) => Err("it is no length of time".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_seconds_unless_they_say_otherwise() {
        for (text, wanted) in
            [("10", 10_000), ("0.5", 500), ("250ms", 250), ("2m", 120_000), ("1h", 3_600_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(wanted)), "{text}");
        }
        for text in ["", "s", "-1", "1d", "nan", "1e30h", "1 s", "8761h", "1.8e19"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!((duration("8760h"), duration("0")), (Ok(LONGEST), Ok(Duration::ZERO)));
        assert!(lasting("0").is_err() && lasting("1ms").is_ok() && interval("9ms").is_err());
    }

    #[test]
    fn a_process_has_a_number() {
        assert_eq!(pid("1"), Ok(1));
        assert!(["0", "-1", "sshd", "", "4294967296"].iter().all(|text| pid(text).is_err()));
    }

    #[test]
    fn a_user_is_found_by_name_and_number() {
        assert_eq!((uid("root").ok(), uid("0").ok(), uid("no-such-user").ok()), (Some(0), Some(0), None));
    }
}
