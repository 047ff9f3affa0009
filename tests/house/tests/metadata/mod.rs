//! `cargo metadata` of the workspace.
#![allow(clippy::disallowed_types, reason = "a test asks cargo itself, whose path cargo hands on")]

use std::process::Command;

use serde_json::Value;

/// What cargo says of the workspace, asked with these further arguments.
pub fn metadata(args: &[&str]) -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--locked"])
        .args(args)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON")
}
