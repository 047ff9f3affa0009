//! `profile`: what runs on the processors, by its stacks, from samples.

use clap::{ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_ebpf::events::stack::Of;
use kld_ebpf::events::table::Spell;
use kld_ebpf::probe::Profile;

use crate::args::{flag, frequency, frequency_of};
use crate::stacks::{self, Label, Stacks, common, sides, threads};

pub const TOOL: Tool = Tool { name: "profile", about: kld_catalog::about("profile"), command, run };

fn command() -> Command {
    common(Command::new("profile"))
        .args(sides())
        .args(threads())
        .args([
            frequency("49"),
            flag("include-idle", 'I', "Processors that have nothing to do too"),
        ])
        .after_help(
            "Examples:\n  profile 10\n  profile -F 99 -p 1234 -d 30 --flame on.svg\n  profile -f -U 10\n\n\
             How often each stack was found, the most often last. The number of samples in a second is of each \
             processor; an odd one keeps out of step with what is done a hundred times a second.",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let mut wanted = stacks::wanted::<Profile>(matches)?;
    wanted.filter.frequency = frequency_of(matches)?;
    if matches.get_flag("include-idle") {
        wanted.filter.switches |= Profile::IDLE;
    }
    stacks::run::<Profile>(context, matches, &wanted)
}

impl Stacks for Profile {
    const FLAME: (&'static str, &'static str) = ("On-CPU samples", "samples");

    fn number(spent: &Spell) -> u64 {
        spent.count
    }

    fn label(key: &Of) -> Label {
        Label::of_task(key)
    }
}
