//! Running programs whose output people watch as it comes.
#![allow(clippy::disallowed_types, reason = "kld_core::exec keeps the output to itself and limits the time")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use kld_core::error::Trying;
use kld_core::ui::{Ui, printable};
use kld_core::{Error, Result};

/// The workspace's folder.
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// `cargo`, the one that runs this.
pub fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(workspace());
    command
}

/// A program by name, from the usual folders.
pub fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    command.env("PATH", kld_core::exec::SEARCH_PATH);
    command
}

/// As [`watch`], and says how long it took.
pub fn time(ui: &Ui, command: Command) -> Result<()> {
    let (line, start) = (spell(&command), Instant::now());
    let watched = watch(ui, command);
    ui.note(format!("{line} took {:.1} s", start.elapsed().as_secs_f64()));
    watched
}

/// Says what is run, runs it with this terminal, and fails when it does.
pub fn watch(ui: &Ui, command: Command) -> Result<()> {
    watch_as(ui, &spell(&command), command)
}

/// The same, for a command that people would type as `line`.
pub fn watch_as(ui: &Ui, line: &str, mut command: Command) -> Result<()> {
    ui.line(format!("$ {line}"))?;
    let status = command.status().trying(|| format!("cannot run {line}"))?;
    match status.code() {
        Some(0) => Ok(()),
        Some(code) => Err(Error::failed(format!("{line} failed"), format!("exit code {code}"))),
        None => Err(Error::failed(format!("{line} failed"), "a signal ended it")),
    }
}

/// A command as one would type it.
pub fn spell(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    let quoted = words.map(|word| {
        let word = printable(&word.to_string_lossy());
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@+%".contains(c);
        if !word.is_empty() && word.chars().all(plain) {
            word
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_spelled_as_one_would_type_it() {
        let mut command = Command::new("/usr/bin/env");
        command.args(["A=b c", "it's", "", "plain/path"]);
        assert_eq!(spell(&command), r"env 'A=b c' 'it'\''s' '' plain/path");
    }
}
