//! Parts that were damaged, or that another version made, are never used. Root trees and modules are small stand-ins
//! here, under the names of real ones.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kld_build::appliance::{Design, Qemu, Shape};
use kld_build::modules::Wanted;
use kld_build::{Cache, Image, Recipe, Tree};
use kld_core::{ByteSize, fsio};

type Damage = fn(&Path);

/// What happens to a part, given one of its files.
const DAMAGES: [(&str, Damage); 3] = [
    ("removed", |file| std::fs::remove_file(file).unwrap()),
    ("cut short", |file| {
        let file = File::options().write(true).open(file).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    }),
    ("one byte flipped, its time as before", flip),
];

fn flip(path: &Path) {
    // File systems tell times some milliseconds apart.
    std::thread::sleep(Duration::from_millis(20));
    let file = File::options().read(true).write(true).open(path).unwrap();
    let (time, mut byte) = (file.metadata().unwrap().modified().unwrap(), [0]);
    file.read_exact_at(&mut byte, 0).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 0).unwrap();
    file.set_modified(time).unwrap();
}

fn write(path: PathBuf, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    fsio::replace(&path, text.as_bytes(), 0o644).unwrap();
}

fn recipe(packages: &[&str]) -> Recipe {
    let packages = packages.iter().map(ToString::to_string).collect();
    Recipe {
        name: "lab".into(),
        suite: "trixie".into(),
        beside: None,
        components: vec!["main".into()],
        packages,
    }
}

const KERNEL: &str = "6.12.1-amd64";

/// Puts a tree into the cache that has a kernel and OpenZFS's programs, by name.
fn put_tree(cache: &Cache, recipe: &Recipe, kernel: &str) -> Tree {
    let make = |folder: &Path| {
        let tree = folder.join("tree");
        write(tree.join(format!("boot/vmlinuz-{KERNEL}")), kernel);
        write(tree.join(format!("usr/lib/modules/{KERNEL}/modules.dep")), "");
        let status = "Package: zfsutils-linux\nStatus: install ok installed\nVersion: 2.3.2-2\n";
        write(tree.join("var/lib/dpkg/status"), status);
        Ok(())
    };
    cache.ensure(&recipe.key(), make).unwrap();
    recipe.find(cache).expect("it was just made")
}

fn put_modules(cache: &Cache, wanted: &Wanted) {
    let make = |folder: &Path| {
        write(folder.join("modules.tar.zst"), "modules");
        Ok(())
    };
    cache.ensure(&wanted.key(), make).unwrap();
}

#[test]
fn a_damaged_root_tree_is_not_used() {
    for (what, damage) in DAMAGES {
        let dir = tempfile::tempdir().unwrap();
        let (cache, recipe) = (Cache::new(dir.path()), recipe(&[]));
        damage(&put_tree(&cache, &recipe, "kernel").path("boot").join(format!("vmlinuz-{KERNEL}")));
        assert!(recipe.find(&cache).is_none(), "{what}");
        assert!(!cache.check(&recipe.key()).unwrap(), "{what}");
    }
}

#[test]
fn damaged_modules_are_not_used() {
    for (what, damage) in DAMAGES {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path());
        let wanted = Wanted::by(&put_tree(&cache, &recipe(&[]), "kernel"), "trixie").unwrap();
        put_modules(&cache, &wanted);
        damage(wanted.find(&cache).expect("they were just made").archive());
        assert!(wanted.find(&cache).is_none(), "{what}");
    }
}

#[test]
fn what_another_version_made_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path());
    let tree = put_tree(&cache, &recipe(&[]), "kernel");
    assert!(recipe(&["fio"]).find(&cache).is_none(), "another list of packages");
    let wanted = Wanted::by(&tree, "trixie").unwrap();
    put_modules(&cache, &wanted);
    for other in [
        Wanted { zfs: "2.3.3-1".into(), ..wanted.clone() },
        Wanted { kernel: "6.12.2-amd64".into(), ..wanted.clone() },
        Wanted { suite: "forky".into(), ..wanted.clone() },
    ] {
        assert!(other.find(&cache).is_none(), "{other:?}");
    }
    let key = |tree: &Tree| Image::key(tree, None, false).unwrap();
    let before = key(&tree);
    std::fs::remove_file(tree.path("boot").join(format!("vmlinuz-{KERNEL}"))).unwrap();
    assert_ne!(before, key(&put_tree(&cache, &recipe(&[]), "another kernel")), "a tree of other contents");
}

