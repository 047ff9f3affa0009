//! Files into a guest and out of it, as tar streams, so that links, modes and holes are kept.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use kld_core::error::Trying;
use kld_core::exec::{Exec, Running, Streams};
use kld_core::{Error, Result};

use super::agent::{Agent, Pipes};

impl Agent {
    /// Copies a file or a folder of the host into a folder of the guest, which is made if it is not there.
    pub fn copy_in(&self, from: &Path, folder: &str) -> Result<()> {
        let what = format!("cannot copy {} into the guest", from.display());
        let from = std::path::absolute(from).trying(|| what.clone())?;
        let (parent, name) = parts(&from, &what)?;
        let streams = Streams { stdout: Stdio::piped(), stderr: Stdio::piped(), ..Streams::default() };
        let tar = Exec::new("tar").args(["--sparse", "-cf", "-", "-C"]).arg(parent).arg("--").arg(name);
        let mut tar = tar.start(streams)?;
        let Some(stdin) = tar.stdout.take() else { return Err(Error::message(what)) };
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let pipes = Pipes { stdin: Box::new(stdin), stdout: &mut stdout, stderr: &mut stderr };
        let script = r#"mkdir -p "$1" && exec tar -xf - -C "$1""#;
        let code = self.stream(&["sh", "-c", script, "copy", folder], pipes)?;
        ended(&what, &mut tar)?;
        judge(&what, code, &stderr)
    }

    /// Copies a file or a folder of the guest, given by its path from `/`, into a folder of the host that exists.
    pub fn copy_out(&self, from: &str, folder: &Path) -> Result<()> {
        let what = format!("cannot copy {from} out of the guest");
        let (parent, name) = parts(Path::new(from), &what)?;
        let streams = Streams { stdin: Stdio::piped(), stderr: Stdio::piped(), ..Streams::default() };
        let mut tar = Exec::new("tar").args(["-xf", "-", "-C"]).arg(folder).start(streams)?;
        let Some(mut stdout) = tar.stdin.take() else { return Err(Error::message(what)) };
        let mut stderr = Vec::new();
        let pipes = Pipes { stdin: Box::new(std::io::empty()), stdout: &mut stdout, stderr: &mut stderr };
        let command = ["tar", "-cf", "-", "-C", &parent.to_string_lossy(), "--", &name.to_string_lossy()];
        let code = self.stream(&command, pipes);
        let _ = stdout.flush();
        drop(stdout);
        // The guest's complaint comes first: a cut stream is its consequence.
        judge(&what, code?, &stderr)?;
        ended(&what, &mut tar)
    }
}

/// A path's folder and its name in there.
fn parts<'a>(path: &'a Path, what: &str) -> Result<(&'a Path, &'a std::ffi::OsStr)> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => {
            Ok((if parent.as_os_str().is_empty() { Path::new(".") } else { parent }, name))
        }
        _ => Err(Error::failed(what, "it has no name")),
    }
}

fn judge(what: &str, code: i32, stderr: &[u8]) -> Result<()> {
    let said = String::from_utf8_lossy(stderr);
    match code {
        0 => Ok(()),
        code => Err(Error::failed(what, said.lines().next().unwrap_or(&format!("exit code {code}")))),
    }
}

/// Waits for the host's tar, which has nothing more to do.
fn ended(what: &str, tar: &mut Running) -> Result<()> {
    let said = tar.stderr.take().and_then(|pipe| std::io::read_to_string(pipe).ok()).unwrap_or_default();
    match tar.wait(Duration::from_secs(60)) {
        Some(status) if status.success() => Ok(()),
        _ => Err(Error::failed(what, said.lines().next().unwrap_or("tar failed"))),
    }
}
