//! The engines and the store on a real pool. Elsewhere than in the lab (`KLD_LAB=1`) these tests say so and do nothing.
#![allow(clippy::print_stderr, clippy::disallowed_types, clippy::disallowed_methods)]

mod bench;

use std::sync::Arc;
use std::time::Instant;

use kld_core::store::conformance;
use kld_zfs::engine::{Engine, Library, Programs};

use bench::{Pool, in_lab};

/// Runs the store's suite, or those of its tests whose names hold what `KLD_ONLY` says.
fn conforms(engine: fn() -> Arc<dyn Engine>) {
    if !in_lab() {
        return;
    }
    let pool = Pool::get();
    let only = std::env::var("KLD_ONLY").unwrap_or_default();
    let mut failed = Vec::new();
    for (name, test) in conformance::TESTS.iter().filter(|(name, _)| name.contains(&only)) {
        let start = Instant::now();
        let make = || -> Box<dyn conformance::Bench> { Box::new(pool.bench(engine())) };
        let run = std::panic::AssertUnwindSafe(|| test(&make));
        let good = std::panic::catch_unwind(run).is_ok();
        eprintln!("{} {name} {:.1} s", if good { "ok    " } else { "FAILED" }, start.elapsed().as_secs_f64());
        if !good {
            failed.push(*name);
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn the_store_on_the_library_does_what_every_store_does() {
    conforms(|| Arc::new(Library::load().unwrap()));
}

#[test]
fn the_store_on_the_programs_does_what_every_store_does() {
    conforms(|| Arc::new(Programs::new()));
}

#[test]
fn the_store_on_the_programs_without_json_does_what_every_store_does() {
    conforms(|| Arc::new(Programs::without_json()));
}
