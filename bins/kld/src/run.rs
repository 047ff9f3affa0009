//! `kld <tool>`: the family's program, or an external `kld-<tool>`, takes this process's place.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use kld_catalog::{FAMILIES, find};
use kld_core::exec::become_program;
use kld_core::suggest::nearest;
use kld_core::{Error, MachineName};

/// Where external tools and family programs are looked for, beside the folder of `kld` itself.
const FOLDERS: [&str; 4] = ["/usr/local/lib/kld", "/usr/lib/kld", "/usr/local/bin", "/usr/bin"];

/// Runs a tool; returns only if that fails.
pub fn tool(name: &str, args: &[OsString]) -> Error {
    if let Some((family, _)) = find(name) {
        return match program(family.program) {
            Some(path) => become_program(&path, OsStr::new(name), args),
            None => {
                Error::message(format!("{name} is in the program {}, which is not installed", family.program))
                    .with_hint("install it beside kld")
            }
        };
    }
    // The same letters as a machine's name: no '/', no leading dot or dash.
    if MachineName::parse(name).is_ok()
        && let Some(path) = program(&format!("kld-{name}"))
    {
        return become_program(&path, OsStr::new(&format!("kld-{name}")), args);
    }
    let tools = || FAMILIES.iter().flat_map(|family| family.tools).map(|tool| tool.name).chain(["doctor"]);
    let hint = nearest(name, tools())
        .map_or("kld --list shows every tool".into(), |near| format!("did you mean '{near}'?"));
    Error::usage(format!("there is no tool '{}'", name.escape_debug())).with_hint(hint)
}

/// Finds a program in the fixed folders, the one that `kld` lies in first.
pub fn program(name: &str) -> Option<PathBuf> {
    let own = std::env::current_exe().ok().and_then(|path| path.parent().map(Path::to_path_buf));
    own.into_iter()
        .chain(FOLDERS.map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}
