//! The appliance's image: a root tree as one compressed read-only file, with its kernel and an initramfs beside it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kld_core::error::Trying;
use kld_core::{Change, Result, fsio};

use crate::cache::{self, Cache};
use crate::contained;
use crate::digest::Digest;
use crate::initramfs;
use crate::modules::Modules;
use crate::root::Tree;

const PACK: &str = include_str!("image/pack.sh");

/// What an appliance boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The kernel.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// The root file system; without one, the initramfs is all there is.
    pub root: Option<PathBuf>,
}

impl Image {
    /// The image of a tree and of modules that the tree lacks; packed, or packed again where it is damaged. The tree
    /// must have a kernel, busybox-static and, unless it is to be `bare`, kmod, zstd and mkfs.erofs.
    pub fn ensure(
        cache: &Cache,
        tree: &Tree,
        modules: Option<&Modules>,
        bare: bool,
    ) -> Result<Change<Image>> {
        let release = tree.kernel()?;
        let made = cache.ensure(&Image::key(tree, modules, bare)?, |folder| {
            let image = Image::in_folder(folder, bare);
            let kernel = tree.path("boot").join(format!("vmlinuz-{release}"));
            std::fs::copy(&kernel, &image.kernel).trying(|| format!("cannot copy {}", kernel.display()))?;
            fsio::replace(&image.initramfs, &initramfs::make(tree, &release)?, 0o644)?;
            image.root.as_ref().map_or(Ok(()), |root| pack(tree, &release, modules, folder, root))
        })?;
        Ok(match made {
            Change::Unchanged(folder) => Change::Unchanged(Image::in_folder(&folder, bare)),
            Change::Changed(folder) => Change::Changed(Image::in_folder(&folder, bare)),
        })
    }

    /// The image of a tree and modules, where it is packed and whole.
    pub fn find(cache: &Cache, tree: &Tree, modules: Option<&Modules>, bare: bool) -> Result<Option<Image>> {
        Ok(cache.find(&Image::key(tree, modules, bare)?).map(|folder| Image::in_folder(&folder, bare)))
    }

    /// The name in the cache: another tree, other modules or another agent are another image.
    pub fn key(tree: &Tree, modules: Option<&Modules>, bare: bool) -> Result<String> {
        let release = tree.kernel()?;
        let parts = [
            PACK.as_bytes(),
            initramfs::INIT.as_bytes(),
            initramfs::AGENT,
            release.as_bytes(),
            &[bare.into()],
        ];
        let names = initramfs::MODULES.iter().chain(initramfs::WELCOME);
        let mut digest = names.fold(Digest::of(parts), |digest, name| digest.with(name.as_bytes()));
        for origin in [Some(tree.root()), modules.map(Modules::archive)].into_iter().flatten() {
            // What the folder holds, so that a tree that was made again is packed again.
            let held = cache::held(origin.parent().unwrap_or(origin)).unwrap_or_default();
            digest = digest.with(origin.as_os_str().as_encoded_bytes()).with(held.as_bytes());
        }
        Ok(format!("image-{digest}"))
    }

    fn in_folder(folder: &Path, bare: bool) -> Image {
        let root = (!bare).then(|| folder.join("root.erofs"));
        Image { kernel: folder.join("vmlinuz"), initramfs: folder.join("initramfs"), root }
    }
}

fn pack(tree: &Tree, release: &str, modules: Option<&Modules>, folder: &Path, root: &Path) -> Result<()> {
    let script = folder.join("pack.sh");
    fsio::replace(&script, PACK.as_bytes(), 0o644)?;
    let archive = modules.map_or(PathBuf::new(), |modules| modules.archive().to_path_buf());
    let pack = contained("bash").arg(&script).args([tree.root(), root, &archive]).arg(release);
    pack.limit(Duration::from_secs(900)).run()?;
    fsio::remove_if_exists(&script).map(drop)
}
