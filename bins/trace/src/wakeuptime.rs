//! `wakeuptime`: who wakes tasks that sleep, after how long, and where.

use clap::{ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_core::ui::printable;
use kld_ebpf::events::stack::Wakeup;
use kld_ebpf::events::text;
use kld_ebpf::probe::{Stacked, WakeupTime};
use serde_json::{Map, Value};

use crate::args::flag;
use crate::stacks::{self, Label, Stacks, bounds, common, threads};

pub const TOOL: Tool = Tool { name: "wakeuptime", about: kld_catalog::about("wakeuptime"), command, run };

fn command() -> Command {
    common(Command::new("wakeuptime"))
        .args(threads())
        .args(bounds())
        .arg(flag("user-stacks", 'S', "Show the waking program's own calls too"))
        .after_help(
            "Examples:\n  wakeuptime 5\n  wakeuptime -p 1234 -d 30 --flame wakeups.svg\n  wakeuptime -f -m 1000 10\n\n\
             Microseconds that the target has slept, the longest last, with the stack of who has woken it. An interrupt \
             wakes in the name of whoever runs then. The flags that say whose follow the task that sleeps.",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let mut wanted = stacks::wanted::<WakeupTime>(matches)?;
    if !matches.get_flag("user-stacks") {
        wanted.filter.switches |= WakeupTime::NO_USER;
    }
    stacks::run::<WakeupTime>(context, matches, &wanted)
}

impl Stacks for WakeupTime {
    const FLAME: (&'static str, &'static str) = ("Wakeup time", "us");

    fn label(key: &Wakeup) -> Label {
        let [waker, target] = [&key.waker_comm, &key.woken_comm].map(|comm| printable(text(comm)));
        let json = [
            ("waker_pid", Value::from(key.waker)),
            ("waker_comm", text(&key.waker_comm).into()),
            ("pid", key.woken.into()),
            ("comm", text(&key.woken_comm).into()),
        ];
        Label {
            above: Some(format!("{:<16} {target} ({})", "target:", key.woken)),
            below: format!("{:<16} {waker} ({})", "waker:", key.waker),
            first: waker,
            last: Some(target),
            json: Map::from_iter(json.map(|(name, value)| (name.to_string(), value))),
        }
    }
}
