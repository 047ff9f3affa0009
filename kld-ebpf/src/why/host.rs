//! What the kernel's own files say: processors, pressure, control groups' shares, segments sent, ZFS's cache.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kld_core::fsio;

use super::evidence::{Arc, Pressure, Reads, Share, Throttled};
use crate::names;

/// Counters at one moment.
#[derive(Debug, Default)]
pub struct Host {
    cpus: u32,
    /// Hundredths of a second.
    busy: u64,
    pressure: Option<[Stalled; 3]>,
    groups: Option<HashMap<PathBuf, Bandwidth>>,
    /// Segments sent, by network namespace.
    segments: HashMap<u64, u64>,
    /// What was read from disks, and how much of it again, in KiB.
    reads: Option<(u64, u64)>,
    arc: Option<BTreeMap<String, u64>>,
}

impl Host {
    /// As they are now.
    pub fn look() -> Host {
        let (cpus, busy) = text("/proc/stat").map(|stat| processors(&stat)).unwrap_or_default();
        let stalled = |what| text(&format!("/proc/pressure/{what}")).as_deref().and_then(stalled);
        let pressure = ["cpu", "io", "memory"].map(stalled);
        Host {
            cpus,
            busy,
            pressure: pressure.iter().any(Option::is_some).then(|| pressure.map(Option::unwrap_or_default)),
            groups: Hierarchy::of_processors().map(|hierarchy| hierarchy.bandwidths()),
            segments: segments_sent(),
            reads: text("/proc/vmstat").as_deref().and_then(|stat| reads(stat, page_kib())),
            arc: text("/proc/spl/kstat/zfs/arcstats").map(|stats| kstat(&stats)),
        }
    }

    /// How many processors there are.
    pub fn cpus(&self) -> u32 {
        self.cpus
    }

    /// How long they have worked since, all together, in seconds.
    pub fn busy_since(&self, before: &Host) -> f64 {
        // USER_HZ is 100 on every processor that kld runs on.
        self.busy.saturating_sub(before.busy) as f64 / 100.0
    }

    /// The pressure since, of so many seconds.
    pub fn pressure_since(&self, before: &Host, seconds: f64) -> Option<Pressure> {
        let (before, after) = (before.pressure?, self.pressure?);
        let part = |after: u64, before: u64| (after.saturating_sub(before) as f64 / 1e6 / seconds).min(1.0);
        let share = |at: usize| Share {
            some: part(after[at].some, before[at].some),
            full: part(after[at].full, before[at].full),
        };
        Some(Pressure { cpu: share(0), io: share(1), memory: share(2) })
    }

    /// The groups whose share was used up since, the longest first.
    pub fn throttled_since(&self, before: &Host) -> Option<Vec<Throttled>> {
        let none = Bandwidth::default();
        let since = |(group, after): (&PathBuf, &Bandwidth)| {
            let before = before.groups.as_ref().and_then(|groups| groups.get(group)).unwrap_or(&none);
            after.since(before, group)
        };
        let mut all: Vec<Throttled> = self.groups.as_ref()?.iter().filter_map(since).collect();
        all.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        Some(all)
    }

    /// How many segments of TCP were sent since. A namespace that nobody is in any more is not known.
    pub fn segments_since(&self, before: &Host) -> Option<u64> {
        let since = |(namespace, after): (&u64, &u64)| {
            after.saturating_sub(before.segments.get(namespace).copied().unwrap_or(0))
        };
        (!self.segments.is_empty()).then(|| self.segments.iter().map(since).sum())
    }

    /// What was read from disks since.
    pub fn reads_since(&self, before: &Host) -> Option<Reads> {
        let (before, after) = (before.reads?, self.reads?);
        Some(Reads { kib: after.0.saturating_sub(before.0), again_kib: after.1.saturating_sub(before.1) })
    }

