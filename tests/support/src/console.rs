//! A machine's serial console, as a program that is connected to it shows it.
#![allow(clippy::disallowed_types, reason = "a console is read and typed into while it runs")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use kld_core::error::Trying;
use kld_core::ui::printable;
use kld_core::{Error, Result};

/// A running `kvm-console`, ended when it is dropped.
#[derive(Debug)]
pub struct Console {
    program: Child,
    lines: Receiver<String>,
}

impl Console {
    /// Runs the program that connects to the console.
    pub fn connect(mut command: Command) -> Result<Console> {
        // Its input stays open, as a person's would.
        let program = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut program = program.trying(|| "cannot run kvm-console".to_string())?;
        let (sender, lines) = mpsc::channel();
        if let Some(output) = program.stdout.take() {
            std::thread::spawn(move || {
                // The boot loader's bytes need not be text.
                for line in BufReader::new(output).split(b'\n').map_while(|line| line.ok()) {
                    if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Console { program, lines })
    }

    /// What the machine says from this text on to the end of its line.
    ///
    /// # Errors
    /// Where it does not say it in time, or the console ends before.
    pub fn wait_for(&self, text: &str, patience: Duration) -> Result<String> {
        let what = || format!("the machine does not say '{}'", text.trim());
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    if let Some(at) = line.find(text) {
                        return Ok(printable(line[at..].trim_end()));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    let cause = format!("not within {} s", patience.as_secs());
                    return Err(Error::failed(what(), cause));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::failed(what(), "its console ended"));
                }
            }
        }
    }

    /// Types a line.
    pub fn say(&mut self, line: &str) -> Result<()> {
        let Some(input) = &mut self.program.stdin else { return Ok(()) };
        input.write_all(format!("{line}\n").as_bytes()).trying(|| "cannot type on the console".to_string())
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_found_and_what_is_not_is_told() {
        let mut cat = Console::connect(Command::new("/bin/cat")).unwrap();
        cat.say("one kld-guest: I am web").unwrap();
        let found = cat.wait_for("kld-guest: ", Duration::from_secs(9)).unwrap();
        assert_eq!(found, "kld-guest: I am web");
        let silent = cat.wait_for("more", Duration::from_millis(1)).unwrap_err();
        assert_eq!(silent.to_string(), "the machine does not say 'more': not within 0 s");
        let ended = Console::connect(Command::new("/bin/true")).unwrap();
        let ended = ended.wait_for("more", Duration::from_secs(9)).unwrap_err();
        assert_eq!(ended.to_string(), "the machine does not say 'more': its console ended");
    }
}
