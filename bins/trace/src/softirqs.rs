//! `softirqs`: how much time the kernel's deferred work takes.

use clap::{ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_ebpf::probe::{SoftIrqDist, SoftIrqs};

use crate::irq;

pub const TOOL: Tool = Tool { name: "softirqs", about: kld_catalog::about("softirqs"), command, run };

fn command() -> Command {
    irq::command(
        "softirqs",
        "Examples:\n  softirqs 1 10\n  softirqs -C -d 30\n  softirqs -D --quantiles 5\n  softirqs --json 1\n\n\
         The flags that say whose follow who was interrupted. The time includes that of devices' interrupts that come \
         meanwhile.",
    )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    irq::run::<SoftIrqs, SoftIrqDist>(context, matches)
}
