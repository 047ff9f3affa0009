//! `--stats`: what was seen, what was lost, and what it has cost.

use kld_core::Result;
use kld_core::tool::Context;
use kld_ebpf::Running;
use kld_ebpf::events::Counts;
use nix::sys::resource::{UsageWho, getrusage};
use serde_json::{Value, json};

use crate::place::Places;
use crate::view::View;

/// Tells of losses, and with `--stats` of everything.
pub fn report(context: &Context, running: &Running, counts: Counts, all: bool) -> Result<()> {
    report_why(context, running, counts, "they came faster than they were read", all)
}

/// The same of a table.
pub fn report_table(context: &Context, running: &Running, counts: Counts, all: bool) -> Result<()> {
    report_why(context, running, counts, "the table had no room for more keys", all)
}

/// Tells why volumes are told by their disks' names only.
pub fn report_places(context: &Context, view: &View) {
    if let Some(failure) = view.places.as_ref().and_then(Places::failure) {
        context.ui.note(failure);
    }
}

fn report_why(context: &Context, running: &Running, counts: Counts, why: &str, all: bool) -> Result<()> {
    if counts.lost > 0 {
        let cpus = running.counts_by_cpu()?;
        let lossy = cpus.iter().enumerate().filter(|(_, counts)| counts.lost > 0);
        let where_: Vec<String> = lossy.map(|(cpu, counts)| format!("CPU {cpu}: {}", counts.lost)).collect();
        context.ui.note(format!(
            "{} of {} events were lost, since {why} ({})",
            counts.lost,
            counts.seen,
            where_.join(", ")
        ));
    }
    let missed = running.missed()?;
    if missed > 0 {
        context
            .ui
            .note(format!("{missed} events were not looked at, since they interrupted the same program"));
    }
    if !all {
        return Ok(());
    }
    let cost = running.cost()?;
    let kernel: f64 = cost.iter().map(|(_, cost)| cost.time.as_secs_f64()).sum();
    let runs: u64 = cost.iter().map(|(_, cost)| cost.runs).sum();
    let (cpu, memory) = own();
    let each = if counts.seen > 0 { kernel * 1e9 / counts.seen as f64 } else { 0.0 };
    if context.ui.json {
        let value = json!({"stats": {
            "seen": counts.seen, "lost": counts.lost, "missed": missed, "cpu_s": cpu, "memory_bytes": memory,
            "kernel_s": kernel, "runs": runs,
            "programs": cost.iter().map(|(name, cost)| json!({
                "name": name, "runs": cost.runs, "kernel_s": cost.time.as_secs_f64(),
            })).collect::<Vec<Value>>(),
        }});
        return context.ui.line(value);
    }
    context.ui.note(format!("{} events seen, {} lost", counts.seen, counts.lost));
    context.ui.note(format!(
        "{:.1} ms in the kernel, in {runs} runs, {each:.0} ns an event; {:.1} ms and {:.1} MB in this process",
        kernel * 1e3,
        cpu * 1e3,
        memory as f64 / 1e6
    ));
    Ok(())
}

/// This process's own time on the processors in seconds, and the most memory it has had in bytes.
fn own() -> (f64, u64) {
    getrusage(UsageWho::RUSAGE_SELF).map_or((0.0, 0), |usage| {
        let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        (seconds(usage.user_time()) + seconds(usage.system_time()), usage.max_rss() as u64 * 1024)
    })
}
