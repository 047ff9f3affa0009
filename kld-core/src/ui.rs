//! What a tool shows: data on stdout, everything else on stderr; tables for people, JSON for programs.
//!
//! Writing to a closed pipe gives [`Error::ClosedPipe`], which ends a tool quietly.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use serde::Serialize;

use crate::error::Trying;
use crate::{Error, Result};

/// How a tool speaks, from its `--json` and `--quiet` flags.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ui {
    /// Data as JSON instead of text and tables.
    pub json: bool,
    /// No notes and no progress on stderr; errors still.
    pub quiet: bool,
}

impl Ui {
    /// Writes a line of text on stdout.
    pub fn line(&self, text: impl std::fmt::Display) -> Result<()> {
        out(format!("{text}\n").as_bytes())
    }

    /// Writes bytes on stdout as they are.
    pub fn raw(&self, bytes: &[u8]) -> Result<()> {
        out(bytes)
    }

    /// Writes a value as pretty JSON on stdout.
    pub fn json(&self, value: &impl Serialize) -> Result<()> {
        let mut text =
            serde_json::to_vec_pretty(value).map_err(|cause| Error::failed("cannot write JSON", cause))?;
        text.push(b'\n');
        out(&text)
    }

    /// Writes a table on stdout: a heading, then rows, in columns two spaces apart as `virsh list` and
    /// `zfs list` have them. Nothing but the heading where there are no rows.
    pub fn table<const N: usize>(&self, heading: [&str; N], rows: &[[String; N]]) -> Result<()> {
        let mut builder = tabled::builder::Builder::default();
        builder.push_record(heading);
        for row in rows {
            builder.push_record(row.iter().map(|cell| printable(cell)));
        }
        let mut table = builder.build();
        table.with(tabled::settings::Style::empty());
        table.with(tabled::settings::Padding::new(0, 2, 0, 0));
        let text: String = table.to_string().lines().map(|line| format!("{}\n", line.trim_end())).collect();
        out(text.as_bytes())
    }

    /// A remark for people on stderr, such as `note: undid an interrupted clone`.
    pub fn note(&self, text: impl std::fmt::Display) {
        if !self.quiet {
            err(&format!("note: {text}\n"));
        }
    }

    /// Where the time went, on stderr.
    pub fn timings(&self, phases: &[(&str, Duration)]) {
        for (name, time) in phases {
            err(&format!("timing: {name:<16} {:>8.2} ms\n", time.as_secs_f64() * 1e3));
        }
    }

    /// An error and its hint on stderr.
    pub fn error(&self, error: &Error) {
        if matches!(error, Error::Found | Error::ClosedPipe) {
            return;
        }
        err(&format!("error: {error}\n"));
        if let Some(hint) = error.hint() {
            err(&format!("hint: {hint}\n"));
        }
    }

    /// A spinner on stderr with a message, shown on a terminal only; it is gone when dropped.
    pub fn progress(&self, message: impl Into<String>) -> Progress {
        let shown = !self.quiet && !self.json && std::io::stderr().is_terminal();
        Progress(shown.then(|| {
            let bar = indicatif::ProgressBar::new_spinner();
            bar.set_message(message.into());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        }))
    }
}

/// A progress display; see [`Ui::progress`].
#[derive(Debug)]
pub struct Progress(Option<indicatif::ProgressBar>);

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// Text from a guest or a foreign definition must not move a terminal's cursor or change its colours.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn out(bytes: &[u8]) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Error::ClosedPipe),
        // A descriptor that was closed before the start reads as "bad file descriptor".
        Err(error) if error.raw_os_error() == Some(nix::libc::EBADF) => Err(Error::ClosedPipe),
        other => other.trying(|| "cannot write to standard output".to_string()),
    }
}

fn err(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
