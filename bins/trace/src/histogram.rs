//! Distributions, as tables of powers of two, as quantiles, for programs and for Prometheus.

use clap::Arg;
use kld_core::ui::printable;
use kld_ebpf::Summary;
use kld_ebpf::events::histogram::{Histogram, ROWS};
use kld_ebpf::events::table::Tally;
use serde_json::{Map, Value, json};

use crate::args::flag;
use crate::prometheus::{Kind, Metric, Number, Sample};
use crate::tables::{Rows, Tables};
use crate::view::View;

/// What a distribution's values are.
#[derive(Debug, Clone, Copy)]
pub struct Unit {
    /// Its name in a table, as bcc has it.
    pub name: &'static str,
    /// Its name in JSON.
    pub short: &'static str,
    /// How many of what a histogram's sum and its greatest value are in make one.
    pub raw: u64,
    /// The name that Prometheus wants for it at a metric's end, and how many of that one is.
    pub base: (&'static str, f64),
}

pub const NANOSECONDS: Unit = Unit { name: "nsecs", short: "ns", raw: 1, base: ("seconds", 1e-9) };
pub const MICROSECONDS: Unit = Unit { name: "usecs", short: "us", raw: 1000, base: ("seconds", 1e-6) };
pub const MILLISECONDS: Unit = Unit { name: "msecs", short: "ms", raw: 1_000_000, base: ("seconds", 1e-3) };
pub const TASKS: Unit = Unit { name: "runqlen", short: "tasks", raw: 1, base: ("tasks", 1.0) };
pub const KIBIBYTES: Unit = Unit { name: "Kbytes", short: "KiB", raw: 1, base: ("bytes", 1024.0) };

/// What a key stands for, by name.
pub type Labels = Vec<(&'static str, Value)>;

/// A label in a table or for Prometheus.
pub fn plain(value: &Value) -> String {
    printable(&value.as_str().map_or_else(|| value.to_string(), str::to_string))
}

/// A tool that prints distributions.
pub trait Distribution: Summary<Value = Histogram> {
    /// What is measured, for Prometheus, as `runqueue_wait`, and in a sentence.
    fn metric(view: &View) -> (&'static str, &'static str);
    /// Its unit; unless it says otherwise, what the flags say of times.
    fn unit(view: &View) -> Unit {
        unit_of_time(view)
    }
    /// What a key stands for: nothing where there is one distribution of all.
    fn labels(key: &Self::Key, view: &View) -> Labels;
    /// What programs are told of it besides.
    fn details(_: &Self::Key, _: &View) -> Map<String, Value> {
        Map::new()
    }
    /// As [`Tables::settle`].
    fn settle(rows: Rows<Self>, _: &mut View) -> Rows<Self> {
        rows
    }
}

/// Microseconds, unless a flag says otherwise.
fn unit_of_time(view: &View) -> Unit {
    match (view.has("milliseconds"), view.has("nanoseconds")) {
        (true, _) => MILLISECONDS,
        (_, true) => NANOSECONDS,
        _ => MICROSECONDS,
    }
}

impl<T: Distribution> Tables for T {
    fn settle(rows: Rows<Self>, view: &mut View) -> Rows<Self> {
        <T as Distribution>::settle(rows, view)
    }

    fn text(rows: &Rows<Self>, view: &View) -> String {
        let unit = T::unit(view);
        if view.has("quantiles") {
            let lines = rows.iter().map(|(key, histogram)| (labels_of::<T>(key, view), histogram));
            return quantiles(&lines.collect::<Vec<_>>(), unit);
        }
        let mut text = String::new();
        for (key, histogram) in rows {
            let labels = T::labels(key, view);
            if !labels.is_empty() {
                let parts: Vec<_> =
                    labels.iter().map(|(name, value)| format!("{name} = {}", plain(value))).collect();
                text += &format!("\n{}\n", parts.join(", "));
            }
            text += &table(histogram, unit.name);
        }
        text
    }

    fn json(rows: &Rows<Self>, view: &View) -> Map<String, Value> {
        let unit = T::unit(view);
        let one = |(key, histogram): (&T::Key, &Histogram)| {
            let mut object = Map::new();
            for (name, value) in T::labels(key, view) {
                object.insert(name.to_string(), value);
            }
            object.extend(T::details(key, view));
            object.extend(numbers(histogram, unit));
            Value::Object(object)
        };
        let all: Vec<Value> = rows.iter().map(one).collect();
        Map::from_iter([("unit".to_string(), unit.short.into()), ("distributions".to_string(), all.into())])
    }

    fn metrics(rows: &Rows<Self>, view: &View) -> Vec<Metric> {
        let unit = T::unit(view);
        let samples = rows
            .iter()
            .map(|(key, histogram)| Sample::new(T::labels(key, view), distribution(histogram, unit)));
        let (name, help) = T::metric(view);
        let name = format!("{name}_{}", unit.base.0);
        vec![Metric { name, help, kind: Kind::Histogram, samples: samples.collect() }]
    }
}

fn labels_of<T: Distribution>(key: &T::Key, view: &View) -> String {
    let values: Vec<String> = T::labels(key, view).iter().map(|(_, value)| plain(value)).collect();
    if values.is_empty() { "all".to_string() } else { values.join(" ") }
}

/// The flags for a distribution for each task.
pub fn by_task() -> [Arg; 2] {
    [
        flag("pids", 'P', "A distribution for each process").conflicts_with("tids"),
        flag("tids", 'L', "A distribution for each thread"),
    ]
}

/// What a key stands for with these flags.
pub fn task_labels(key: u64, view: &View) -> Labels {
    match (view.has("pids"), view.has("tids")) {
        (true, _) => vec![("pid", key.into())],
        (_, true) => vec![("tid", key.into())],
        _ => vec![],
    }
}

/// How wide the stars of the greatest row are.
const STARS: usize = 40;

/// The stars of a row of so many, where the greatest row has so many.
pub fn stars(count: u64, most: u64) -> String {
    let stars = "*".repeat(usize::try_from(count * STARS as u64 / most.max(1)).unwrap_or(STARS));
    format!("|{stars:<STARS$}|")
}

/// A table in powers of two, as bcc prints it.
pub fn table(histogram: &Histogram, unit: &str) -> String {
    let rows = histogram.rows();
    let Some(last) = rows.iter().rposition(|count| *count > 0) else { return String::new() };
    let most = rows.iter().copied().max().unwrap_or(1);
    let mut text = format!("     {unit:<19} : count     distribution\n");
    for (row, count) in rows[..=last].iter().enumerate() {
        let low = if row == 0 { 0 } else { 1_u64 << row };
        text += &format!("{low:>10} -> {:<10} : {count:<8} {}\n", (2_u64 << row) - 1, stars(*count, most));
    }
    text
}

/// A line for each distribution. A quantile is the upper end of the eighth of a power of two that it lies in; the
/// greatest value is exact.
fn quantiles(all: &[(String, &Histogram)], unit: Unit) -> String {
    let heading = ["count", "mean", "p50", "p90", "p99", "max"];
    let mut text = format!("{:<24}", unit.name);
    heading.iter().for_each(|name| text += &format!(" {name:>10}"));
    text.push('\n');
    for (name, histogram) in all {
        text += &format!("{name:<24} {:>10} {:>10.1}", histogram.count(), mean(histogram, unit));
        for part in PARTS {
            text += &format!(" {:>10}", quantile(histogram, part.1, unit));
        }
        text += &format!(" {:>10}\n", histogram.max / unit.raw);
    }
    text
}

/// The quantiles that are told, by name and in thousandths.
const PARTS: [(&str, u64); 3] = [("p50", 500), ("p90", 900), ("p99", 990)];

/// None is greater than the greatest value.
fn quantile(histogram: &Histogram, part: u64, unit: Unit) -> u64 {
    histogram.quantile(part).min(histogram.max / unit.raw)
}

fn mean(histogram: &Histogram, unit: Unit) -> f64 {
    histogram.mean() / unit.raw as f64
}

/// What programs get of a distribution.
pub fn numbers(histogram: &Histogram, unit: Unit) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("count".into(), histogram.count().into());
    object.insert("mean".into(), mean(histogram, unit).into());
    for (name, part) in PARTS {
        object.insert(name.into(), quantile(histogram, part, unit).into());
    }
    object.insert("max".into(), (histogram.max as f64 / unit.raw as f64).into());
    let rows = histogram.rows();
    let filled = rows.iter().enumerate().filter(|(_, count)| **count > 0);
    let rows = filled.map(|(row, count)| {
        let from = if row == 0 { 0 } else { 1_u64 << row };
        json!({"from": from, "to": (2_u64 << row) - 1, "count": count})
    });
    object.insert("rows".into(), rows.collect::<Vec<_>>().into());
    object
}

/// Prometheus wants the same limits always: so many rows have one of their own.
const LIMITS: usize = 27;

/// The counts below each limit, all that are counted, and their sum, in the base unit.
pub fn distribution(histogram: &Histogram, unit: Unit) -> Number {
    let rows: [u64; ROWS] = histogram.rows();
    let mut below = 0;
    let limits = rows[..LIMITS].iter().enumerate().map(|(row, count)| {
        below += count;
        ((2_u64 << row) as f64 * unit.base.1, below)
    });
    let sum = histogram.sum as f64 / unit.raw as f64 * unit.base.1;
    Number::Distribution { limits: limits.collect(), count: histogram.count(), sum }
}

#[cfg(test)]
mod tests {
    use kld_ebpf::events::histogram::slot;

