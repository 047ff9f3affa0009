//! Running a program once and measuring it.
#![allow(
    clippy::disallowed_types,
    reason = "the time and memory of one child are wanted, which kld_core::exec has not"
)]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kld_core::{Error, Result};
use nix::libc;

/// What one run of a program took.
#[derive(Debug, Clone)]
pub struct Run {
    /// From before its start to its end.
    pub time: Duration,
    /// The most memory that it had, in bytes.
    pub memory: u64,
    /// What it wrote on standard error.
    pub stderr: String,
}

/// Runs a program whose output fits into a pipe. It must succeed.
pub fn once(mut command: Command) -> Result<Run> {
    let failed = |cause: &dyn std::fmt::Display| Error::failed(format!("cannot measure {command:?}"), cause);
    let failed_to_start = failed(&"it did not start");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let began = Instant::now();
    let mut child = command.spawn().map_err(|_| failed_to_start)?;
    let mut status = 0;
    // SAFETY: all zeros is a value of this plain structure.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the process is our child and nobody else waits for it; both pointers are to live variables.
    let waited = unsafe { libc::wait4(child.id() as i32, &mut status, 0, &mut usage) };
    let time = began.elapsed();
    let stderr =
        child.stderr.take().map(std::io::read_to_string).and_then(|text| text.ok()).unwrap_or_default();
    if waited < 0 || !libc::WIFEXITED(status) || libc::WEXITSTATUS(status) != 0 {
        return Err(Error::failed(format!("{command:?} failed"), stderr.trim()));
    }
    Ok(Run { time, memory: (usage.ru_maxrss as u64) << 10, stderr })
}

/// In milliseconds.
pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
