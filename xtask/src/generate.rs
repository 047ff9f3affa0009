//! `cargo xtask generate`: man pages and completions, out of the tools' own command lines, and the BPF programs.

pub mod ebpf;

use std::path::{Path, PathBuf};

use kld_core::exec::Exec;
use kld_core::ui::Ui;
use kld_core::{Error, Result, fsio};

use crate::shell;

/// The programs that write the pages of their tools.
const PROGRAMS: [&str; 3] = ["kld", "kld-kvm", "kld-trace"];

/// Write man pages and completions into a folder
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
    /// Where to; target/share unless given
    folder: Option<PathBuf>,
    /// Write nothing: fail where a tool's pages cannot be made, or a tool has no page
    #[arg(long)]
    check: bool,
}

/// What else there is to generate.
#[derive(clap::Subcommand)]
enum What {
    Ebpf(ebpf::Args),
}

impl Args {
    /// What CI asks for.
    pub fn check() -> Self {
        Args { what: None, folder: None, check: true }
    }
}

pub fn run(args: &Args, ui: &Ui) -> Result<()> {
    if let Some(What::Ebpf(args)) = &args.what {
        return ebpf::run(args, ui);
    }
    shell::watch(ui, shell::cargo(&["build", "--quiet", "--workspace", "--bins"]))?;
    let built = kld_test_support::tool::built_here();
    let scratch = tempfile::tempdir().map_err(|cause| Error::failed("cannot make a folder", cause))?;
    let default = built.join("../share");
    let folder = match (args.check, &args.folder) {
        (true, _) => scratch.path(),
        (false, Some(folder)) => folder,
        (false, None) => &default,
    };
    fsio::create_dir_all(folder, 0o755)?;
    let folder = folder.canonicalize().map_err(|cause| Error::failed("cannot find the folder", cause))?;
    for program in PROGRAMS {
        Exec::at(&built.join(program)).arg("__generate").arg(&folder).run()?;
    }
    let mut tools = kld_test_support::tool::names();
    tools.push("kld");
    tools.iter().try_for_each(|tool| complete(&folder, tool))?;
    match args.check {
        true => Ok(()),
        false => {
            ui.line(format!("man pages and completions of {} tools are in {}", tools.len(), folder.display()))
        }
    }
}

/// A tool has a man page that says what it is for, and completions for three shells.
fn complete(folder: &Path, tool: &str) -> Result<()> {
    let page = folder.join(format!("man/{tool}.1"));
    let text = fsio::read_text(&page, 1 << 20)?.unwrap_or_default();
    if !text.contains(".SH NAME") || !text.contains("Examples") {
        return Err(Error::message(format!("{} is no man page with examples", page.display())));
    }
    let scripts = [format!("bash/{tool}"), format!("zsh/_{tool}"), format!("fish/{tool}.fish")];
    match scripts.iter().find(|script| !folder.join("completions").join(script).is_file()) {
        Some(script) => Err(Error::message(format!("{tool} has no completions/{script}"))),
        None => Ok(()),
    }
}
