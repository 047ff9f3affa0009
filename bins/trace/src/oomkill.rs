//! `oomkill`: which processes are killed for want of memory, and who asked for it.

use clap::{ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_core::ui::printable;
use kld_ebpf::probe::OomKill;
use serde_json::{Map, Value};

use crate::args::{common, wanted};
use crate::stream::{Lines, run as stream};
use crate::view::{View, comm};

pub const TOOL: Tool = Tool { name: "oomkill", about: kld_catalog::about("oomkill"), command, run };

fn command() -> Command {
    common(Command::new("oomkill")).after_help(
        "Examples:\n  oomkill\n  oomkill --container 0123456789ab\n  oomkill --json -n 1\n\n\
         The pages are the victim's whole address space. The flags that say whose follow who asked for memory.",
    )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    stream::<OomKill>(context, &wanted(matches)?, Vec::new())
}

impl Lines for OomKill {
    fn heading(_: &View) -> String {
        "Tracing OOM kills... Ctrl-C to stop.".into()
    }

    fn line(event: &OomKill, view: &mut View) -> String {
        let (task, time) = (&event.task, view.time_of_day(event.task.time));
        let victim = event.victim.as_ref().map_or_else(String::new, |victim| {
            format!(" (\"{}\"), {} pages", printable(&victim.comm), victim.pages)
        });
        format!(
            "{time} Triggered by PID {} (\"{}\"), OOM kill of PID {}{victim}, loadavg: {}",
            task.pid,
            comm(task),
            event.pid,
            load()
        )
    }

    fn json(event: &OomKill, view: &mut View) -> Map<String, Value> {
        let mut object = view.json(&event.task);
        let victim = event.victim.as_ref();
        let of = victim.and_then(|victim| view.owner_of(victim.cgroup));
        object.insert("victim_pid".into(), event.pid.into());
        object.insert("victim_comm".into(), victim.map(|victim| victim.comm.clone()).into());
        object.insert("victim_uid".into(), victim.map(|victim| victim.uid).into());
        object.insert("victim_cgroup".into(), victim.map(|victim| victim.cgroup).into());
        object.insert("victim_owner".into(), of.into());
        object.insert("victim_pages".into(), victim.map(|victim| victim.pages).into());
        object.insert("victim_oom_score_adj".into(), victim.map(|victim| victim.adjusted).into());
        object.insert("loadavg".into(), load().into());
        object
    }
}

/// The load of the host, as the kernel writes it.
fn load() -> String {
    let text = kld_core::fsio::read_text(std::path::Path::new("/proc/loadavg"), 4096);
    text.ok().flatten().unwrap_or_default().trim_end().to_string()
}

#[cfg(test)]
mod tests {
    use kld_ebpf::events::Task;
    use kld_ebpf::probe::Victim;

    use super::*;

    #[test]
    fn a_kill_is_told_with_what_the_kernel_knows_of_its_victim() {
        let mut comm = [0; 16];
        comm[..4].copy_from_slice(b"asks");
        let task = Task { time: 0, cgroup: 0, pid: 7, tid: 7, uid: 0, gid: 0, comm };
        let comm = "victim\u{1b}".to_string();
        let victim = Victim { comm, uid: 4, cgroup: 5, pages: 600, adjusted: -10 };
        let mut view = View::new(Vec::new(), false);
        let line = |victim, view: &mut View| OomKill::line(&OomKill { task, pid: 9, victim }, view);
        let told = line(Some(victim), &mut view);
        assert!(told.contains(" Triggered by PID 7 (\"asks\"), OOM kill of PID 9 (\"victim"), "{told}");
        assert!(told.contains("\"), 600 pages, loadavg: ") && !told.contains('\u{1b}'), "{told}");
        assert!(line(None, &mut view).contains("OOM kill of PID 9, loadavg: "));
    }
}
