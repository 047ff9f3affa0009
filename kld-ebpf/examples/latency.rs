//! Tells each second how long block devices took: the 99th percentile in microseconds, disk by disk.
#![allow(clippy::print_stdout, reason = "an example prints")]

use std::time::Duration;

use kld_ebpf::probe::BioLatency;
use kld_ebpf::{Filter, Table, events};

fn main() -> kld_core::Result<()> {
    let filter = Filter { switches: BioLatency::BY_DISK, ..Filter::all() };
    let mut table = Table::<BioLatency>::start(&filter)?;
    loop {
        std::thread::sleep(Duration::from_secs(1));
        for (kind, histogram) in table.take()? {
            println!("{} {}", events::text(&kind.name), histogram.quantile(990));
        }
    }
}
