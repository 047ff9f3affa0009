//! Programs that run beside this one, and end with it.
#![allow(clippy::disallowed_types, reason = "a part of the door that the rule points to")]

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use super::Exec;
use crate::{Error, Result};

/// Where a running program's three streams go.
#[derive(Debug)]
pub struct Streams {
    /// What it reads.
    pub stdin: Stdio,
    /// Where its standard output goes.
    pub stdout: Stdio,
    /// Where its standard error goes.
    pub stderr: Stdio,
}

impl Default for Streams {
    fn default() -> Self {
        Streams { stdin: Stdio::null(), stdout: Stdio::null(), stderr: Stdio::null() }
    }
}

/// A program that runs beside this one. Dropping it kills it; so does the end of this process, a SIGKILL
/// included.
#[derive(Debug)]
pub struct Running {
    /// The other end of its standard input, where that is a pipe.
    pub stdin: Option<ChildStdin>,
    /// The other end of its standard output, where that is a pipe.
    pub stdout: Option<ChildStdout>,
    /// The other end of its standard error, where that is a pipe.
    pub stderr: Option<ChildStderr>,
    pid: Pid,
    end: Arc<End>,
}

/// How a program ended, once it has.
#[derive(Debug, Default)]
struct End {
    status: Mutex<Option<ExitStatus>>,
    came: Condvar,
}

impl End {
    fn lock(&self) -> MutexGuard<'_, Option<ExitStatus>> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Exec {
    /// Starts the program beside this one; the time limit does not count.
    pub fn start(&self, streams: Streams) -> Result<Running> {
        let failed =
            |cause: &dyn std::fmt::Display| Error::failed(format!("cannot run {}", self.program), cause);
        let mut command = self.command()?;
        command.stdin(streams.stdin).stdout(streams.stdout).stderr(streams.stderr);
        super::die_with_us(&mut command);
        let end = Arc::new(End::default());
        let (report, reported) = mpsc::channel();
        // The kernel ends the program with the thread that started it, not with the process: so that thread has
        // to stay as long as the program.
        thread::spawn({
            let end = end.clone();
            move || match command.spawn() {
                Err(cause) => drop(report.send(Err(cause))),
                Ok(mut child) => {
                    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
                    let pid = Pid::from_raw(child.id() as i32);
                    drop(report.send(Ok((pid, pipes))));
                    await_end(child, pid, &end);
                }
            }
        });
        let started = reported.recv().map_err(|cause| failed(&cause))?;
        let (pid, (stdin, stdout, stderr)) = started.map_err(|cause| failed(&cause))?;
        Ok(Running { stdin, stdout, stderr, pid, end })
    }
}

/// The number stays the program's until its end is written down, so that no signal goes to a stranger.
fn await_end(mut child: Child, pid: Pid, end: &End) {
    while let Err(nix::errno::Errno::EINTR) =
        waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)
    {}
    let mut status = end.lock();
    *status = Some(child.wait().unwrap_or_else(|_| ExitStatus::from_raw(0)));
    end.came.notify_all();
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// How it ended; `None` while it runs.
    pub fn ended(&self) -> Option<ExitStatus> {
        *self.end.lock()
    }

    /// Waits at most `patience` for its end.
    pub fn wait(&self, patience: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience;
        let mut status = self.end.lock();
        while status.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let woken = self.end.came.wait_timeout(status, left);
            status = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        *status
    }

    /// Sends it a signal, if it still runs.
    pub fn signal(&self, signal: Signal) {
        let status = self.end.lock();
        if status.is_none() {
            let _ = kill(self.pid, signal);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        self.wait(Duration::from_secs(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_outlives_the_thread_that_wanted_it_and_is_gone_when_dropped() {
        let running = thread::spawn(|| Exec::new("sleep").arg("60").start(Streams::default()).unwrap());
        let running = running.join().unwrap();
        assert_eq!(running.wait(Duration::from_millis(100)), None);
        let pid = Pid::from_raw(running.pid());
        drop(running);
        assert_eq!(kill(pid, None), Err(nix::errno::Errno::ESRCH));
    }

    #[test]
    fn the_end_of_a_program_is_told() {
        let running = Exec::new("sh").args(["-c", "exit 3"]).start(Streams::default()).unwrap();
        assert_eq!(running.wait(Duration::from_secs(10)).and_then(|status| status.code()), Some(3));
    }
}
