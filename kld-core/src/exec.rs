//! The one door to other programs: an argument vector, a fixed search path, the C locale, a time limit, and the
//! end of stderr in the error. There is never a shell in between.
#![allow(clippy::disallowed_types, reason = "this module is the door that the rule points to")]

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Error, Result};

mod running;

pub use running::{Running, Streams};

/// Where programs are looked for, whatever the caller's PATH says.
pub const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The most that is kept of a program's output.
const LARGEST_OUTPUT: u64 = 64 << 20;

/// A program to run.
#[derive(Debug)]
pub struct Exec {
    program: String,
    path: Option<PathBuf>,
    args: Vec<OsString>,
    environment: Vec<(String, String)>,
    limit: Duration,
}

/// How a program ended, and what it said.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Its exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: String,
}

impl Exec {
    /// A program by name, found in [`SEARCH_PATH`].
    pub fn new(program: &str) -> Self {
        let limit = Duration::from_secs(60);
        Exec { program: program.to_string(), path: None, args: Vec::new(), environment: Vec::new(), limit }
    }

    /// A program by its path: one of kld's own, found beside this one.
    pub fn at(path: &std::path::Path) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Exec { path: Some(path.to_path_buf()), ..Self::new(&name) }
    }

    /// Names what is run by another name in errors: the program that a wrapper runs.
    #[must_use]
    pub fn called(mut self, name: &str) -> Self {
        self.path = self.path.or_else(|| Self::which(&self.program));
        self.program = name.to_string();
        self
    }

    /// Passes on this process's variables whose names begin so; all others are withheld.
    #[must_use]
    pub fn keep_environment(mut self, prefix: &str) -> Self {
        let kept = std::env::vars_os()
            .filter_map(|(name, value)| name.into_string().ok().zip(value.into_string().ok()));
        self.environment.extend(kept.filter(|(name, _)| name.starts_with(prefix)));
        self
    }

    /// Sets a variable of the program's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_string(), value.to_string()));
        self
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_os_string());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_os_string()));
        self
    }

    /// Kills the program after this time; 60 seconds unless told.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Where the program is, if it is installed.
    pub fn which(program: &str) -> Option<PathBuf> {
        SEARCH_PATH.split(':').map(|folder| PathBuf::from(folder).join(program)).find(|path| path.is_file())
    }

    /// Runs the program; a non-zero exit is an error that ends with the last line it wrote on stderr.
    pub fn run(&self) -> Result<Finished> {
        let finished = self.output()?;
        match finished.code {
            Some(0) => Ok(finished),
            code => {
                let last = finished.stderr.lines().rev().find(|line| !line.trim().is_empty());
                let how =
                    code.map_or("was ended by a signal".to_string(), |code| format!("exit code {code}"));
                Err(Error::failed(format!("{} failed", self.program), last.unwrap_or(&how)))
            }
        }
    }

    fn command(&self) -> Result<Command> {
        let path = self.path.clone().or_else(|| Self::which(&self.program)).ok_or_else(|| {
            Error::failed(format!("cannot run {}", self.program), "it is not installed")
                .with_hint(format!("install the package that brings {}", self.program))
        })?;
        let mut command = Command::new(path);
        command
            .arg0(&self.program)
            .args(&self.args)
            .env_clear()
            .env("PATH", SEARCH_PATH)
            .env("LC_ALL", "C")
            .envs(self.environment.iter().cloned())
            .current_dir("/")
            .process_group(0);
        Ok(command)
    }

    /// Runs the program; its exit code is for the caller to judge.
    pub fn output(&self) -> Result<Finished> {
        let failed =
            |cause: &dyn std::fmt::Display| Error::failed(format!("cannot run {}", self.program), cause);
        let mut command = self.command()?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        die_with_us(&mut command);
        let mut child = command.spawn().map_err(|cause| failed(&cause))?;
        let stdout = drain(child.stdout.take());
        let stderr = drain(child.stderr.take());
        let deadline = Instant::now() + self.limit;
        let mut pause = Duration::from_micros(200);
        let status = loop {
            match child.try_wait().map_err(|cause| failed(&cause))? {
                Some(status) => break status,
                None if Instant::now() >= deadline => {
                    let group = nix::unistd::Pid::from_raw(child.id() as i32);
                    let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
                    let _ = child.wait();
                    return Err(failed(&format!("it did not end within {} s", self.limit.as_secs())));
                }
                None => thread::sleep(pause),
            }
            pause = (pause * 2).min(Duration::from_millis(20));
        };
        let stderr = String::from_utf8_lossy(&stderr.join().unwrap_or_default()).into_owned();
        Ok(Finished { code: status.code(), stdout: stdout.join().unwrap_or_default(), stderr })
    }
}

/// Ends the program with the thread that started it: a `qemu-img` that outlives a killed run would go on writing to
/// files, and hold locks on them, which the next run is to remove.
fn die_with_us(command: &mut Command) {
    let parent = nix::unistd::getpid();
    let before_exec = move || {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
        // It may have ended before the line above.
        if nix::unistd::getppid() == parent { Ok(()) } else { Err(nix::errno::Errno::ESRCH.into()) }
    };
    // SAFETY: prctl and getppid are async-signal-safe, and nothing is allocated.
    unsafe { command.pre_exec(before_exec) };
}

/// Replaces this process with another program, which sees `name` as its own; returns only if that fails. Used
/// by the front door to run a family's tool without a process in between.
pub fn become_program(path: &std::path::Path, name: &OsStr, args: &[OsString]) -> Error {
    let cause = Command::new(path).arg0(name).args(args).exec();
    Error::failed(format!("cannot run {}", path.display()), cause)
}

fn drain<R: Read + Send + 'static>(pipe: Option<R>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.by_ref().take(LARGEST_OUTPUT).read_to_end(&mut bytes);
            let _ = std::io::copy(&mut pipe, &mut std::io::sink());
        }
        bytes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_program_is_an_error_with_its_last_line() {
        let error = Exec::new("ls").arg("/nonexistent").run().unwrap_err();
        assert_eq!(
            error.to_string(),
            "ls failed: ls: cannot access '/nonexistent': No such file or directory"
        );
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Exec::new("no-such-program").run().unwrap_err();
        assert_eq!(error.to_string(), "cannot run no-such-program: it is not installed");
    }

    #[test]
    fn a_hanging_program_is_ended() {
        let error = Exec::new("sleep").arg("60").limit(Duration::from_millis(50)).run().unwrap_err();
        assert!(error.to_string().contains("did not end within"));
    }
}
