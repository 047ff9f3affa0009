//! Who is compared: kld's tools of this build, and Debian's packages of the same tools in a tree of their own.
#![allow(clippy::disallowed_types, reason = "the tools are started in another root, watched and interrupted")]

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kld_core::error::Trying;
use kld_core::ui::Ui;
use kld_core::{Result, fsio};
use kld_test_support::{root, tool};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

/// Whose tool it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    Kld,
    Libbpf,
    Bpftrace,
    Bcc,
}

/// The peers, with the best first.
pub const PEERS: [Side; 3] = [Side::Libbpf, Side::Bpftrace, Side::Bcc];

impl Side {
    /// Debian's package.
    pub fn package(self) -> &'static str {
        match self {
            Side::Kld => "kld",
            Side::Libbpf => "libbpf-tools",
            Side::Bpftrace => "bpftrace",
            Side::Bcc => "bpfcc-tools",
        }
    }

    /// Where the package has the tool.
    fn path(self, tool: &str) -> String {
        match self {
            Side::Kld => tool.to_string(),
            Side::Libbpf => format!("/usr/sbin/{tool}-libbpf"),
            Side::Bpftrace => format!("/usr/sbin/{tool}.bt"),
            Side::Bcc => format!("/usr/sbin/{tool}-bpfcc"),
        }
    }
}

/// Where all tools are. The tree's mounts are in a mount namespace of this process, and end with it.
pub struct Sides {
    links: TempDir,
    tree: PathBuf,
}

impl Sides {
    /// Makes the peers' tree, once, and enters a mount namespace in which it sees this host's kernel.
    pub fn prepare(tools: &Path, ui: &Ui) -> Result<Sides> {
        let packages = PEERS.map(Side::package);
        let tree = root::clean_tree("peers-trixie", "trixie", &packages, ui)?;
        show_kernel(&tree)?;
        let links = tempfile::tempdir().trying(|| "cannot make a folder".to_string())?;
        for entry in kld_catalog::TRACE.tools {
            tool::link_to(links.path(), entry.name, &tools.join(kld_catalog::TRACE.program));
        }
        Ok(Sides { links, tree })
    }

    /// A peer's version, as its package has it.
    pub fn version(&self, side: Side) -> String {
        let status = fsio::read_text(&self.tree.join("var/lib/dpkg/status"), 64 << 20).ok().flatten();
        let package = format!("Package: {}\n", side.package());
        let of = status.as_deref().unwrap_or_default().split("\n\n").find(|one| one.starts_with(&package));
        let line = of.and_then(|one| one.lines().find_map(|line| line.strip_prefix("Version: ")));
        line.unwrap_or("?").to_string()
    }

    /// The command of a side's tool; `None` where it has none of this name.
    pub fn command(&self, side: Side, name: &str, args: &[&str]) -> Option<Command> {
        let path = side.path(name);
        if side == Side::Kld {
            let mut command = tool::command(&self.links.path().join(path));
            command.args(args);
            return Some(command);
        }
        // A link in it may be absolute.
        self.tree.join(path.trim_start_matches('/')).symlink_metadata().ok()?;
        let mut command = tool::command(Path::new(&path));
        if side != Side::Bpftrace {
            command.args(args);
        }
        let tree = self.tree.clone();
        // SAFETY: two system calls upon a path that was made before the fork.
        unsafe {
            command.pre_exec(move || {
                nix::unistd::chroot(&tree)?;
                Ok(nix::unistd::chdir("/")?)
            })
        };
        command.stdin(Stdio::null());
        Some(command)
    }
}

/// Enters a mount namespace in which the tree has this host's /proc, /sys and /dev. Once a process: the second bench finds
/// them there.
fn show_kernel(tree: &Path) -> Result<()> {
    if tree.join("proc/self").exists() {
        return Ok(());
    }
    let what = || "cannot show the kernel to the peers' tree".to_string();
    unshare(CloneFlags::CLONE_NEWNS).trying(what)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .trying(what)?;
    for folder in ["proc", "sys", "dev"] {
        let (from, to) = (Path::new("/").join(folder), tree.join(folder));
        mount(Some(&from), &to, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
            .trying(what)?;
    }
    let tracing = tree.join("sys/kernel/tracing");
    if !tracing.join("events").exists() {
        mount(Some("tracefs"), &tracing, Some("tracefs"), MsFlags::empty(), None::<&str>).trying(what)?;
    }
    // What of it the older peers ask for is tracefs too.
    let _ = mount(
        Some("debugfs"),
        &tree.join("sys/kernel/debug"),
        Some("debugfs"),
        MsFlags::empty(),
        None::<&str>,
    );
    Ok(())
}
