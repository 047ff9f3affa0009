//! Starting the tools, and whether this host lets them trace.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use kld_ebpf::privilege;
use kld_test_support::tool;

/// The folder with links to the tools; the test's own, gone with it.
pub struct Tools(tempfile::TempDir);

impl Tools {
    pub fn new() -> Tools {
        Tools(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        tool::link_to(self.0.path(), name, Path::new(env!("CARGO_BIN_EXE_kld-trace")))
    }

    pub fn start(&self, name: &str, args: &[&str]) -> Child {
        let mut command = tool::command(&self.path(name));
        command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }
}

/// Says why nothing can be traced here, and whether that is so.
pub fn cannot_trace() -> bool {
    let able = privilege::check().and_then(|()| privilege::check_pid_namespace());
    if let Err(error) = &able {
        eprintln!("not tested: {error}");
    }
    able.is_err()
}
