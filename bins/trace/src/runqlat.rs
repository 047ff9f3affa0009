//! `runqlat`: how long tasks wait for a processor.

use clap::{ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_ebpf::probe::RunqLat;

use crate::args::wanted;
use crate::histogram::{Distribution, Labels, by_task, task_labels};
use crate::stream::set_flags;
use crate::tables::{self, common, times};
use crate::view::View;

pub const TOOL: Tool = Tool { name: "runqlat", about: kld_catalog::about("runqlat"), command, run };

const FLAGS: &[&str] = &["timestamp", "milliseconds", "quantiles", "pids", "tids"];

fn command() -> Command {
    common(Command::new("runqlat"))
        .args(times())
        .args(by_task())
        .after_help(
            "Examples:\n  runqlat 1 10\n  runqlat -P -m -d 30\n  runqlat -p 1234 --json 5\n  \
             runqlat --prometheus /var/lib/node_exporter/runqlat.prom\n\n\
             A wait begins when a task is woken, or loses the processor while it could go on, and ends when it gets \
             one. The flags that say whose follow the task that waits.",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let flags = set_flags(matches, FLAGS);
    let mut wanted = wanted(matches)?;
    let own = [("pids", RunqLat::BY_PROCESS), ("tids", RunqLat::BY_THREAD)];
    wanted.filter.switches |= tables::switches(&flags, &own);
    tables::run::<RunqLat>(context, matches, &wanted, flags)
}

impl Distribution for RunqLat {
    fn metric(_: &View) -> (&'static str, &'static str) {
        ("runqueue_wait", "How long tasks that could run waited for a processor.")
    }

    fn labels(key: &u64, view: &View) -> Labels {
        task_labels(*key, view)
    }
}