    use super::*;

    /// Times in microseconds.
    fn of(values: &[u64]) -> Histogram {
        let mut histogram = *Histogram::ZERO;
        for value in values {
            histogram.slots[slot(*value)] += 1;
            histogram.sum += value * 1000;
            histogram.max = histogram.max.max(value * 1000);
        }
        histogram
    }

    #[test]
    fn a_table_is_as_bcc_s() {
        let text = table(&of(&[0, 1, 2, 3, 3, 9, 10, 11, 12]), "usecs");
        let lines = [
            "     usecs               : count     distribution",
            "         0 -> 1          : 2        |********************                    |",
            "         2 -> 3          : 3        |******************************          |",
            "         4 -> 7          : 0        |                                        |",
            "         8 -> 15         : 4        |****************************************|",
        ];
        assert_eq!(text, lines.join("\n") + "\n");
        assert_eq!(table(&of(&[]), "usecs"), "");
    }

    #[test]
    fn quantiles_are_in_lines() {
        let (many, one): (Vec<u64>, _) = ((1..=1000).collect(), of(&[7]));
        let all = [("vda".to_string(), &of(&many)), ("loop0".to_string(), &one)];
        insta::assert_snapshot!(quantiles(&all, MICROSECONDS), @"
        usecs                         count       mean        p50        p90        p99        max
        vda                            1000      500.5        511        959       1000       1000
        loop0                             1        7.0          7          7          7          7
        ");
    }

    #[test]
    fn programs_get_the_filled_rows() {
        let object = Value::Object(numbers(&of(&[1, 5, 6]), MICROSECONDS));
        insta::assert_snapshot!(object, @r#"{"count":3,"max":6.0,"mean":4.0,"p50":5,"p90":6,"p99":6,"rows":[{"count":1,"from":0,"to":1},{"count":2,"from":4,"to":7}]}"#);
    }

    #[test]
    fn prometheus_gets_what_lies_below_each_limit() {
        let Number::Distribution { limits, count, sum } = distribution(&of(&[0, 1, 2, 900]), MICROSECONDS)
        else {
            unreachable!()
        };
        assert_eq!((limits[0], limits[1], limits[9]), ((2e-6, 2), (4e-6, 3), (1024.0 * 1e-6, 4)));
        assert_eq!((limits.len(), count, (sum * 1e6).round()), (27, 4, 903.0));
    }
}
