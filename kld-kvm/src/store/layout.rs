use std::fs::File;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use kld_core::{Error, MachineName, Result, fsio};
use nix::fcntl::Flock;
use uuid::Uuid;

/// Folders can be passed through by everybody and listed by root alone: libvirt's qemu user has to reach a volume
/// whose path it was told.
const FOLDER_MODE: u32 = 0o711;
/// How long a commit waits for another one, which holds the lock for a scan of the records.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where everything is in the store.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    root: PathBuf,
    volumes: PathBuf,
    machines: PathBuf,
    /// How many deeds a test still allows.
    #[cfg(test)]
    pub fuse: std::sync::Arc<std::sync::Mutex<Option<usize>>>,
}

impl Layout {
    pub(super) fn new(root: &Path) -> Self {
        // An absolute path cannot be had only where the working folder is gone; the first access will tell then.
        let root = std::path::absolute(root).unwrap_or_else(|_| root.to_path_buf());
        Layout {
            volumes: root.join("volumes"),
            machines: root.join("machines"),
            root,
            #[cfg(test)]
            fuse: std::sync::Arc::default(),
        }
    }

    /// Comes before everything that changes a file, so that tests can end a run there as a kill would.
    pub(super) fn deed(&self) -> Result<()> {
        #[cfg(test)]
        {
            let mut fuse = self.fuse.lock().expect("nobody panics with it");
            match *fuse {
                Some(0) => {
                    *fuse = None;
                    return Err(Error::message("the test ends the run here"));
                }
                Some(left) => *fuse = Some(left - 1),
                None => {}
            }
        }
        Ok(())
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn volumes(&self) -> &Path {
        &self.volumes
    }

    pub(super) fn machines(&self) -> &Path {
        &self.machines
    }

    /// The folder of a machine's state files and of its record.
    pub(super) fn machine(&self, name: &MachineName) -> PathBuf {
        self.machines.join(name)
    }

    pub(super) fn record(&self, name: &MachineName) -> PathBuf {
        self.machine(name).join("set.json")
    }

    /// The list of what a change stages, there while it is neither committed nor reverted.
    pub(super) fn staged(&self, change: Uuid) -> PathBuf {
        self.root.join("staged").join(format!("{change}.json"))
    }

    /// A state file by its path within a machine's folder; an error for one that would leave it, or that would
    /// hide among the store's own files.
    pub(super) fn state_file(&self, name: &MachineName, path: &Path) -> Result<PathBuf> {
        let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
        let hidden = path.to_string_lossy().starts_with('.');
        if !plain || hidden || path.as_os_str().is_empty() || path == Path::new("set.json") {
            return Err(Error::message(format!("'{}' cannot be a state file of {name}", path.display())));
        }
        Ok(self.machine(name).join(path))
    }

    /// Whether a file was made by this store, which alone may change or remove it.
    pub(super) fn is_ours(&self, path: &Path) -> bool {
        path.parent() == Some(&self.volumes)
    }

    /// A path for a new volume. It is never given again, so that a file which others know never changes its place
    /// or its meaning.
    pub(super) fn new_volume(&self, machine: &MachineName, disk: &str) -> Result<PathBuf> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if disk.is_empty() || disk.len() > 63 || disk.starts_with('.') || !disk.chars().all(allowed) {
            return Err(Error::message(format!(
                "the disk name '{}' of {machine} cannot be part of a file name",
                disk.escape_debug()
            )));
        }
        loop {
            let [a, b, c, d, ..] = Uuid::new_v4().into_bytes();
            let path = self.volumes.join(format!("{machine}.{disk}.{a:02x}{b:02x}{c:02x}{d:02x}.qcow2"));
            if path.symlink_metadata().is_err() {
                return Ok(path);
            }
        }
    }

    /// Makes the store's own folders where they are missing.
    pub(super) fn make(&self) -> Result<()> {
        let staged = self.root.join("staged");
        if [&self.volumes, &self.machines, &staged].iter().all(|folder| folder.is_dir()) {
            return Ok(());
        }
        make_folder(&self.root)?;
        make_folder(&self.volumes)?;
        make_folder(&self.machines)?;
        make_folder(&staged)?;
        fsio::sync_dir(&self.root)
    }

    /// Excludes every other commit. Held for a short time only, and released when the value is dropped.
    pub(super) fn lock(&self) -> Result<Flock<File>> {
        let path = self.root.join("lock");
        fsio::lock(&path, PATIENCE)?.ok_or_else(|| {
            Error::busy(format!("another kld tool holds the lock {}", path.display()))
                .with_hint("wait until it is done, then try again")
        })
    }
}

/// Makes a folder and those above it. The mode is set afterwards, because the umask may have taken from it.
pub(super) fn make_folder(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if path.symlink_metadata().is_ok() {
        return Err(Error::message(format!("{} is not a folder", path.display()))
            .with_hint("move it away, or name another folder (store-root in the configuration)"));
    }
    if let Some(above) = path.parent() {
        make_folder(above)?;
    }
    match fsio::create_dir_new(path, FOLDER_MODE) {
        Ok(()) => fsio::set_mode(path, FOLDER_MODE),
        // Another process was faster.
        Err(_) if path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}
