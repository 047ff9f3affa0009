//! kld's own tools in the lab, as they were built last.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use kld_build::Agent;
use kld_build::appliance::Pipes;
use kld_core::error::Trying;
use kld_core::exec::{Exec, Streams};
use kld_core::{Error, Result};

/// Where they are in the lab, on its PATH.
const FOLDER: &str = "/usr/local/bin";

/// Puts the built programs of `folder` on the lab's PATH, each tool under its name, unless these same ones are there.
pub fn bring(agent: &Agent, folder: &Path) -> Result<()> {
    let families = kld_catalog::FAMILIES;
    let programs = families.iter().map(|family| family.program).chain(["kld"]);
    let built: Vec<PathBuf> = programs.map(|name| folder.join(name)).filter(|path| path.is_file()).collect();
    let mark = mark(&built)?;
    let there = agent.run(&["cat", "/run/kld/tools"])?;
    if built.is_empty() || there.stdout == mark.as_bytes() {
        return Ok(());
    }
    // Without what debuggers read they are a tenth of the size.
    let stripped = tempfile::Builder::new().prefix("kld-").tempdir();
    let stripped = stripped.trying(|| "cannot make a temporary folder".to_string())?;
    let mut names = Vec::new();
    for program in &built {
        let name = program.file_name().unwrap_or_default();
        let to = stripped.path().join(name);
        let strip = Exec::new("strip").arg("-o").arg(&to).arg(program).limit(Duration::from_secs(60));
        if strip.run().is_err() {
            std::fs::copy(program, &to).trying(|| format!("cannot copy {}", program.display()))?;
        }
        names.push(name);
    }
    let streams = Streams { stdout: Stdio::piped(), ..Streams::default() };
    let mut tar =
        Exec::new("tar").args(["-cf", "-", "-C"]).arg(stripped.path()).args(&names).start(streams)?;
    let Some(stdin) = tar.stdout.take() else { return Err(Error::message("cannot bring kld's tools")) };
    let mut script = format!("set -e; tar -xf - -C {FOLDER}; cd {FOLDER};");
    for family in families.iter().filter(|family| built.iter().any(|path| path.ends_with(family.program))) {
        for tool in family.tools {
            script += &format!(" ln -sf {} {};", family.program, tool.name);
        }
    }
    script += " printf %s \"$1\" >/run/kld/tools";
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let pipes = Pipes { stdin: Box::new(stdin), stdout: &mut stdout, stderr: &mut stderr };
    match agent.stream(&["sh", "-c", &script, "tools", &mark], pipes)? {
        0 => Ok(()),
        _ => Err(Error::failed(
            "cannot bring kld's tools into the lab",
            String::from_utf8_lossy(&stderr).trim(),
        )),
    }
}

/// Tells one build from the next.
fn mark(built: &[PathBuf]) -> Result<String> {
    let mut digest = kld_build::Digest::default();
    for path in built {
        let meta = path.metadata().trying(|| format!("cannot read {}", path.display()))?;
        digest =
            digest.with(format!("{} {} {:?}", path.display(), meta.len(), meta.modified().ok()).as_bytes());
    }
    Ok(digest.to_string())
}
