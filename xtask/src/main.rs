#![deny(missing_docs)]
//! The project's own errands: `cargo xtask setup`, `demo`, `test`, `bench`, `lab`, `kernels`, `generate`, `clean-room`.
//!
//! It needs Rust and a C linker only, since its first errand is to fetch the rest.

mod bench;
mod build;
mod clean_room;
mod demo;
mod generate;
mod kernels;
mod lab;
mod setup;
mod shell;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use kld_core::tool::report;
use kld_core::ui::Ui;

/// The project's own errands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    errand: Errand,
}

#[derive(Subcommand)]
enum Errand {
    Setup(setup::Args),
    Demo(demo::Args),
    Test(test::Args),
    Bench(bench::Args),
    Generate(generate::Args),
    Kernels(kernels::Args),
    Lab(lab::Args),
    CleanRoom(clean_room::Args),
    #[command(hide = true)]
    BenchLoad(bench::ebpf::load::Args),
}

fn main() -> ExitCode {
    let ui = Ui::default();
    let outcome = match Args::parse().errand {
        Errand::Setup(args) => setup::run(&args, &ui),
        Errand::Demo(args) => demo::run(&args, &ui),
        Errand::Test(args) => test::run(&args, &ui),
        Errand::Bench(args) => bench::run(&args),
        Errand::Generate(args) => generate::run(&args, &ui),
        Errand::Kernels(args) => kernels::run(&args, &ui),
        Errand::Lab(args) => match lab::run(&args, &ui) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Errand::CleanRoom(args) => clean_room::run(&args, &ui),
        Errand::BenchLoad(args) => bench::ebpf::load::run(&args),
    };
    report(&ui, outcome)
}
