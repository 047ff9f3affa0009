//! Tools that print a table for each interval.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::builder::TypedValueParser;
use clap::{Arg, ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::Context;
use kld_ebpf::events::histogram::{MILLISECONDS, NANOSECONDS};
use kld_ebpf::events::table::Tally;
use kld_ebpf::{Summary, Table, monotonic};
use serde_json::{Map, Value};

use crate::args::{self, Wanted};
use crate::expose::Exposed;
use crate::place::{self, Places};
use crate::prometheus::{self, Metric};
use crate::stats;
use crate::stop::{self, LOOK};
use crate::view::View;

/// What was counted, by key.
pub type Rows<S> = BTreeMap<<S as Summary>::Key, <S as Summary>::Value>;

/// A probe whose table is printed.
pub trait Tables: Summary {
    /// The interval where none is given; `None`: until the end.
    const INTERVAL: Option<Duration> = None;

    /// What was counted, under the keys that it is told by, where only the running host knows these.
    fn settle(rows: Rows<Self>, _: &mut View) -> Rows<Self> {
        rows
    }
    /// The table as bcc's tool prints it, with its heading.
    fn text(rows: &Rows<Self>, view: &View) -> String;
    /// The table for programs.
    fn json(rows: &Rows<Self>, view: &View) -> Map<String, Value>;
    /// The table for Prometheus.
    fn metrics(rows: &Rows<Self>, view: &View) -> Vec<Metric>;
}

/// Without an interval Prometheus's file is written this often.
const PROMETHEUS: Duration = Duration::from_secs(15);
/// So often what is served over HTTP is renewed.
const SERVED: Duration = Duration::from_secs(5);

/// The command with the flags that every tool with a table has.
pub fn common(command: Command) -> Command {
    of_all(args::whose(command))
}

/// The same without those that say whose.
pub fn of_all(command: Command) -> Command {
    args::ends(command).args([
        Arg::new("interval")
            .value_name("INTERVAL")
            .value_parser(args::interval)
            .help("Print and begin anew after so many seconds; else once, at the end"),
        Arg::new("count")
            .value_name("COUNT")
            .value_parser(clap::value_parser!(u64).range(1..))
            .help("End after so many intervals"),
        Arg::new("prometheus")
            .long("prometheus")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help(
                "Print nothing: write all that was counted into this file after each interval, or every 15 s",
            ),
        Arg::new("listen")
            .long("listen")
            .value_name("ADDRESS:PORT")
            .value_parser(endpoint)
            .help(
                "Print nothing: serve all that was counted to Prometheus, at /metrics, renewed after each interval, or \
                 every 5 s; on the loopback or a WireGuard interface's address",
            ),
    ])
}

/// An address and a port.
fn endpoint(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "write an address and a port, such as 127.0.0.1:9435 or [::1]:9435".into())
}

/// The flag for the time of each table.
pub fn timestamp() -> Arg {
    args::flag("timestamp", 'T', "Show the time of each table, in UTC")
}

/// The flags of tools that count times.
pub fn times() -> [Arg; 3] {
    [timestamp(), args::flag("milliseconds", 'm', "Times in milliseconds"), quantiles()]
}

/// The flag for quantiles.
pub fn quantiles() -> Arg {
    Arg::new("quantiles").long("quantiles").action(clap::ArgAction::SetTrue).help(
        "Show count, mean, quantiles (at most an eighth too great) and maximum instead of a distribution",
    )
}

/// The flag for the most rows of a table.
pub fn rows() -> Arg {
    Arg::new("rows")
        .long("rows")
        .short('r')
        .value_name("N")
        .value_parser(clap::value_parser!(u32).range(1..).map(|rows| rows as usize))
        .default_value("20")
        .help("So many rows at most, the greatest first")
}

/// Rows under other keys; where several come under one, they are added up.
pub fn regroup<K: Ord, V: Tally>(rows: BTreeMap<K, V>, mut key: impl FnMut(K) -> K) -> BTreeMap<K, V> {
    let mut all = BTreeMap::new();
    for (own, value) in rows {
        all.entry(key(own)).or_insert(*V::ZERO).merge(&value);
    }
    all
}

/// The totals with the greatest first, no more than are wanted.
pub fn greatest<'a, K: Ord, V>(
    rows: &'a BTreeMap<K, V>,
    view: &View,
    by: impl Fn(&V) -> u64,
) -> Vec<(&'a K, &'a V)> {
    let mut sorted: Vec<_> = rows.iter().collect();
    sorted.sort_by_key(|(_, total)| Reverse(by(total)));
    sorted.truncate(view.most);
    sorted
}

/// When a table is taken.
struct Pace {
    interval: Option<Duration>,
    count: u64,
    end: Option<Instant>,
}

