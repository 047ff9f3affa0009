//! Which tests run inside a lab, all in one that is started once.

use kld_build::Agent;
use kld_core::ui::Ui;
use kld_core::{Error, Result};
use kld_lab::zfs_2_1;

use super::inside::{self, Run};

/// A test program of a package, as it runs inside the lab.
struct Suite {
    /// The package.
    package: &'static str,
    /// The test program: the name of a file or a folder in the package's `tests`.
    test: &'static str,
    /// The features of the package with which it is built.
    features: &'static [&'static str],
    /// What it is told, such as a part of a test's name.
    arguments: &'static [&'static str],
    /// What it finds in its environment beyond `KLD_LAB=1`, and `KLD_FULL=1` with `--full`.
    environment: &'static [(&'static str, &'static str)],
    /// Whether `cargo xtask test` runs it, or `--full` alone.
    when: When,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Always,
    Full,
}

/// The suites, in the order in which they run.
const SUITES: &[Suite] = &[
    suite("kld-zfs", "lab"),
    suite("kld-zfs", "sick"),
    Suite { features: &["libzetta"], arguments: &["libzetta::"], ..long("kld-zfs", "lab") },
    Suite {
        arguments: &["openzfs_2_1"],
        environment: &[("KLD_ZFS_2_1", zfs_2_1::INSIDE)],
        ..long("kld-zfs", "sick")
    },
    long("kld-cli-tests", "book"),
    long("kld-cli-tests", "refusals"),
    long("kld-cli-tests", "faults"),
    long("kld-bin-trace", "wg_leaks"),
    // What only a lab has: guests of KVM and files on ZFS.
    Suite { arguments: &["guest::", "zfs::"], ..long("kld-ebpf", "kernel") },
    long("kld-machine-tests", "hook"),
    long("kld-machine-tests", "io"),
    long("kld-machine-tests", "tour"),
    long("kld-machine-tests", "at_once"),
];

/// A suite that is always run, as it is.
const fn suite(package: &'static str, test: &'static str) -> Suite {
    Suite { package, test, features: &[], arguments: &[], environment: &[], when: When::Always }
}

/// A suite that takes too long for every run.
const fn long(package: &'static str, test: &'static str) -> Suite {
    Suite { when: When::Full, ..suite(package, test) }
}

/// Runs them, all also after a failure.
pub fn run(agent: &Agent, full: bool, ui: &Ui) -> Result<()> {
    let mut failed = Vec::new();
    for suite in SUITES.iter().filter(|suite| full || suite.when == When::Always) {
        let arguments = suite.arguments.iter().chain(&["--nocapture"]).map(ToString::to_string).collect();
        let more = full.then_some(&("KLD_FULL", "1"));
        let environment = suite.environment.iter().chain(more);
        let environment = environment.map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let features = suite.features.iter().flat_map(|feature| ["--features", feature]);
        let build = ["--package", suite.package, "--test", suite.test].into_iter().chain(features).collect();
        if let Err(error) = inside::test(agent, &Run { build, arguments, environment }, ui) {
            ui.note(error);
            failed.push(suite.package);
        }
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(Error::failed("tests failed in the lab", failed.join(", "))),
    }
}
