//! Which of the tools start on this kernel at all, kld's and the peers'.

use std::time::Duration;

use kld_core::ui::Ui;
use kld_core::{Error, Result};

use super::side::{PEERS, Side, Sides};
use super::watched::Watched;
use crate::bench::Row;
use crate::build;

/// How long a tool must go on. bcc compiles its programs at every start.
const SETTLING: Duration = Duration::from_secs(10);
/// So many tools of all sides run at once.
const AT_ONCE: usize = 3;

/// Prints a table; nothing is compared.
pub fn run(ui: &Ui) -> Result<Vec<Row>> {
    let sides = Sides::prepare(&build::release()?, ui)?;
    let names: Vec<String> =
        PEERS.iter().map(|side| format!("{} {}", side.package(), sides.version(*side))).collect();
    ui.line(format!("| tool | kld | {} |", names.join(" | ")))?;
    ui.line(format!("|---|---|{}", "---|".repeat(PEERS.len())))?;
    let mut notes = Vec::new();
    for tools in kld_catalog::TRACE.tools.chunks(AT_ONCE) {
        let mut started: Vec<Vec<(Side, Option<Result<Watched>>)>> = Vec::new();
        for entry in tools {
            let start = |side| (side, sides.command(side, entry.name, &[]).map(Watched::start));
            started.push([Side::Kld].into_iter().chain(PEERS).map(start).collect());
        }
        std::thread::sleep(SETTLING);
        for (entry, sides) in tools.iter().zip(started) {
            let mut cell = |(side, tool): (Side, Option<Result<Watched>>)| match tool.map(goes_on) {
                None => "-",
                Some(Ok(())) => "starts",
                Some(Err(error)) => {
                    notes.push(format!("{} of {}: {error}", entry.name, side.package()));
                    "**fails**"
                }
            };
            let cells: Vec<&str> = sides.into_iter().map(&mut cell).collect();
            ui.line(format!("| {} | {} |", entry.name, cells.join(" | ")))?;
        }
    }
    notes.iter().for_each(|note| ui.note(note));
    Ok(Vec::new())
}

fn goes_on(tool: Result<Watched>) -> Result<()> {
    let mut tool = tool?;
    tool.settle(Duration::from_millis(1))?;
    match tool.stop() {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::failed("it does not end", error)),
    }
}
