//! Tools that print a line for each event.

use std::time::Instant;

use clap::ArgMatches;
use kld_core::Result;
use kld_core::timing::phase;
use kld_core::tool::Context;
use kld_ebpf::{Btf, Probe, Tracer};
use serde_json::{Map, Value};

use crate::args::Wanted;
use crate::view::View;
use crate::{stats, stop};

/// So much is gathered before it is written: a write for each event would be most of what a tool costs.
const BATCH: usize = 64 << 10;

/// A probe whose events are lines.
pub trait Lines: Probe {
    /// The names of the columns, as bcc's tool has them.
    fn heading(view: &View) -> String;
    /// What the columns need to name what is in an event, made once.
    fn prepare(_: &Btf, _: &mut View) {}
    /// An event in these columns.
    fn line(event: &Self::Event, view: &mut View) -> String;
    /// An event for programs.
    fn json(event: &Self::Event, view: &mut View) -> Map<String, Value>;
}

/// The names of those flags that are set.
pub fn set_flags(matches: &ArgMatches, names: &[&'static str]) -> Vec<&'static str> {
    names.iter().copied().filter(|name| matches.get_flag(name)).collect()
}

/// Runs a probe until its time, its count or a signal ends it, and prints what it tells.
pub fn run<P: Lines>(context: &Context, wanted: &Wanted, flags: Vec<&'static str>) -> Result<()> {
    stop::on_signals();
    let owners = context.ui.json || flags.contains(&"owner");
    let mut view = View::new(flags, owners);
    let btf = phase("btf", Btf::of_kernel)?;
    P::prepare(&btf, &mut view);
    let mut tracer = Tracer::<P>::start_on(&btf, &wanted.filter)?;
    drop(btf);
    if wanted.stats {
        tracer.measure()?;
    }
    if let Some(duration) = wanted.duration {
        tracer.stop_at(Instant::now() + duration);
    }
    let mut out = String::new();
    if !context.ui.json {
        out += &P::heading(&view);
        out.push('\n');
    }
    let mut left = wanted.count.unwrap_or(u64::MAX);
    loop {
        while left > 0
            && out.len() < BATCH
            && let Some(event) = tracer.poll()
        {
            out += &match context.ui.json {
                true => Value::Object(P::json(&event, &mut view)).to_string(),
                false => P::line(&event, &mut view),
            };
            out.push('\n');
            left -= 1;
        }
        let full = out.len() >= BATCH;
        if !out.is_empty() {
            context.ui.raw(out.as_bytes())?;
            out.clear();
        }
        // The end is looked for after each batch: there may never be a moment without events.
        if left == 0 || !full && tracer.is_detached() {
            break;
        }
        if !tracer.is_detached() && (tracer.is_over() || stop::is_asked()) {
            tracer.detach();
        } else if !full {
            tracer.pause();
        }
    }
    tracer.detach();
    stats::report_places(context, &view);
    stats::report(context, tracer.running(), tracer.counts()?, wanted.stats)
}
