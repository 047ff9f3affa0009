//! `cachestat`: how often pages of files are in memory when they are wanted.

use std::path::Path;
use std::time::Duration;

use clap::{ArgMatches, Command};
use kld_core::tool::{Context, Tool};
use kld_core::{Result, fsio};
use kld_ebpf::events::io::cache;
use kld_ebpf::probe::CacheStat;
use serde_json::{Map, Value, json};

use crate::args::wanted;
use crate::prometheus::{Metric, counters};
use crate::stream::set_flags;
use crate::tables::{self, Rows, Tables, common, timestamp};
use crate::view::View;

pub const TOOL: Tool = Tool { name: "cachestat", about: kld_catalog::about("cachestat"), command, run };

fn command() -> Command {
    common(Command::new("cachestat")).arg(timestamp()).after_help(
        "Examples:\n  cachestat\n  cachestat 5 12 -T\n  cachestat --json 1\n\n\
         A line a second unless an interval is given, in pages. What is added to the cache and not written is a \
         miss, with all that is read ahead; what is wanted besides is a hit. Before Linux 6.12 kprobes are needed.",
    )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    tables::run::<CacheStat>(context, matches, &wanted(matches)?, set_flags(matches, &["timestamp"]))
}

/// Pages in an interval.
#[derive(Debug, Default, PartialEq, Eq)]
struct Pages {
    hits: u64,
    misses: u64,
    dirtied: u64,
}

impl Pages {
    /// As bcc reckons: what is added and not made dirty was read. None of the numbers is less than nothing, since what is
    /// read ahead is added before it is wanted.
    fn of(rows: &Rows<CacheStat>) -> Pages {
        let pages = |key| rows.get(&key).map_or(0, |total| total.amount);
        let dirtied = pages(cache::DIRTIED);
        let wanted = pages(cache::WANTED).saturating_sub(pages(cache::BUFFER_DIRTIED));
        let misses = pages(cache::ADDED).saturating_sub(dirtied);
        Pages { hits: wanted.saturating_sub(misses), misses, dirtied }
    }

    /// The part of what was wanted that was there.
    fn ratio(&self) -> f64 {
        let all = self.hits + self.misses;
        if all == 0 { 0.0 } else { self.hits as f64 / all as f64 }
    }
}

/// Bytes of buffers and of the cache of pages, as /proc/meminfo has them.
fn memory() -> [u64; 2] {
    let text = fsio::read_text(Path::new("/proc/meminfo"), 64 << 10).ok().flatten().unwrap_or_default();
    ["Buffers:", "Cached:"].map(|name| field(&text, name).unwrap_or(0) * 1024)
}

/// The KiB behind a name.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse().ok())
}

impl Tables for CacheStat {
    const INTERVAL: Option<Duration> = Some(Duration::from_secs(1));

    fn text(rows: &Rows<Self>, _: &View) -> String {
        let pages = Pages::of(rows);
        let [buffers, cached] = memory().map(|bytes| bytes >> 20);
        format!(
            "{:>8} {:>8} {:>8} {:>8} {:>12} {:>10}\n{:>8} {:>8} {:>8} {:>7.2}% {buffers:>12} {cached:>10}\n",
            "HITS",
            "MISSES",
            "DIRTIES",
            "HITRATIO",
            "BUFFERS_MB",
            "CACHED_MB",
            pages.hits,
            pages.misses,
            pages.dirtied,
            pages.ratio() * 100.0
        )
    }

    fn json(rows: &Rows<Self>, _: &View) -> Map<String, Value> {
        let pages = Pages::of(rows);
        let [buffers, cached] = memory();
        let of = |key| rows.get(&key).map_or(0, |total| total.amount);
        let value = json!({
            "hits": pages.hits, "misses": pages.misses, "hit_ratio": pages.ratio(), "wanted": of(cache::WANTED),
            "added": of(cache::ADDED), "dirtied": pages.dirtied, "buffers_bytes": buffers, "cached_bytes": cached,
        });
        Map::from_iter([("pages".to_string(), value)])
    }

    fn metrics(rows: &Rows<Self>, _: &View) -> Vec<Metric> {
        let labels = |key: &u64| {
            let what = match *key {
                cache::WANTED => "wanted",
                cache::ADDED => "added",
                cache::DIRTIED => "dirtied",
                _ => "buffer_dirtied",
            };
            vec![("what", what.into())]
        };
        let help = "Pages of files that were wanted, added to the cache, and made dirty.";
        counters(rows, labels, &[("page_cache_pages_total", help, |total| total.amount as f64)])
    }
}

#[cfg(test)]
mod tests {
    use kld_ebpf::events::table::Total;

    use super::*;

    fn rows(pages: [u64; 4]) -> Rows<CacheStat> {
        let total = |amount| Total { count: 1, amount, time: 0 };
        (0..).zip(pages.map(total)).collect()
    }

    #[test]
    fn what_is_added_and_not_written_is_a_miss_and_the_rest_is_a_hit() {
        assert_eq!(Pages::of(&rows([100, 30, 10, 0])), Pages { hits: 80, misses: 20, dirtied: 10 });
        assert_eq!(Pages::of(&rows([100, 0, 0, 40])), Pages { hits: 60, misses: 0, dirtied: 0 });
        // Read ahead, and not wanted yet.
        assert_eq!(Pages::of(&rows([1, 32, 50, 0])), Pages { hits: 1, misses: 0, dirtied: 50 });
        assert_eq!((Pages::default().ratio(), Pages::of(&rows([4, 1, 0, 0])).ratio()), (0.0, 0.75));
    }

    #[test]
    fn memory_is_read_from_what_the_kernel_writes() {
        assert_eq!(field("MemFree: 1 kB\nCached:    12 kB\nSwapCached: 3 kB\n", "Cached:"), Some(12));
        assert_eq!(field("", "Cached:"), None);
    }
}
