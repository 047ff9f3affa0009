//! Metrics in Prometheus's text format, in a file for node_exporter's textfile collector
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use kld_core::{Error, Result, fsio};
use kld_ebpf::events::table::Total;

use crate::histogram::{Labels, plain};

/// A metric and its values.
#[derive(Debug)]
pub struct Metric {
    /// Its name without the beginning that all have, `kld_`.
    pub name: String,
    /// What it is, in a sentence.
    pub help: &'static str,
    /// What its numbers are.
    pub kind: Kind,
    /// A value for each set of labels.
    pub samples: Vec<Sample>,
}

/// What a metric's numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A number that only grows.
    Counter,
    /// A distribution.
    Histogram,
}

/// A value with its labels.
#[derive(Debug)]
pub struct Sample {
    /// The labels, by name.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: Number,
}

impl Sample {
    /// A value with labels of any kind.
    pub fn new(labels: Labels, value: Number) -> Sample {
        let labels = labels.iter().map(|(name, value)| (*name, plain(value)));
        Sample { labels: labels.collect(), value }
    }
}

/// A metric's value.
#[derive(Debug)]
pub enum Number {
    /// Of a counter.
    Count(f64),
    /// Of a distribution: how many are not above each limit, how many there are, and their sum.
    Distribution { limits: Vec<(f64, u64)>, count: u64, sum: f64 },
}

/// A counter for each of several numbers of a total: its name, what it is, and the number.
pub type Counter<V = Total> = (&'static str, &'static str, fn(&V) -> f64);

/// Totals as counters.
pub fn counters<K, V>(
    rows: &BTreeMap<K, V>,
    labels: impl Fn(&K) -> Labels,
    counters: &[Counter<V>],
) -> Vec<Metric> {
    let metric = |(name, help, number): &Counter<V>| {
        let samples = rows.iter().map(|(key, total)| Sample::new(labels(key), Number::Count(number(total))));
        Metric { name: name.to_string(), help, kind: Kind::Counter, samples: samples.collect() }
    };
    counters.iter().map(metric).collect()
}

/// Fails where node_exporter would not read the file, or no file can come to be there: that is not to be found after the
/// first interval.
pub fn check_place(path: &Path) -> Result<()> {
    let refuse = |why: &str, hint: &str| {
        Err(Error::usage(format!("cannot write metrics to {}: {why}", path.display())).with_hint(hint))
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match (path.extension().is_some_and(|end| end == "prom"), folder.is_dir(), path.is_dir()) {
        (false, ..) => {
            refuse("its name does not end in .prom", "node_exporter reads only files that are named so")
        }
        (_, false, _) => refuse(
            &format!("there is no folder {}", folder.display()),
            "it is node_exporter's --collector.textfile.directory",
        ),
        (.., true) => refuse("it is a folder", "name a file in it"),
        _ => Ok(()),
    }
}

/// Writes the metrics at once: who reads sees the old ones or the new ones.
pub fn write(path: &Path, metrics: &[Metric]) -> Result<()> {
    fsio::replace(path, text(metrics).as_bytes(), 0o644)
}

/// The metrics in the text format, version 0.0.4.
pub fn text(metrics: &[Metric]) -> String {
    let mut text = String::new();
    for metric in metrics {
        let name = format!("kld_{}", metric.name);
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Histogram => "histogram",
        };
        text += &format!("# HELP {name} {}\n# TYPE {name} {kind}\n", metric.help);
        for sample in &metric.samples {
            lines(&mut text, &name, sample);
        }
    }
    text
}

fn lines(text: &mut String, name: &str, sample: &Sample) {
    let mut line = |end: &str, limit: Option<&str>, value: &dyn std::fmt::Display| {
        let labels = labels(&sample.labels, limit);
        let _ = writeln!(text, "{name}{end}{labels} {value}");
    };
    match &sample.value {
        Number::Count(value) => line("", None, value),
        Number::Distribution { limits, count, sum } => {
            for (limit, below) in limits {
                line("_bucket", Some(&decimal(*limit)), below);
            }
            line("_bucket", Some("+Inf"), count);
            line("_sum", None, sum);
            line("_count", None, count);
        }
    }
}

/// A number without what its binary form adds at the end: 0.000128, not 0.00012799999999999999.
fn decimal(number: f64) -> String {
    let text = format!("{number:.12}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

fn labels(labels: &[(&'static str, String)], limit: Option<&str>) -> String {
    let own = labels.iter().map(|(name, value)| (*name, value.as_str()));
    let all: Vec<String> =
        own.chain(limit.map(|limit| ("le", limit))).map(|(name, value)| label(name, value)).collect();
    if all.is_empty() { String::new() } else { format!("{{{}}}", all.join(",")) }
}

fn label(name: &str, value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{name}=\"{value}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_would_not_be_read_or_cannot_be_made_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("b.prom")).unwrap();
        assert!(
            check_place(&folder.path().join("a.prom")).is_ok() && check_place(Path::new("a.prom")).is_ok()
        );
        for name in ["a", "a.prom.old", "b.prom", "no-such/a.prom", ".prom"] {
            let error = check_place(&folder.path().join(name)).unwrap_err();
            assert!(error.exit() as u8 == 2 && error.hint().is_some(), "{name}: {error}");
        }
    }

    fn example() -> Vec<Metric> {
        let counter = |name: &str, value| Sample {
            labels: vec![("call", name.to_string())],
            value: Number::Count(value),
        };
        let distribution =
            Number::Distribution { limits: vec![(2e-6, 1), (128e-6, 3)], count: 4, sum: 0.0025 };
        vec![
            Metric {
                name: "calls_total".into(),
                help: "System calls.",
                kind: Kind::Counter,
                samples: vec![counter("read", 7.0), counter("a \"b\"\\\n", 0.5)],
            },
            Metric {
                name: "wait_seconds".into(),
                help: "Waits.",
                kind: Kind::Histogram,
                samples: vec![Sample { labels: vec![], value: distribution }],
            },
        ]
    }

    #[test]
    fn metrics_are_in_the_text_format() {
        insta::assert_snapshot!(text(&example()), @r#"
        # HELP kld_calls_total System calls.
        # TYPE kld_calls_total counter
        kld_calls_total{call="read"} 7
        kld_calls_total{call="a \"b\"\\\n"} 0.5
        # HELP kld_wait_seconds Waits.
        # TYPE kld_wait_seconds histogram
        kld_wait_seconds_bucket{le="0.000002"} 1
        kld_wait_seconds_bucket{le="0.000128"} 3
        kld_wait_seconds_bucket{le="+Inf"} 4
        kld_wait_seconds_sum 0.0025
        kld_wait_seconds_count 4
        "#);
    }

    #[test]
    fn every_line_is_one_that_the_format_has() {
        for line in text(&example()).lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                assert!(comment.starts_with("HELP kld_") || comment.starts_with("TYPE kld_"), "{line}");
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "{line}");
            assert!(labels.ends_with('}'), "{line}");
        }
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kld.prom");
        write(&path, &example()).unwrap();
        write(&path, &example()[..1]).unwrap();
        let found: Vec<_> = std::fs::read_dir(folder.path()).unwrap().flatten().collect();
        assert_eq!((found.len(), std::fs::read_to_string(&path).unwrap()), (1, text(&example()[..1])));
        let error = write(&folder.path().join("no-such-folder/kld.prom"), &[]).unwrap_err();
        assert!(error.to_string().contains("no-such-folder/"), "{error}");
    }
}