    /// What ZFS's cache did since.
    pub fn arc_since(&self, before: &Host) -> Option<Arc> {
        let (before, after) = (before.arc.as_ref()?, self.arc.as_ref()?);
        let now = |name: &str| after.get(name).copied().unwrap_or(0);
        let since = |name: &str| now(name).saturating_sub(before.get(name).copied().unwrap_or(0));
        Some(Arc {
            hits: since("hits"),
            misses: since("misses"),
            size: now("size"),
            target: now("c"),
            most: now("c_max"),
            held_up: since("memory_throttle_count"),
        })
    }
}

/// The kernel's files are short; those of many processors have long lines.
const LONGEST: u64 = 4 << 20;

fn text(path: &str) -> Option<String> {
    fsio::read_text(Path::new(path), LONGEST).ok()?
}

/// How many processors /proc/stat has, and for how long they have worked.
fn processors(stat: &str) -> (u32, u64) {
    let is_one = |line: &&str| {
        line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let all = stat.lines().find_map(|line| line.strip_prefix("cpu "));
    let times: Vec<u64> =
        all.unwrap_or_default().split_whitespace().filter_map(|word| word.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq; what a guest has run is in user, what was stolen is not worked.
    let busy = [0, 1, 2, 5, 6].iter().filter_map(|at| times.get(*at)).sum();
    (stat.lines().filter(is_one).count() as u32, busy)
}

fn page_kib() -> u64 {
    // SAFETY: the call takes a number.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).unwrap_or(4096) / 1024
}

/// What /proc/vmstat says was read from disks, and how much of that was of pages that had been in memory, in KiB. Kernels
/// before 5.9 do not count files' pages apart.
fn reads(vmstat: &str, page_kib: u64) -> Option<(u64, u64)> {
    let number = |name: &str| number(vmstat, name);
    let again = number("workingset_refault_file").or_else(|| number("workingset_refault"))?;
    Some((number("pgpgin")?, again * page_kib))
}

/// The number behind a name, of lines `name number`.
fn number(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?.trim().parse().ok()
}

/// Microseconds in which tasks waited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Stalled {
    some: u64,
    full: u64,
}

/// Out of a file of /proc/pressure: `some avg10=0.00 avg60=0.00 avg300=0.00 total=7`, and the same for `full`.
fn stalled(text: &str) -> Option<Stalled> {
    let total = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
        line.split_whitespace().find_map(|word| word.strip_prefix("total="))?.parse().ok()
    };
    Some(Stalled { some: total("some ")?, full: total("full ").unwrap_or(0) })
}

/// What a control group's cpu.stat says, and what it may have.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Bandwidth {
    periods: u64,
    used_up: u64,
    throttled_s: f64,
    quota_s: Option<f64>,
}

impl Bandwidth {
    /// Out of a cpu.stat; `None` where it has no limit to speak of. Times are `throttled_usec`, or of the first version's
    /// groups `throttled_time` in nanoseconds.
    fn parse(stat: &str) -> Option<Bandwidth> {
        let number = |name: &str| number(stat, name);
        let second = number("throttled_usec").map(|time| time as f64 / 1e6);
        let throttled_s = second.or_else(|| number("throttled_time").map(|time| time as f64 / 1e9))?;
        Some(Bandwidth {
            periods: number("nr_periods")?,
            used_up: number("nr_throttled")?,
            throttled_s,
            quota_s: None,
        })
    }

    fn since(&self, before: &Bandwidth, group: &Path) -> Option<Throttled> {
        let used_up = self.used_up.checked_sub(before.used_up).filter(|times| *times > 0)?;
        Some(Throttled {
            group: group.display().to_string(),
            periods: self.periods.saturating_sub(before.periods),
            used_up,
            seconds: (self.throttled_s - before.throttled_s).max(0.0),
            quota_s: self.quota_s,
        })
    }
}

