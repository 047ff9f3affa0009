//! `cargo xtask clean-room`: do the README's commands work on a Debian that has Rust and a C compiler, and nothing
//! else?

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use kld_core::error::Trying;
use kld_core::exec::Exec;
use kld_core::ui::Ui;
use kld_core::{Error, Result, fsio};
use kld_test_support::root;

use crate::shell;

/// Run a command on this work tree in a clean Debian that is thrown away afterwards
///
/// Missing packages are installed there without asking. Only files that git tracks are brought along.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  cargo xtask clean-room bookworm cargo xtask demo\n  cargo xtask clean-room trixie cargo xtask test"
)]
pub struct Args {
    /// Debian's release
    #[arg(value_parser = ["bookworm", "trixie"])]
    suite: String,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// What Rust itself needs: a linker, the C library's start files, certificates to fetch crates with.
const PACKAGES: &[&str] = &["ca-certificates", "gcc", "libc6-dev"];

pub fn run(args: &Args, ui: &Ui) -> Result<()> {
    let tree = root::clean_tree(&format!("clean-{}", args.suite), &args.suite, PACKAGES, ui)?;
    let rooms = root::cache_folder().join("rooms");
    fsio::create_dir_all(&rooms, 0o755)?;
    let room = tempfile::Builder::new().prefix("room-").tempdir_in(&rooms);
    let room = room.trying(|| format!("cannot make a folder in {}", rooms.display()))?;
    fsio::replace(&room.path().join("clean_room.sh"), include_bytes!("clean_room.sh"), 0o644)?;
    copy_sources(&room.path().join("sources"))?;

    let home = |variable: &str, folder: &str| {
        let home = std::env::var_os("HOME").unwrap_or_else(|| "/root".into());
        std::env::var_os(variable).map_or_else(|| Path::new(&home).join(folder), PathBuf::from)
    };
    let mut command = shell::program("bash");
    command.arg(room.path().join("clean_room.sh")).arg("outside").arg(room.path()).arg(tree);
    command.arg(home("CARGO_HOME", ".cargo")).arg(home("RUSTUP_HOME", ".rustup")).arg("1");
    command.args(&args.command).current_dir("/");
    ui.note(format!("in a clean {}: {}", args.suite, args.command.join(std::ffi::OsStr::new(" ")).display()));
    let status = command.status().trying(|| "cannot run bash".to_string())?;
    if status.success() { Ok(()) } else { Err(Error::failed("the command failed in the clean room", status)) }
}

/// Copies the files that git tracks, as they are in the work tree now.
fn copy_sources(into: &Path) -> Result<()> {
    let workspace = shell::workspace();
    let listed = Exec::new("git").arg("-C").arg(&workspace).args(["ls-files", "-z"]).run()?;
    for name in listed.stdout.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = Path::new(std::ffi::OsStr::from_bytes(name));
        let (from, to) = (workspace.join(name), into.join(name));
        // A file that was removed but not yet from the index.
        let Ok(meta) = from.symlink_metadata() else { continue };
        fsio::create_dir_all(to.parent().unwrap_or(into), 0o755)?;
        let what = || format!("cannot copy {}", from.display());
        if meta.is_symlink() {
            let target = std::fs::read_link(&from).trying(what)?;
            std::os::unix::fs::symlink(target, &to).trying(what)?;
        } else {
            std::fs::copy(&from, &to).trying(what)?;
        }
    }
    Ok(())
}
