//! `drsnoop`: which tasks must free memory before they get some, and how long that takes.

use clap::{ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_ebpf::probe::Reclaim;
use serde_json::{Map, Value};

use crate::args::{common, flag, wanted};
use crate::stream::{Lines, run as stream, set_flags};
use crate::view::{Extra, View, comm};

pub const TOOL: Tool = Tool { name: "drsnoop", about: kld_catalog::about("drsnoop"), command, run };

const EXTRA: &[Extra] = &[("timestamp", 13, "TIME(s)"), ("print-uid", 5, "UID"), ("owner", 16, "OWNER")];

fn command() -> Command {
    common(Command::new("drsnoop"))
        .args([
            flag("timestamp", 'T', "Show when, in seconds since the tool began"),
            flag("print-uid", 'U', "Show the user"),
            flag("memcg", 'm', "At a control group's limit too, and a column LIMIT that says whose it was"),
            flag("owner", 'o', "Show the container or machine"),
        ])
        .after_help(
            "Examples:\n  drsnoop\n  drsnoop -m -o\n  drsnoop -T -p 1234 --json\n\n\
             LAT is how long the task had to wait, PAGES how many pages were freed meanwhile.",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let mut wanted = wanted(matches)?;
    let flags = set_flags(matches, &["timestamp", "print-uid", "memcg", "owner"]);
    if flags.contains(&"memcg") {
        wanted.filter.switches |= Reclaim::GROUPS;
    }
    stream::<Reclaim>(context, &wanted, flags)
}

/// Whose limit it was.
fn limit(event: &Reclaim) -> &'static str {
    if event.group { "group" } else { "host" }
}

impl Lines for Reclaim {
    fn heading(view: &View) -> String {
        let limit = if view.has("memcg") { " LIMIT" } else { "" };
        let own = format!("{:<14} {:<6} {:>8} {:>5}{limit}", "COMM", "PID", "LAT(ms)", "PAGES");
        view.extra_heading(EXTRA) + &own
    }

    fn line(event: &Reclaim, view: &mut View) -> String {
        let (task, ms, pages) = (&event.task, event.lasted.as_secs_f64() * 1e3, event.pages);
        let limit = if view.has("memcg") { format!(" {}", limit(event)) } else { String::new() };
        let own = format!("{:<14.14} {:<6} {ms:>8.2} {pages:>5}{limit}", comm(task), task.pid);
        view.extra(EXTRA, task) + &own
    }

    fn json(event: &Reclaim, view: &mut View) -> Map<String, Value> {
        let mut object = view.json(&event.task);
        object.insert("latency_s".into(), event.lasted.as_secs_f64().into());
        object.insert("pages".into(), event.pages.into());
        object.insert("order".into(), event.order.into());
        object.insert("limit".into(), limit(event).into());
        object
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kld_ebpf::events::Task;

    use super::*;

    #[test]
    fn a_wait_stands_in_its_columns() {
        let task =
            Task { time: 0, cgroup: 0, pid: 907, tid: 907, uid: 0, gid: 0, comm: *b"a-long-enough-n\0" };
        let lasted = Duration::from_micros(1320);
        let event = Reclaim { task, lasted, pages: 64, order: 0, group: true };
        let mut view = View::new(vec!["memcg"], false);
        assert_eq!(Reclaim::heading(&view), "COMM           PID     LAT(ms) PAGES LIMIT");
        assert_eq!(Reclaim::line(&event, &mut view), "a-long-enough- 907        1.32    64 group");
    }
}
