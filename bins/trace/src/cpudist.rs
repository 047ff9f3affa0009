//! `cpudist`: how long tasks run before they leave the processor, or how long they are away from it.

use clap::{ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_ebpf::probe::CpuDist;

use crate::args::{flag, wanted};
use crate::histogram::{Distribution, Labels, by_task, task_labels};
use crate::stream::set_flags;
use crate::tables::{self, common, times};
use crate::view::View;

pub const TOOL: Tool = Tool { name: "cpudist", about: kld_catalog::about("cpudist"), command, run };

const FLAGS: &[&str] = &["timestamp", "milliseconds", "quantiles", "pids", "tids", "offcpu"];

fn command() -> Command {
    common(Command::new("cpudist"))
        .args(times())
        .args(by_task())
        .arg(flag(
            "offcpu",
            'O',
            "How long tasks are away from the processor instead: asleep, or waiting for it",
        ))
        .after_help(
            "Examples:\n  cpudist 1 10\n  cpudist -P -d 30\n  cpudist -O -m -p 1234\n  cpudist --json 5\n\n\
             Times that are not over when the tool ends are not counted. The idle task is nobody's.",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let flags = set_flags(matches, FLAGS);
    let mut wanted = wanted(matches)?;
    let own = [("pids", CpuDist::BY_PROCESS), ("tids", CpuDist::BY_THREAD), ("offcpu", CpuDist::OFF)];
    wanted.filter.switches |= tables::switches(&flags, &own);
    tables::run::<CpuDist>(context, matches, &wanted, flags)
}

impl Distribution for CpuDist {
    fn metric(view: &View) -> (&'static str, &'static str) {
        match view.has("offcpu") {
            true => ("off_cpu", "How long tasks were away from the processor."),
            false => ("on_cpu", "How long tasks ran before they left the processor."),
        }
    }

    fn labels(key: &u64, view: &View) -> Labels {
        task_labels(*key, view)
    }
}