#[test]
#[ignore = "boots guests, which takes minutes: cargo xtask lab test"]
fn a_damaged_image_or_state_is_made_again_and_works() {
    let root = kld_test_support::Root::ensure(&kld_core::ui::Ui::default()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (cache, tree) = (Cache::new(dir.path()), Tree::at(root.tree()));
    let image = || Image::ensure(&cache, &tree, None, true).unwrap();
    let shape = Shape { memory: ByteSize::mib(256), processors: 1, disks: Vec::new(), interfaces: 0 };
    let design =
        Design { qemu: Qemu::of(&tree), image: image().into_inner(), shape, patience: Design::PATIENCE };
    for (what, damage) in DAMAGES {
        damage(&design.image.initramfs);
        assert!(image().is_changed(), "the image: {what}");
    }
    let name = design.key().unwrap();
    let state = || cache.ensure(&name, |folder| design.boot(&[])?.save(folder)).unwrap();
    let memory = state().into_inner().join("memory");
    for (what, damage) in DAMAGES {
        // One is made again to the end, since it takes a boot.
        damage(&memory);
        assert!(cache.find(&name).is_none(), "the state: {what}");
        std::fs::write(&memory, "half").unwrap();
    }
    assert!(state().is_changed());
    let guest = design.restore(memory.parent().unwrap(), &[]).unwrap();
    assert_eq!(guest.agent().ask(&["echo", "up"]).unwrap(), "up\n");
}

#[test]
#[ignore = "boots guests, which takes minutes: cargo xtask lab test"]
fn a_guest_that_hangs_costs_a_limited_time() {
    let root = kld_test_support::Root::ensure(&kld_core::ui::Ui::default()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (cache, tree) = (Cache::new(dir.path()), Tree::at(root.tree()));
    let mut image = Image::ensure(&cache, &tree, None, true).unwrap().into_inner();
    // The kernel takes several archives, and of two files of one name the last.
    let hung = dir.path().join("hung");
    let mut archive = std::fs::read(&image.initramfs).unwrap();
    archive.extend(newc("init", "#!/bin/sh\necho here I hang\nwhile :; do /bin/busybox sleep 1; done\n"));
    std::fs::write(&hung, archive).unwrap();
    image.initramfs = hung;
    let shape = Shape { memory: ByteSize::mib(256), processors: 1, disks: Vec::new(), interfaces: 0 };
    let design = Design { qemu: Qemu::of(&tree), image, shape, patience: Duration::from_secs(20) };

    let start = std::time::Instant::now();
    let error = design.boot(&[]).unwrap_err().to_string();
    let took = start.elapsed();
    assert!(error.starts_with("the guest does not boot"), "{error}");
    assert!((40..80).contains(&took.as_secs()), "it is tried twice, 20 s each: {took:?}");
}

/// A file as an archive of its own that the kernel unpacks.
fn newc(name: &str, text: &str) -> Vec<u8> {
    let entry = |name: &str, mode: u32, text: &str| {
        let fields = [1, mode, 0, 0, 1, 0, text.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        let mut entry = b"070701".to_vec();
        fields.iter().for_each(|field| entry.extend(format!("{field:08x}").bytes()));
        for piece in [format!("{name}\0"), text.to_string()] {
            entry.extend(piece.bytes());
            entry.resize(entry.len().next_multiple_of(4), 0);
        }
        entry
    };
    [entry(name, 0o100_755, text), entry("TRAILER!!!", 0, "")].concat()
}
