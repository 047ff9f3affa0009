//! `cargo xtask generate ebpf`: kld's BPF programs, built from their sources to the byte.
//!
//! It takes stable Rust, its own library's source (rustup's component rust-src) and bpf-linker, which is built once
//! against the very LLVM that the compiler brings, and kept in the cache folder.
#![allow(
    clippy::disallowed_types,
    reason = "people watch the build, and rustup's folders are found by its variables"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use kld_build::{Cache, Digest};
use kld_core::error::Trying;
use kld_core::ui::Ui;
use kld_core::{Error, Result, fsio};

use crate::shell;

/// The linker, and the LLVM that stable Rust 1.95 brings.
const LINKER: [&str; 7] =
    ["bpf-linker", "--version", "0.13.0", "--locked", "--no-default-features", "--features", "llvm-22"];

/// What the objects were built from, written beside them.
const SOURCES: &str = "sources.digest";

/// Build the BPF programs into kld-ebpf/objects
#[derive(clap::Args)]
pub struct Args {
    /// Write nothing: fail where the objects there are not to the byte what their sources give
    #[arg(long)]
    check: bool,
}

impl Args {
    /// What the long test asks for.
    pub fn check() -> Self {
        Args { check: true }
    }
}

pub fn run(args: &Args, ui: &Ui) -> Result<()> {
    let crate_folder = shell::workspace().join("kld-ebpf");
    let built = build(&crate_folder, ui)?;
    let objects = crate_folder.join("objects");
    let programs = programs(&crate_folder)?;
    for program in &programs {
        let bytes = fsio::read_bytes(&built.join(program), 16 << 20)?
            .ok_or_else(|| Error::message(format!("{program} was not built")))?;
        let object = objects.join(format!("{program}.o"));
        if args.check && fsio::read_bytes(&object, 16 << 20)?.as_deref() != Some(bytes.as_slice()) {
            return Err(Error::message(format!("{} is not what its source gives", object.display()))
                .with_hint("cargo xtask generate ebpf"));
        }
        if !args.check {
            fsio::replace(&object, &bytes, 0o644)?;
        }
    }
    if !args.check {
        fsio::replace(&objects.join(SOURCES), format!("{}\n", digest(&crate_folder)?).as_bytes(), 0o644)?;
    }
    let state = if args.check { "are what their sources give" } else { "are in kld-ebpf/objects" };
    ui.line(format!("{} BPF programs {state}", programs.len()))
}

/// The programs' names: a file each.
fn programs(crate_folder: &Path) -> Result<Vec<String>> {
    let files = sources(&crate_folder.join("programs/src/bin"))?;
    Ok(files.iter().filter_map(|path| Some(path.file_stem()?.to_str()?.to_string())).collect())
}

/// Every Rust source below a folder, sorted.
fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let what = || format!("cannot read {}", folder.display());
        for entry in std::fs::read_dir(&folder).trying(what)? {
            let path = entry.trying(what)?.path();
            match path.is_dir() {
                true => folders.push(path),
                false => found.extend((path.extension().is_some_and(|end| end == "rs")).then_some(path)),
            }
        }
    }
    found.sort();
    Ok(found)
}

/// A digest of all that the objects are made of, which tells without building that one has changed.
fn digest(crate_folder: &Path) -> Result<Digest> {
    let manifests = ["programs/Cargo.toml", "programs/Cargo.lock", "events/Cargo.toml"];
    let mut files: Vec<PathBuf> = manifests.iter().map(|name| crate_folder.join(name)).collect();
    files.extend(sources(&crate_folder.join("events/src"))?);
    files.extend(sources(&crate_folder.join("programs/src"))?);
    files.iter().try_fold(Digest::default(), |digest, path| {
        let name = path.strip_prefix(crate_folder).unwrap_or(path);
        let text = fsio::read_bytes(path, 1 << 20)?.unwrap_or_default();
        Ok(digest.with(name.as_os_str().as_encoded_bytes()).with(&text))
    })
}

