//! What the tools' output has in common: times, names, and text that cannot harm a terminal.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kld_core::ui::printable;
use kld_ebpf::events::Task;
use kld_ebpf::monotonic;
use kld_ebpf::names::Cgroups;
use kld_ebpf::probe::DropReasons;
use serde_json::{Map, Value};

use crate::place::Places;

/// A column that a flag adds: the flag, the column's width and its name.
pub type Extra = (&'static str, usize, &'static str);

/// What a line needs to know besides its event.
#[derive(Debug)]
pub struct View {
    /// The flags that are set, by name.
    pub flags: Vec<&'static str>,
    /// The monotonic time at which the stream began, in nanoseconds.
    pub began: u64,
    /// What must be added to the monotonic time to get that since 1970.
    epoch: u64,
    cgroups: Option<Cgroups>,
    /// Why packets are dropped, by name.
    pub reasons: DropReasons,
    /// Where requests to block devices go, where a flag asks for that.
    pub places: Option<Places>,
    /// The most rows of a table.
    pub most: usize,
    /// How long the interval was that a table is of.
    pub lasted: Duration,
}

impl View {
    /// A view that begins now.
    pub fn new(flags: Vec<&'static str>, owners: bool) -> View {
        let began = monotonic();
        let since_1970 =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
        let (epoch, cgroups) = (since_1970.saturating_sub(began), owners.then(Cgroups::look));
        View {
            flags,
            began,
            epoch,
            cgroups,
            reasons: DropReasons::default(),
            places: None,
            most: usize::MAX,
            lasted: Duration::ZERO,
        }
    }

    /// Whether a flag is set.
    pub fn has(&self, flag: &str) -> bool {
        self.flags.contains(&flag)
    }

    /// Seconds since the stream began, as bcc writes them.
    pub fn since(&self, time: u64) -> f64 {
        time.saturating_sub(self.began) as f64 / 1e9
    }

    /// The time of day in UTC, as `12:34:56`.
    pub fn time_of_day(&self, time: u64) -> String {
        let text = kld_core::time::rfc3339((time + self.epoch) / 1_000_000_000);
        text.get(11..19).unwrap_or_default().to_string()
    }

    /// Nanoseconds since 1970.
    pub fn wall(&self, time: u64) -> u64 {
        time + self.epoch
    }

    /// The container or machine that a task is of; `-` where it is of none.
    pub fn owner(&mut self, task: &Task) -> Option<String> {
        self.owner_of(task.cgroup)
    }

    /// The container or machine that a control group is of.
    pub fn owner_of(&mut self, cgroup: u64) -> Option<String> {
        self.cgroups.as_mut().and_then(|all| all.owner(cgroup))
    }

    /// The names of the columns that flags add before a tool's own.
    pub fn extra_heading(&self, columns: &[Extra]) -> String {
        let set = columns.iter().filter(|(flag, ..)| self.has(flag));
        set.map(|(_, width, heading)| format!("{heading:<width$} ")).collect()
    }

    /// What stands in these columns.
    pub fn extra(&mut self, columns: &[Extra], task: &Task) -> String {
        let mut line = String::new();
        for (flag, width, _) in columns {
            if !self.has(flag) {
                continue;
            }
            let value = match *flag {
                "time" => self.time_of_day(task.time),
                "timestamp" => format!("{:.3}", self.since(task.time)),
                "print-uid" => task.uid.to_string(),
                _ => self.owner(task).unwrap_or_else(|| "-".into()),
            };
            line += &format!("{value:<width$} ");
        }
        line
    }

    /// What every event of a task has in JSON.
    pub fn json(&mut self, task: &Task) -> Map<String, Value> {
        let mut object = Map::new();
        object.insert("time_ns".into(), self.wall(task.time).into());
        for (name, value) in [("pid", task.pid), ("tid", task.tid), ("uid", task.uid), ("gid", task.gid)] {
            object.insert(name.into(), value.into());
        }
        object.insert("comm".into(), task.name().into());
        object.insert("cgroup".into(), task.cgroup.into());
        object.insert("owner".into(), self.owner(task).into());
        object
    }
}

/// A task's name for a terminal.
pub fn comm(task: &Task) -> String {
    printable(task.name())
}

/// The path or address that an event holds, for a terminal.
pub fn shown(text: &std::ffi::OsStr) -> String {
    printable(&text.to_string_lossy())
}

/// A signal's name without its beginning, such as `KILL`.
pub fn signal(number: i32) -> String {
    let known = nix::sys::signal::Signal::try_from(number);
    known.map_or_else(|_| "?".to_string(), |known| known.as_str().trim_start_matches("SIG").to_string())
}

/// An error's name, such as `EPERM`.
pub fn errno(number: i32) -> String {
    match nix::errno::Errno::from_raw(number) {
        nix::errno::Errno::UnknownErrno => number.to_string(),
        known => format!("{known:?}"),
    }
}

/// A protocol's name, such as `TCP`; its number where it is none of the common ones.
pub fn protocol(number: u16) -> String {
    let names = [(1, "ICMP"), (6, "TCP"), (17, "UDP"), (58, "ICMPv6"), (132, "SCTP"), (262, "MPTCP")];
    let known = names.iter().find(|(own, _)| *own == number);
    known.map_or_else(|| number.to_string(), |(_, name)| (*name).to_string())
}

/// A connection's two ends in JSON.
pub fn flow(object: &mut Map<String, Value>, local: &SocketAddr, remote: &SocketAddr) {
    object.insert("local".into(), local.ip().to_string().into());
    object.insert("local_port".into(), local.port().into());
    object.insert("remote".into(), remote.ip().to_string().into());
    object.insert("remote_port".into(), remote.port().into());
}

/// The version of an address, 4 or 6.
pub fn version(address: &SocketAddr) -> u8 {
    if address.is_ipv4() { 4 } else { 6 }
}
