//! `capable`: which capabilities the kernel looks for, in whom, and whether they are there.

use clap::{Arg, ArgAction, ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_ebpf::probe::Capable;
use serde_json::{Map, Value};

use crate::args::{common, flag, wanted};
use crate::stream::{Lines, run as stream, set_flags};
use crate::view::{Extra, View, comm};

pub const TOOL: Tool = Tool { name: "capable", about: kld_catalog::about("capable"), command, run };

const EXTRA: &[Extra] = &[("owner", 16, "OWNER")];

fn command() -> Command {
    common(Command::new("capable"))
        .args([
            flag("extra", 'x', "Show the thread and the user namespace too"),
            flag("failed", 'f', "Only what was refused"),
            flag("owner", 'o', "Show the container or machine"),
            Arg::new("unique")
                .long("unique")
                .action(ArgAction::SetTrue)
                .help("Tell a process's capability once, and once more if it is answered otherwise"),
        ])
        .after_help(
            "Examples:\n  capable --unique\n  capable -f -p 1234\n  capable --container 0123456789ab --unique --json\n\n\
             It needs kernel 6.14. RESULT is 'yes' where the task has the capability; the kernel also looks for those that it \
             can do without.",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let mut wanted = wanted(matches)?;
    let flags = set_flags(matches, &["extra", "failed", "owner", "unique"]);
    for (flag, switch) in [("failed", Capable::FAILED), ("unique", Capable::ONCE)] {
        if flags.contains(&flag) {
            wanted.filter.switches |= switch;
        }
    }
    stream::<Capable>(context, &wanted, flags)
}

impl Lines for Capable {
    fn heading(view: &View) -> String {
        let thread = if view.has("extra") { format!("{:<7} ", "TID") } else { String::new() };
        let namespace = if view.has("extra") { " USERNS" } else { "" };
        let names = ["TIME", "UID", "PID", "COMM", "CAP", "NAME", "RESULT"];
        view.extra_heading(EXTRA)
            + &format!("{:<9} {:<6} {:<7} {thread}", names[0], names[1], names[2])
            + &format!("{:<16} {:<4} {:<22} {:<6}{namespace}", names[3], names[4], names[5], names[6])
    }

    fn line(event: &Capable, view: &mut View) -> String {
        let (task, time) = (&event.task, view.time_of_day(event.task.time));
        let (thread, namespace) = match view.has("extra") {
            true => (format!("{:<7} ", task.tid), format!(" {}", event.namespace)),
            false => (String::new(), String::new()),
        };
        let result = if event.granted { "yes" } else { "no" };
        let own = format!("{time:<9} {:<6} {:<7} {thread}", task.uid, task.pid);
        let what = format!("{:<16} {:<4} {:<22} {result:<6}", comm(task), event.capability, event.name());
        view.extra(EXTRA, task) + &own + what.trim_end() + &namespace
    }

    fn json(event: &Capable, view: &mut View) -> Map<String, Value> {
        let mut object = view.json(&event.task);
        object.insert("capability".into(), event.capability.into());
        object.insert("name".into(), event.name().into());
        object.insert("granted".into(), event.granted.into());
        object.insert("userns".into(), event.namespace.into());
        object
    }
}
