//! `offcputime`: where tasks leave the processor, and for how long.

use clap::{Arg, ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_ebpf::events::stack::Of;
use kld_ebpf::probe::OffCpu;

use crate::stacks::{self, Label, Stacks, bounds, common, sides, threads};

pub const TOOL: Tool = Tool { name: "offcputime", about: kld_catalog::about("offcputime"), command, run };

fn command() -> Command {
    common(Command::new("offcputime"))
        .args(sides())
        .args(threads())
        .args(bounds())
        .arg(
            Arg::new("state")
                .long("state")
                .value_name("STATE")
                .value_parser(clap::value_parser!(u32).range(..=255))
                .help("Only tasks that left in this state: 0 could have gone on, 1 sleeps, 2 cannot be interrupted"),
        )
        .after_help(
            "Examples:\n  offcputime 5\n  offcputime -p 1234 -d 30 --flame off.svg\n  offcputime -K --state 2 10\n  \
             offcputime -f -m 1000 10\n\n\
             Microseconds, the longest last. The stack is that with which a task has left the processor. A task that \
             is still away at the end is not counted.",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let mut wanted = stacks::wanted::<OffCpu>(matches)?;
    let state = matches.get_one::<u32>("state").copied();
    wanted.filter.numbers.extend(state.map(|state| (OffCpu::ONLY_STATE, state)));
    stacks::run::<OffCpu>(context, matches, &wanted)
}

impl Stacks for OffCpu {
    const FLAME: (&'static str, &'static str) = ("Off-CPU time", "us");

    fn label(key: &Of) -> Label {
        Label::of_task(key)
    }
}
