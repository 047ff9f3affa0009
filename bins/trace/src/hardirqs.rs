//! `hardirqs`: how much time devices' interrupts take.

use clap::{ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_ebpf::probe::{HardIrqDist, HardIrqs};

use crate::irq;

pub const TOOL: Tool = Tool { name: "hardirqs", about: kld_catalog::about("hardirqs"), command, run };

fn command() -> Command {
    irq::command(
        "hardirqs",
        "Examples:\n  hardirqs 1 10\n  hardirqs -C -d 30\n  hardirqs -D --quantiles -N 5\n  hardirqs --json 1\n\n\
         The flags that say whose follow who was interrupted. Interrupts that no handler of a device serves, as those \
         of the processor's own timer, have no handler here.",
    )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    irq::run::<HardIrqs, HardIrqDist>(context, matches)
}
