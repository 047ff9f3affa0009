//! A tool while it runs: its first words, its memory, and its end by Ctrl-C.
#![allow(clippy::disallowed_types, reason = "the tools are watched and interrupted")]

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kld_core::error::Trying;
use kld_core::{Error, Result};
use kld_test_support::tool;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a tool may take until its first event, and to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A tool that runs. It is gone when this is dropped.
pub struct Watched {
    child: Child,
    stdout: File,
    stderr: File,
}

/// What a tool has said in its whole life.
pub struct Said {
    pub stdout: String,
    pub stderr: String,
}

impl Watched {
    /// Starts a tool whose output goes to files.
    pub fn start(mut command: Command) -> Result<Watched> {
        let file = || tempfile::tempfile().trying(|| "cannot make a file".to_string());
        let (stdout, stderr) = (file()?, file()?);
        let own = |file: &File| file.try_clone().trying(|| "cannot share a file".to_string());
        command.stdout(own(&stdout)?).stderr(own(&stderr)?);
        let child = command.spawn().trying(|| format!("cannot start {command:?}"))?;
        Ok(Watched { child, stdout, stderr })
    }

    /// Whether it runs still.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits, and fails where the tool ends in the meantime.
    pub fn settle(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            if !self.runs() {
                let said = self.said()?;
                let last = said.stderr.lines().rev().chain(said.stdout.lines().rev());
                let last = last.map(str::trim).find(|line| !line.is_empty());
                return Err(Error::message(last.unwrap_or("it ended without a word").to_string()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The most memory that it has had, in bytes; 0 where it has ended.
    pub fn memory(&self) -> u64 {
        tool::peak_memory(self.child.id()).unwrap_or(0)
    }

    /// Presses Ctrl-C, waits for the end, and returns all that was said.
    pub fn stop(mut self) -> Result<Said> {
        end(&mut self.child)?;
        self.said()
    }

    fn said(&mut self) -> Result<Said> {
        let text = |file: &mut File| {
            let mut bytes = Vec::new();
            file.rewind().and_then(|()| file.read_to_end(&mut bytes)).trying(|| "cannot read".to_string())?;
            Ok::<String, Error>(String::from_utf8_lossy(&bytes).into_owned())
        };
        Ok(Said { stdout: text(&mut self.stdout)?, stderr: text(&mut self.stderr)? })
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The time from a tool's start until a terminal shows the mark, in milliseconds.
pub fn first_words(mut command: Command, mark: &str) -> Result<f64> {
    let what = || "cannot make a terminal".to_string();
    let terminal = nix::pty::openpty(None, None).trying(what)?;
    command.stdout(Stdio::from(terminal.slave)).stderr(Stdio::null());
    let began = Instant::now();
    let mut child = command.spawn().trying(|| format!("cannot start {command:?}"))?;
    // The command has the terminal's other end too, which would keep it open when the tool has ended.
    drop(command);
    let seen = wait_for(terminal.master, mark, began);
    end(&mut child)?;
    seen
}

fn wait_for(master: OwnedFd, mark: &str, began: Instant) -> Result<f64> {
    let mut seen = Vec::new();
    let mut buffer = [0; 65536];
    while began.elapsed() < PATIENCE {
        let mut wanted = [PollFd::new(master.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut wanted, PollTimeout::from(100_u16)).unwrap_or(0);
        if ready == 0 {
            continue;
        }
        let time = began.elapsed();
        match nix::unistd::read(&master, &mut buffer) {
            Ok(length) if length > 0 => seen.extend_from_slice(&buffer[..length]),
            _ => return Err(Error::message("it ended before it saw anything")),
        }
        if String::from_utf8_lossy(&seen).contains(mark) {
            return Ok(time.as_secs_f64() * 1e3);
        }
    }
    Err(Error::message("it saw nothing"))
}

/// Ends a tool by Ctrl-C, or by force where it does not listen.
fn end(child: &mut Child) -> Result<()> {
    let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGINT);
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if child.try_wait().trying(|| "cannot wait for a tool".to_string())?.is_some() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    child.wait().map(drop).trying(|| "cannot wait for a tool".to_string())
}
