//! The appliance's initramfs: busybox, the modules that its devices need, the agent, and a script that mounts the
//! root image under a layer in memory. Without a root image it is a small guest by itself.

use std::collections::BTreeMap;
use std::time::Duration;

use kld_core::error::Trying;
use kld_core::exec::Exec;
use kld_core::{Error, Result, fsio};

use crate::cpio::Archive;
use crate::root::Tree;

/// The first process in the guest.
pub(crate) const INIT: &str = include_str!("initramfs/init.sh");

/// The agent, a static program.
pub(crate) const AGENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/agent"));

/// What the appliance's devices and its root image need of a kernel.
pub(crate) const MODULES: &[&str] =
    &["virtio_pci", "virtio_console", "virtio_blk", "virtio_net", "virtio_rng", "erofs", "overlay"];

/// What serves if the kernel has it, loaded first: a guest that is restored twice must not draw the same random
/// numbers, and erofs counts on a checksum that modules.dep does not name.
pub(crate) const WELCOME: &[&str] = &["vmgenid", "crc32c_generic"];

/// Makes the initramfs for the kernel `release` out of a tree that has it and busybox-static.
pub fn make(tree: &Tree, release: &str) -> Result<Vec<u8>> {
    let folder = tree.path("usr/lib/modules").join(release);
    let text = |name: &str| {
        let path = folder.join(name);
        let missing = || Error::failed(format!("cannot read {}", path.display()), "there is no such file");
        fsio::read_text(&path, 16 << 20)?.ok_or_else(missing)
    };
    let order = load_order(&text("modules.dep")?, &text("modules.builtin")?, MODULES, WELCOME)?;

    let mut archive = Archive::default();
    for path in ["bin", "dev", "proc", "sys", "run", "tmp", "root", "layer", "modules"] {
        archive.folder(path);
    }
    let busybox = tree.path("usr/bin/busybox");
    let program = std::fs::read(&busybox).trying(|| format!("cannot read {}", busybox.display()))?;
    archive.file("bin/busybox", 0o755, &program);
    archive.link("bin/sh", "busybox");
    archive.file("init", 0o755, INIT.as_bytes());
    archive.file("agent", 0o755, AGENT);
    let mut names = String::new();
    for path in &order {
        let file = folder.join(path);
        let name = module_file(path);
        let plain = match path.rsplit_once(".ko") {
            Some((_, "")) => std::fs::read(&file).trying(|| format!("cannot read {}", file.display()))?,
            Some((_, ".xz")) => unpack(Exec::at(&busybox).arg("xzcat").arg(&file))?,
            Some((_, _)) => unpack(tree.program("zstd")?.arg("-dc").arg(&file))?,
            None => return Err(Error::failed(format!("cannot load {path}"), "it is no kernel module")),
        };
        archive.file(&format!("modules/{name}"), 0o644, &plain);
        names.push_str(&name);
        names.push('\n');
    }
    archive.file("modules/order", 0o644, names.as_bytes());
    Ok(archive.finish())
}

fn unpack(program: Exec) -> Result<Vec<u8>> {
    Ok(program.limit(Duration::from_secs(30)).run()?.stdout)
}

/// The file name of a module without its compression.
fn module_file(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    let stem = name.split_once(".ko").map_or(name, |(stem, _)| stem);
    format!("{stem}.ko")
}

/// A module's name: the kernel takes '-' and '_' for the same.
fn module_name(path: &str) -> String {
    module_file(path).trim_end_matches(".ko").replace('-', "_")
}

/// The files to load, each after those that it needs, from depmod's `modules.dep`. What is built into the kernel
/// needs no file.
fn load_order(dep: &str, builtin: &str, wanted: &[&str], welcome: &[&str]) -> Result<Vec<String>> {
    let lines = dep.lines().filter_map(|line| line.split_once(':'));
    let known: BTreeMap<String, (&str, &str)> =
        lines.map(|(path, needs)| (module_name(path), (path, needs))).collect();
    let mut order: Vec<String> = Vec::new();
    for name in welcome.iter().chain(wanted) {
        let Some((path, needs)) = known.get(*name) else {
            if builtin.lines().any(|path| module_name(path) == **name) || welcome.contains(name) {
                continue;
            }
            return Err(Error::failed(format!("cannot load {name}"), "the kernel has no such module"));
        };
        // What comes last is needed first.
        for path in needs.split_whitespace().rev().chain([*path]) {
            if !order.iter().any(|there| there == path) {
                order.push(path.to_string());
            }
        }
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/a/virtio-blk.ko.xz: kernel/b/virtio.ko.xz kernel/b/virtio_ring.ko.xz\n\
                       kernel/b/virtio.ko.xz: kernel/b/virtio_ring.ko.xz\nkernel/b/virtio_ring.ko.xz:\n";

    #[test]
    fn a_module_comes_after_those_that_it_needs_and_once() {
        let order = load_order(DEP, "", &["virtio", "virtio_blk"], &[]).unwrap();
        assert_eq!(
            order,
            ["kernel/b/virtio_ring.ko.xz", "kernel/b/virtio.ko.xz", "kernel/a/virtio-blk.ko.xz"]
        );
    }

    #[test]
    fn what_is_built_in_needs_no_file_and_what_is_missing_is_named() {
        assert_eq!(load_order(DEP, "kernel/fs/erofs/erofs.ko\n", &["erofs"], &["vmgenid"]).unwrap(), [""; 0]);
        let error = load_order(DEP, "", &["erofs"], &[]).unwrap_err();
        assert_eq!(error.to_string(), "cannot load erofs: the kernel has no such module");
    }
}
