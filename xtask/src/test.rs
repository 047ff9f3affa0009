//! `cargo xtask test`: everything that tells whether the work is good.

use kld_core::Result;
use kld_core::ui::Ui;

use crate::{generate, lab, setup, shell};

/// Set up what is missing and run every check and test
#[derive(clap::Args)]
pub struct Args {
    /// Also run what takes hours: every kill point and every point of interruption, on every engine
    #[arg(long)]
    full: bool,
    /// Install missing packages without asking
    #[arg(long, short)]
    yes: bool,
}

/// What cargo is told to do, in this order.
const STEPS: &[&[&str]] = &[
    &["fmt", "--all", "--check"],
    &["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"],
    // What is off by default is kept in order too; nothing is linked.
    &["clippy", "--package=kld-zfs", "--features=libzetta", "--all-targets", "--quiet", "--", "-Dwarnings"],
    // The tests run the built tools, which `cargo test` alone does not build for every package.
    &["build", "--workspace", "--bins"],
];

pub fn run(args: &Args, ui: &Ui) -> Result<()> {
    setup::install(args.yes, ui)?;
    for step in STEPS {
        shell::time(ui, shell::cargo(step))?;
    }
    generate::run(&generate::Args::check(), ui)?;
    // Here, so that a host where it cannot be made says so before the tests have run.
    lab::build(ui)?;
    let mut test = shell::cargo(&["test", "--workspace"]);
    if args.full {
        // Every kill point, where the short run samples them.
        test.env("KLD_FULL", "1");
    }
    shell::time(ui, test)?;
    if args.full {
        // The short run looks at a digest of their sources only: building the linker takes minutes.
        generate::ebpf::run(&generate::ebpf::Args::check(), ui)?;
    }
    lab::test(args.full, ui)
}
