//! Running kld's tools as a person would, and making what they print comparable.
#![allow(clippy::disallowed_types, reason = "tests run tools with an environment of the test's choosing")]

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A tool that runs longer hangs.
pub const LIMIT: Duration = Duration::from_secs(180);

/// How a tool ended, and what it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// Its exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// What is of this host alone, and what stands for it where output is compared.
    hidden: Vec<(String, &'static str)>,
}

impl Ran {
    /// The standard output of a tool that must succeed.
    ///
    /// # Panics
    /// Where the tool failed, with what it said.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "it failed:\n{}{}", self.stdout, self.stderr);
        self.stdout
    }

    /// The standard output of a tool that must succeed, as JSON.
    ///
    /// # Panics
    /// Where the tool failed or printed no JSON.
    #[track_caller]
    pub fn json(self) -> serde_json::Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("no JSON ({error}): {text}"))
    }

    pub(crate) fn hiding(self, hidden: Vec<(String, &'static str)>) -> Ran {
        Ran { hidden, ..self }
    }

    fn redacted(&self, text: &str) -> String {
        redact(&self.hidden.iter().fold(text.to_string(), |text, (own, name)| text.replace(own, name)))
    }
}

/// What a snapshot shows: exit code, standard output and standard error, with what differs from run to run
/// replaced as [`redact`] does.
impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.code {
            Some(code) => writeln!(f, "exit {code}")?,
            None => writeln!(f, "ended by a signal")?,
        }
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !text.is_empty() {
                write!(f, "-- {name} --\n{}", self.redacted(text))?;
            }
        }
        Ok(())
    }
}

/// Replaces what differs from run to run: UUIDs, MAC addresses, times, durations, process numbers, folders of
/// tests.
pub fn redact(text: &str) -> String {
    use std::sync::LazyLock;
    static RULES: LazyLock<Vec<(regex_lite::Regex, &'static str)>> = LazyLock::new(|| {
        [
            (r"/[^\s'\x22]*?/kld-[A-Za-z0-9]{6}\b", "[host]"),
            (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "[uuid]"),
            (r"\b[0-9a-f]{2}(:[0-9a-f]{2}){5}\b", "[mac]"),
            (r"\.[0-9a-f]{8}\.qcow2\b", ".[id].qcow2"),
            (r"@kld-([a-z]+)-[0-9a-f]{8}\b", "@kld-$1-[id]"),
            (r"/\.bases/[0-9a-f]{32}\b", "/.bases/[id]"),
            (r"/\.kld-[0-9a-f]{32}\b", "/.kld-[id]"),
            (r"\b\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:?\d{2})?", "[time]"),
            (r"\b(process|pid) \d+\b", "$1 [pid]"),
            (r"\b\d+(\.\d+)? (us|ms|s|seconds)\b", "[duration]"),
        ]
        .map(|(pattern, name)| (regex_lite::Regex::new(pattern).expect("a rule is a regex"), name))
        .into()
    });
    RULES.iter().fold(text.to_string(), |text, (rule, name)| rule.replace_all(&text, *name).into_owned())
}

/// The program that a tool is in: `kvm-clone` is in `kld-kvm`.
fn program(tool: &str) -> &str {
    kld_catalog::find(tool).map_or(tool, |(family, _)| family.program)
}

/// The names of all of kld's tools.
pub fn names() -> Vec<&'static str> {
    kld_catalog::FAMILIES.iter().flat_map(|family| family.tools).map(|tool| tool.name).collect()
}

/// Where `cargo xtask lab` puts the built tools.
const LAB: &str = "/usr/local/bin";

static TOOLS: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();

/// From now on the tools are those in this folder, such as a release build's; only the first call counts.
pub fn use_tools_of(folder: &Path) {
    let _ = TOOLS.set(folder.to_path_buf());
}

/// Where the tools are that are run.
pub fn built() -> PathBuf {
    TOOLS.get().cloned().unwrap_or_else(|| if crate::in_lab() { LAB.into() } else { built_here() })
}

/// Where cargo puts this build's programs: beside the running test or xtask.
pub fn built_here() -> PathBuf {
    let mine = std::env::current_exe().expect("this program has a path");
    let folder = mine.parent().expect("a program is in a folder");
    match folder.file_name() {
        Some(name) if name == "deps" => folder.parent().expect("deps is in a folder").to_path_buf(),
        _ => folder.to_path_buf(),
    }
}

/// A link to the built program under the tool's name.
///
/// # Panics
/// Where the program is not built.
pub fn link(bin: &Path, tool: &str) -> PathBuf {
    link_to(bin, tool, &built().join(program(tool)))
}

/// A link to a program under a tool's name.
///
/// # Panics
/// Where the program is not built.
pub fn link_to(bin: &Path, tool: &str, target: &Path) -> PathBuf {
    assert!(
        target.is_file(),
        "{} is not built: run cargo build --workspace --bins, or cargo xtask test",
        target.display()
    );
    let link = bin.join(tool);
    match std::os::unix::fs::symlink(target, &link) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            panic!("cannot make {}: {error}", link.display())
        }
        _ => link,
    }
}

/// A command with an environment that does not depend on who runs the tests.
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", kld_core::exec::SEARCH_PATH).env("LC_ALL", "C").current_dir("/");
    command.stdin(Stdio::null());
    command
}

/// The most memory that a process has had so far, in bytes; `None` where it has ended.
pub fn peak_memory(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? << 10)
}

/// Runs a command to its end.
///
/// # Panics
/// Where it cannot start or does not end within [`LIMIT`].
pub fn run(command: Command) -> Ran {
    run_within(command, LIMIT)
}

/// Runs a command to its end.
///
/// # Panics
/// Where it cannot start or does not end within the limit.
pub fn run_within(mut command: Command, limit: Duration) -> Ran {
    let started = Instant::now();
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let mut pause = Duration::from_micros(500);
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            break status;
        }
        if started.elapsed() > limit {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{command:?} did not end within {} s", limit.as_secs());
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    };
    let text = |pipe: std::thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&pipe.join().unwrap_or_default()).into_owned()
    };
    Ran { code: status.code(), stdout: text(stdout), stderr: text(stderr), hidden: Vec::new() }
}

fn drain<R: Read + Send + 'static>(pipe: Option<R>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_from_run_to_run_is_replaced() {
        let text = "web (process 4711, since 2026-01-02T03:04:05Z) 52:54:00:ab:cd:ef \
                    /tmp/kld-aB3xYz/store/web/vda.qcow2 6b29fc40-ca47-1067-b31d-00dd010662da in 0.12 s";
        assert_eq!(
            redact(text),
            "web (process [pid], since [time]) [mac] [host]/store/web/vda.qcow2 [uuid] in [duration]"
        );
    }

    #[test]
    fn a_tool_is_in_the_program_of_its_family() {
        assert_eq!(program("kvm-clone"), "kld-kvm");
        assert_eq!(program("kld"), "kld");
        assert_eq!(program("kld-kvm"), "kld-kvm");
    }

    #[test]
    fn a_failure_shows_code_and_both_streams() {
        let mut sh = command(Path::new("/bin/sh"));
        sh.args(["-c", "echo out; echo err >&2; exit 3"]);
        assert_eq!(run(sh).to_string(), "exit 3\n-- stdout --\nout\n-- stderr --\nerr\n");
    }
}
