//! Building kld's programs for `demo`, `test` and `bench`.

use std::path::PathBuf;
use std::time::Duration;

use kld_core::exec::Exec;
use kld_core::{Error, Result};

/// Builds the tools in release mode and makes them the ones that the test hosts run; returns their folder.
pub fn release() -> Result<PathBuf> {
    cargo(&["build", "--release", "--workspace", "--bins"])?;
    let folder = target()?.join("release");
    kld_test_support::tool::use_tools_of(&folder);
    Ok(folder)
}

/// Builds an example of kld-core in release mode; returns its path.
pub fn release_example(name: &str) -> Result<PathBuf> {
    cargo(&["build", "--release", "--package", "kld-core", "--example", name])?;
    Ok(target()?.join("release/examples").join(name))
}

fn cargo(args: &[&str]) -> Result<()> {
    let cargo = std::env::var_os("CARGO").ok_or_else(|| Error::usage("run this as cargo xtask"))?;
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let exec = Exec::at(cargo.as_ref()).args(args).arg("--manifest-path").arg(root);
    exec.keep_environment("").limit(Duration::from_secs(3600)).run().map(drop)
}

/// The target folder of the build that this program is of.
fn target() -> Result<PathBuf> {
    let built = kld_test_support::tool::built_here();
    built.parent().map(PathBuf::from).ok_or_else(|| Error::message("this program is in no target folder"))
}
