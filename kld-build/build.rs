//! Compiles the appliance's agent: a static program, so that it runs in any guest.
#![allow(
    clippy::disallowed_types,
    reason = "a build script asks the compiler itself, whose path cargo hands on"
)]

use std::path::PathBuf;
use std::process::Command;

fn main() {
    for path in ["agent/main.rs", "src/appliance/wire.rs", "build.rs"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let variable = |name: &str| std::env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name}"));
    let mut compiler = Command::new(variable("RUSTC"));
    compiler
        .args([
            "--edition=2024",
            "--crate-name=kld_agent",
            "--crate-type=bin",
            "-Copt-level=2",
            "-Cpanic=abort",
        ])
        .args(["-Ctarget-feature=+crt-static", "-Cstrip=symbols", "-Dwarnings", "--target"])
        .arg(variable("TARGET"))
        .arg("-o")
        .arg(PathBuf::from(variable("OUT_DIR")).join("agent"))
        .arg("agent/main.rs");
    match compiler.status() {
        Ok(status) if status.success() => {}
        other => panic!("cannot compile the appliance's agent: {other:?}"),
    }
}
