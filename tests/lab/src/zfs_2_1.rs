//! OpenZFS 2.1 as Debian 12 has it, the oldest release that kld is tried with. Its programs serve tests as they are; what
//! is linked with its libraries starts with those of every later release, whose sonames are the same.

use std::path::{Path, PathBuf};

use kld_build::{Cache, Digest, Recipe};
use kld_core::error::Trying;
use kld_core::ui::Ui;
use kld_core::{Error, Result};

/// The folder that the files are in, here below the part's own and there below `/run/kld`.
const NAME: &str = "zfs-2.1";

/// Where the files are in a lab that they were brought into.
pub const INSIDE: &str = "/run/kld/zfs-2.1";

/// What is taken from the packages, with the name by which a linker looks for it.
const FILES: &[(&str, Option<&str>)] = &[
    ("zfs", None),
    ("zpool", None),
    ("libnvpair.so.3", Some("libnvpair.so")),
    ("libuutil.so.3", None),
    // The crate nvpair-sys asks linkers for it; nothing is taken from it.
    ("libzfs.so.4", Some("libzfs.so")),
    ("libzfs_core.so.3", Some("libzfs_core.so")),
];

/// The folder with the files; where they are missing or damaged they are fetched, which takes minutes.
pub fn ensure(cache: &Cache, ui: &Ui) -> Result<PathBuf> {
    let recipe = recipe();
    let names = FILES.iter().flat_map(|(file, link)| [*file, link.unwrap_or_default()]);
    let name = format!("{}-{}", recipe.key(), Digest::of(names));
    if cache.find(&name).is_none() {
        ui.note("fetching OpenZFS 2.1 from Debian 12 (minutes, once)");
    }
    let make = |folder: &Path| {
        let tree = folder.join("tree");
        recipe.unpack(&tree)?;
        take(&tree, &folder.join(NAME))?;
        std::fs::remove_dir_all(&tree).trying(|| format!("cannot remove {}", tree.display()))
    };
    Ok(cache.ensure(&name, make)?.into_inner().join(NAME))
}

fn recipe() -> Recipe {
    Recipe {
        name: NAME.to_string(),
        suite: "bookworm".to_string(),
        beside: None,
        components: ["main", "contrib"].map(str::to_string).to_vec(),
        packages: vec!["zfsutils-linux".to_string()],
    }
}

/// Copies the files from where they are in an unpacked tree into one folder, and makes the links.
fn take(tree: &Path, folder: &Path) -> Result<()> {
    let what = || format!("cannot fill {}", folder.display());
    std::fs::create_dir(folder).trying(what)?;
    let libraries = format!("lib/{}-linux-gnu", std::env::consts::ARCH);
    let places = ["sbin", &libraries].map(|place| [tree.join(place), tree.join("usr").join(place)]);
    for (file, link) in FILES {
        let mut found = places.iter().flatten().map(|place| place.join(file)).filter(|path| path.is_file());
        let found = found.next().ok_or_else(|| Error::failed(what(), format!("Debian has no {file}")))?;
        std::fs::copy(found, folder.join(file)).trying(what)?;
        if let Some(link) = link {
            std::os::unix::fs::symlink(file, folder.join(link)).trying(what)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree as the packages lay it out, without the file of this name.
    fn tree_without(missing: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let libraries = format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH);
        for (file, _) in FILES.iter().filter(|(file, _)| *file != missing) {
            let place = dir.path().join(if file.starts_with("lib") { &libraries } else { "sbin" });
            std::fs::create_dir_all(&place).unwrap();
            std::fs::write(place.join(format!("{file}.0")), file).unwrap();
            std::os::unix::fs::symlink(format!("{file}.0"), place.join(file)).unwrap();
        }
        dir
    }

    #[test]
    fn the_files_come_into_one_folder_under_the_names_that_loaders_and_linkers_look_for() {
        let tree = tree_without("");
        let folder = tree.path().join("taken");
        take(tree.path(), &folder).unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
        for name in ["zfs", "libzfs_core.so.3", "libuutil.so.3"] {
            assert_eq!(read(name), name);
        }
        assert_eq!(read("libzfs_core.so"), "libzfs_core.so.3");
    }

    #[test]
    fn a_file_that_the_packages_lack_is_named() {
        let tree = tree_without("libzfs.so.4");
        let refused = take(tree.path(), &tree.path().join("taken")).unwrap_err();
        assert!(refused.to_string().ends_with("Debian has no libzfs.so.4"), "{refused}");
    }
}