impl Pace {
    fn of(matches: &ArgMatches, wanted: &Wanted, default: Option<Duration>) -> Pace {
        let given = matches.get_one::<Duration>("interval").copied();
        let served = matches.contains_id("listen").then_some(SERVED);
        let written = matches.contains_id("prometheus").then_some(PROMETHEUS);
        Pace {
            interval: given.or(served).or(written).or(default),
            count: matches.get_one::<u64>("count").copied().unwrap_or(u64::MAX),
            end: wanted.duration.map(|duration| Instant::now() + duration),
        }
    }

    /// Waits for an interval's end, or for the end of all; returns whether there is another one.
    fn wait(&self, began: Instant, number: u64) -> bool {
        let due = self.interval.map(|interval| began + interval.mul_f64(number as f64));
        loop {
            let now = Instant::now();
            if stop::is_asked() || self.end.is_some_and(|end| now >= end) {
                return false;
            }
            if due.is_some_and(|due| now >= due) {
                return number < self.count;
            }
            let next = due.into_iter().chain(self.end).min().map_or(LOOK, |next| next - now);
            std::thread::sleep(next.min(LOOK));
        }
    }
}

/// Where metrics go, where they are wanted.
struct Outlets {
    file: Option<PathBuf>,
    /// What is served, and where.
    served: Option<(Exposed, SocketAddr)>,
}

impl Outlets {
    fn of(matches: &ArgMatches) -> Result<Outlets> {
        let file: Option<PathBuf> = matches.get_one("prometheus").cloned();
        file.as_deref().map_or(Ok(()), prometheus::check_place)?;
        let served = matches.get_one::<SocketAddr>("listen").map(|address| Exposed::listen(*address));
        Ok(Outlets { file, served: served.transpose()? })
    }

    fn are_none(&self) -> bool {
        self.file.is_none() && self.served.is_none()
    }

    fn tell(&self, metrics: &[Metric]) -> Result<()> {
        if let Some((served, _)) = &self.served {
            served.tell(prometheus::text(metrics));
        }
        self.file.as_deref().map_or(Ok(()), |path| prometheus::write(path, metrics))
    }
}

/// Runs a probe until its time, its count or a signal ends it, and prints its table after each interval.
pub fn run<S: Tables>(
    context: &Context,
    matches: &ArgMatches,
    wanted: &Wanted,
    flags: Vec<&'static str>,
) -> Result<()> {
    stop::on_signals();
    let mut view = View::new(flags, false);
    view.most = matches.try_get_one("rows").ok().flatten().copied().unwrap_or(usize::MAX);
    view.places = place::given(matches).map(Places::new);
    let outlets = Outlets::of(matches)?;
    let mut table = Table::<S>::start(&wanted.filter)?;
    if wanted.stats {
        table.measure()?;
    }
    let pace = Pace::of(matches, wanted, S::INTERVAL);
    if pace.interval.is_none() && pace.end.is_none() {
        context.ui.note(format!("{} counts until Ctrl-C", S::NAME));
    }
    let began = Instant::now();
    let (mut since, mut number, mut all) = (monotonic(), 1, Rows::<S>::new());
    if let Some((served, address)) = &outlets.served {
        served.tell(prometheus::text(&S::metrics(&all, &view)));
        context.ui.note(format!("metrics are at http://{address}/metrics"));
    }
    loop {
        let goes_on = pace.wait(began, number);
        if !goes_on {
            table.detach();
        }
        let rows = S::settle(table.take()?, &mut view);
        let now = monotonic();
        let lasted = now - since;
        since = now;
        view.lasted = Duration::from_nanos(lasted);
        match outlets.are_none() {
            false => {
                for (key, value) in &rows {
                    all.entry(*key).or_insert(*S::Value::ZERO).merge(value);
                }
                outlets.tell(&S::metrics(&all, &view))?;
            }
            true if context.ui.json => {
                let mut object = Map::new();
                object.insert("time_ns".into(), view.wall(now).into());
                object.insert("interval_s".into(), (lasted as f64 / 1e9).into());
                object.extend(S::json(&rows, &view));
                context.ui.line(Value::Object(object))?;
            }
            true => {
                let time = match view.has("timestamp") {
                    true => format!("{}\n", view.time_of_day(now)),
                    false => String::new(),
                };
                context.ui.raw(format!("\n{time}{}", S::text(&rows, &view)).as_bytes())?;
            }
        }
        if !goes_on {
            break;
        }
        number += 1;
    }
    stats::report_places(context, &view);
    stats::report_table(context, table.running(), table.counts()?, wanted.stats)
}

/// The probe's switches for the flags that are set, among them those of units that all have.
pub fn switches(flags: &[&str], own: &[(&str, u32)]) -> u32 {
    let units = [("milliseconds", MILLISECONDS), ("nanoseconds", NANOSECONDS)];
    let set = own.iter().chain(&units).filter(|(flag, _)| flags.contains(flag));
    set.fold(0, |all, (_, switch)| all | switch)
}
