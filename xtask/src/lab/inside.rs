//! A crate's own tests inside a lab: built here, run there, with their output as it comes.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use kld_build::appliance::Pipes;
use kld_build::{Agent, Cache};
use kld_core::error::Trying;
use kld_core::exec::Exec;
use kld_core::ui::Ui;
use kld_core::{Error, Result};
use kld_lab::zfs_2_1;
use serde_json::Value;

use super::timed::Timed;
use crate::shell;

/// A test program that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(2 * 60 * 60);

/// What is run: some packages' tests, or one test program of a package.
pub struct Run<'a> {
    /// What cargo is told to build, such as `--package kld-zfs --test lab`.
    pub build: Vec<&'a str>,
    /// What the test programs are told.
    pub arguments: Vec<String>,
    /// What they find in their environment besides.
    pub environment: Vec<(String, String)>,
}

/// Builds the test programs and runs them one after the other; all are run, also after a failure.
pub fn test(agent: &Agent, run: &Run<'_>, ui: &Ui) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("kld-").tempdir();
    let folder = folder.trying(|| "cannot make a temporary folder".to_string())?;
    let agent = agent.clone().limited(PATIENCE);
    if run.build.contains(&"kld-machine-tests") {
        super::bring_guest(&agent, ui)?;
    }
    let environment = environment(run);
    if environment.contains(&programs_of_2_1()) {
        agent.copy_in(&zfs_2_1::ensure(&Cache::of_user(), ui)?, "/run/kld")?;
    }
    let mut failed = Vec::new();
    for program in build(&run.build, ui)? {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let stripped = folder.path().join(&name);
        Exec::new("strip").arg("--strip-debug").arg("-o").arg(&stripped).arg(&program).run()?;
        agent.copy_in(&stripped, "/run/kld/tests")?;
        ui.note(format!("{name} {}", run.arguments.join(" ")));
        let program = [format!("/run/kld/tests/{name}")];
        let command = [&["env".to_string()][..], &environment, &program, &run.arguments].concat();
        let (mut stdout, mut stderr) = (Timed::new(std::io::stdout()), std::io::stderr());
        let stdin = Box::new(std::io::empty());
        let code = agent.stream(&command, Pipes { stdin, stdout: &mut stdout, stderr: &mut stderr })?;
        if code != 0 {
            failed.push(name);
        }
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(Error::failed("tests failed in the lab", failed.join(", "))),
    }
}

/// What tests are told of where they run, and the caller's own `KLD_*`. They share one guest with its pools and
/// processes, and so run one by one; snapshots are only compared, since the sources are not there.
fn environment(run: &Run<'_>) -> Vec<String> {
    let own = std::env::vars().filter(|(name, _)| name.starts_with("KLD_"));
    let fixed =
        [("KLD_LAB", "1"), ("RUST_TEST_THREADS", "1"), ("INSTA_UPDATE", "no"), ("INSTA_WORKSPACE_ROOT", "/")];
    let fixed = fixed.map(|(name, value)| (name.to_string(), value.to_string()));
    own.chain(fixed).chain(run.environment.clone()).map(|(name, value)| format!("{name}={value}")).collect()
}

/// What tells tests where the programs of OpenZFS 2.1 are, which are brought into the lab then.
fn programs_of_2_1() -> String {
    format!("KLD_ZFS_2_1={}", zfs_2_1::INSIDE)
}

/// Builds test programs, and says where they are.
pub fn build(what: &[&str], ui: &Ui) -> Result<Vec<PathBuf>> {
    let mut cargo = shell::cargo(&["test", "--no-run", "--message-format=json-render-diagnostics"]);
    cargo.args(what);
    // Linked with the libraries of an old release, test programs start with those of the lab.
    if what.contains(&"libzetta") {
        cargo.env("LIBZFS_CORE_LIBDIR", zfs_2_1::ensure(&Cache::of_user(), ui)?);
    }
    let built = cargo.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let built = built.trying(|| "cannot run cargo".to_string())?;
    if !built.status.success() {
        return Err(Error::message("the tests do not build: cargo says why above"));
    }
    Ok(test_programs(&String::from_utf8_lossy(&built.stdout)))
}

/// The test programs among cargo's messages, a JSON object a line.
fn test_programs(messages: &str) -> Vec<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let tests = messages.filter(|message| message["profile"]["test"] == true);
    tests
        .filter_map(|message| message["executable"].as_str().map(|path| Path::new(path).to_path_buf()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_told_from_other_artifacts() {
        let messages = r#"{"reason":"compiler-artifact","profile":{"test":false},"executable":"/t/kld"}
{"reason":"compiler-artifact","profile":{"test":true},"executable":"/t/deps/a-1"}
{"reason":"compiler-artifact","profile":{"test":true},"executable":null}
no message
{"reason":"build-finished","success":true}"#;
        assert_eq!(test_programs(messages), [Path::new("/t/deps/a-1")]);
    }
}