/// What a group may have in a period, out of cpu.max (`20000 100000`), in seconds; `None` where it has no limit.
fn quota(max: &str) -> Option<f64> {
    let microseconds: u64 = max.split_whitespace().next()?.parse().ok()?;
    Some(microseconds as f64 / 1e6)
}

/// The control groups that share the processors out.
#[derive(Debug)]
pub struct Hierarchy {
    root: PathBuf,
    /// Whether it is of the second version.
    unified: bool,
}

impl Hierarchy {
    /// The one that the processors are shared out by, whatever its version.
    pub fn of_processors() -> Option<Hierarchy> {
        let first = text("/proc/self/mountinfo").as_deref().and_then(|mounts| first_version(mounts, "cpu"));
        match first {
            Some(root) => Some(Hierarchy { root, unified: false }),
            None => names::cgroup_root().map(|root| Hierarchy { root, unified: true }),
        }
    }

    /// A process's group, as a path below the root.
    pub fn of(&self, pid: u32) -> Option<String> {
        let groups = text(&format!("/proc/{pid}/cgroup"))?;
        group_in(&groups, if self.unified { None } else { Some("cpu") })
    }

    fn bandwidths(&self) -> HashMap<PathBuf, Bandwidth> {
        let mut all = HashMap::new();
        let mut folders = vec![self.root.clone()];
        while let Some(folder) = folders.pop() {
            if let Some(found) = self.bandwidth(&folder) {
                let below = folder.strip_prefix(&self.root).unwrap_or(&folder);
                all.insert(Path::new("/").join(below), found);
            }
            let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
            let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            folders.extend(below.map(|entry| entry.path()));
        }
        all
    }

    fn bandwidth(&self, folder: &Path) -> Option<Bandwidth> {
        let read = |name: &str| fsio::read_text(&folder.join(name), 64 << 10).ok()?;
        let found = Bandwidth::parse(&read("cpu.stat")?)?;
        let limit = read(if self.unified { "cpu.max" } else { "cpu.cfs_quota_us" });
        Some(Bandwidth { quota_s: limit.as_deref().and_then(quota), ..found })
    }
}

/// Where the first version's hierarchy with this controller is mounted.
fn first_version(mountinfo: &str, controller: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        let mut source = source.split(' ');
        (source.next() == Some("cgroup")).then_some(())?;
        let is_of = source.nth(1)?.split(',').any(|option| option == controller);
        is_of.then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    })
}

/// A group in /proc/PID/cgroup: of the hierarchy with this controller, or of the second version's.
fn group_in(groups: &str, controller: Option<&str>) -> Option<String> {
    groups.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let fits = match controller {
            Some(wanted) => controllers.split(',').any(|one| one == wanted),
            None => controllers.is_empty(),
        };
        fits.then(|| path.to_string())
    })
}

/// The segments of TCP that were sent in each network namespace that a process is in, resent ones left out.
fn segments_sent() -> HashMap<u64, u64> {
    let mut all = HashMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(meta) = std::fs::metadata(format!("/proc/{pid}/ns/net")) else { continue };
        if all.contains_key(&meta.ino()) {
            continue;
        }
        let sent = text(&format!("/proc/{pid}/net/snmp")).and_then(|snmp| tcp_counter(&snmp, "OutSegs"));
        all.extend(sent.map(|sent| (meta.ino(), sent)));
    }
    all
}

/// A counter of TCP's in /proc/net/snmp: a line of names, and a line of numbers.
fn tcp_counter(snmp: &str, name: &str) -> Option<u64> {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let at = lines.next()?.split(' ').position(|own| own == name)?;
    lines.next()?.split(' ').nth(at)?.parse().ok()
}

/// The numbers in a kstat: two lines of heading, then `name type value`.
fn kstat(text: &str) -> BTreeMap<String, u64> {
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_string(), words.nth(1)?.parse().ok()?))
    };
    text.lines().skip(2).filter_map(row).collect()
}

#[cfg(test)]
mod tests;