/// Builds the programs; returns the folder that they are in.
fn build(crate_folder: &Path, ui: &Ui) -> Result<PathBuf> {
    let rust = Rust::find()?;
    let library = rust.library(ui)?;
    let linker = rust.linker(ui)?;
    let target = shell::workspace().join("target/bpf");
    let mut cargo = shell::cargo(&["build", "--release", "--bins", "--locked", "-Zbuild-std=core"]);
    cargo.args(["--target", "bpfel-unknown-none", "--target-dir"]).arg(&target);
    cargo.current_dir(crate_folder.join("programs"));
    // The same bytes wherever the sources lie.
    let remaps = [
        (library.as_path(), "/rust"),
        (&cargo_home().join("registry/src"), "/registry"),
        (&shell::workspace(), "/kld"),
    ]
    .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()));
    let path = format!("{}:{}", linker.display(), std::env::var("PATH").unwrap_or_default());
    cargo.env("RUSTFLAGS", remaps.join(" ")).env("RUSTC_BOOTSTRAP", "1").env("PATH", path);
    cargo.env("LD_LIBRARY_PATH", rust.root.join("lib")).env_remove("CARGO_BUILD_TARGET");
    shell::watch(ui, cargo)?;
    Ok(target.join("bpfel-unknown-none/release"))
}

fn cargo_home() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cargo");
    std::env::var_os("CARGO_HOME").map_or_else(home, PathBuf::from)
}

/// The compiler that builds kld.
struct Rust {
    root: PathBuf,
    version: String,
}

impl Rust {
    fn find() -> Result<Rust> {
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let ask = |question: &[&str]| -> Result<String> {
            let asked = Command::new(&rustc).args(question).output().trying(|| "cannot run rustc".into())?;
            Ok(String::from_utf8_lossy(&asked.stdout).trim().to_string())
        };
        let version = ask(&["--version"])?;
        let version = version.split(' ').nth(1).unwrap_or_default().to_string();
        Ok(Rust { root: PathBuf::from(ask(&["--print", "sysroot"])?), version })
    }

    /// The source of Rust's own library, added to the toolchain where it is missing.
    fn library(&self, ui: &Ui) -> Result<PathBuf> {
        let library = self.root.join("lib/rustlib/src/rust/library");
        if !library.is_dir() {
            let mut rustup = Command::new("rustup");
            rustup.args(["component", "add", "rust-src"]);
            shell::watch(ui, rustup)?;
        }
        Ok(library)
    }

    /// The folder with bpf-linker, built against the compiler's LLVM where it is missing.
    fn linker(&self, ui: &Ui) -> Result<PathBuf> {
        let name = format!("bpf-linker-{}-rust-{}", LINKER[2], self.version);
        let made = Cache::of_user().ensure(&name, |folder| {
            let llvm = tempfile::tempdir().trying(|| "cannot make a folder".into())?;
            let lib = llvm.path().join("lib");
            fsio::create_dir_all(&lib, 0o755)?;
            let own = self.llvm()?;
            let file = own.file_name().unwrap_or_default();
            for link in [lib.join("libLLVM.so"), lib.join(file)] {
                let what = || format!("cannot make {}", link.display());
                std::os::unix::fs::symlink(&own, &link).trying(what)?;
            }
            let mut install = shell::cargo(&["install", "--root"]);
            install.arg(folder).args(LINKER).env("LLVM_PREFIX", llvm.path()).current_dir("/");
            shell::watch(ui, install)?;
            // Cargo's records of what it has installed are of no use here.
            std::fs::rename(folder.join("bin/bpf-linker"), folder.join("bpf-linker"))
                .and_then(|()| std::fs::remove_dir(folder.join("bin")))
                .trying(|| "cannot keep bpf-linker".into())
        });
        Ok(made?.into_inner())
    }

    /// The shared library that the compiler itself is linked with.
    fn llvm(&self) -> Result<PathBuf> {
        let lib = self.root.join("lib");
        let entries = std::fs::read_dir(&lib).trying(|| format!("cannot read {}", lib.display()))?;
        let mut files = entries.flatten().map(|entry| entry.path());
        let is_llvm = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.starts_with("libLLVM.so.") && name.contains("-rust-")
        };
        files.find(is_llvm).ok_or_else(|| Error::message("the compiler brings no LLVM of its own"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_objects_are_of_the_sources_that_lie_beside_them() {
        let crate_folder = shell::workspace().join("kld-ebpf");
        let written = fsio::read_text(&crate_folder.join("objects").join(SOURCES), 64).unwrap().unwrap();
        let now = digest(&crate_folder).unwrap().to_string();
        assert_eq!(written.trim(), now, "the sources have changed: cargo xtask generate ebpf");
        let objects = crate_folder.join("objects");
        let missing = programs(&crate_folder).unwrap();
        let missing: Vec<_> =
            missing.iter().filter(|name| !objects.join(format!("{name}.o")).is_file()).collect();
        assert!(missing.is_empty(), "no objects of {missing:?}");
    }
}
