#![allow(clippy::disallowed_types)]

mod bench;
mod rules;

use kld_core::store::conformance;

/// Each test of the suite on a store of its own, some at a time: most of their time they wait for QEMU's programs.
#[test]
fn the_directory_store_does_what_every_store_does() {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = || {
        while let Some((name, test)) =
            conformance::TESTS.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
        {
            let outcome = std::panic::catch_unwind(|| test(&bench::fresh));
            assert!(outcome.is_ok(), "violated: {name}");
        }
    };
    std::thread::scope(|scope| {
        (0..4).for_each(|_| drop(scope.spawn(work)));
    });
}
