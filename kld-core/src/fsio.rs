//! Files made safely: never through a link, never half-written, durable before they count.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

use crate::error::Trying;
use crate::{Change, Error, Result};

/// Creates a file that must not exist yet, not following links.
pub fn create_new(path: &Path, mode: u32) -> Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC)
        .open(path)
        .trying(|| format!("cannot create {}", path.display()))
}

/// How the names of files end that [`replace`] is writing.
pub const TEMPORARY: &str = "kld-new";

/// Locks a file that is made where it is not, not following links; `None` where somebody else holds the lock for all
/// of `patience`. The kernel drops the lock with the process that holds it, however that ends.
pub fn lock(path: &Path, patience: Duration) -> Result<Option<Flock<File>>> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC)
        .open(path)
        .trying(|| format!("cannot open the lock {}", path.display()))?;
    let deadline = Instant::now() + patience;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => return Ok(Some(locked)),
            Err((returned, nix::errno::Errno::EWOULDBLOCK)) => file = returned,
            Err((_, errno)) => return Err(errno).trying(|| format!("cannot lock {}", path.display())),
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Replaces the contents of `path` in one step: readers and crashes see the old or the new file, never a part.
/// The new contents are on the disk when this returns.
pub fn replace(path: &Path, contents: &[u8], mode: u32) -> Result<()> {
    let temporary = temporary_beside(path);
    remove_if_exists(&temporary)?;
    let mut file = create_new(&temporary, mode)?;
    let written = file.write_all(contents).and_then(|()| file.sync_data());
    written
        .trying(|| format!("cannot write {}", path.display()))
        .and_then(|()| {
            std::fs::rename(&temporary, path).trying(|| format!("cannot write {}", path.display()))
        })
        .inspect_err(|_| drop(std::fs::remove_file(&temporary)))
}

/// Where [`replace`] writes before it renames: a hidden file in the same folder, so that a killed run's leavings
/// are known by name.
pub fn temporary_beside(path: &Path) -> std::path::PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    path.with_file_name(format!(".{name}.{TEMPORARY}"))
}

/// Makes the names in a folder durable.
pub fn sync_dir(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .trying(|| format!("cannot write the folder {} to the disk", path.display()))
}

/// Removes a file; one that is not there is as wanted.
pub fn remove_if_exists(path: &Path) -> Result<Change<()>> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(Change::Changed(())),
        // A read-only file system, or a file in the place of the folder, has its own words for what is not there.
        Err(_) if is_absent(path) => Ok(Change::Unchanged(())),
        Err(error) => Err(error).trying(|| format!("cannot remove {}", path.display())),
    }
}

fn is_absent(path: &Path) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    path.symlink_metadata().is_err_and(|error| matches!(error.kind(), NotFound | NotADirectory))
}

/// Removes an empty folder; one that is not there, or holds something, is left.
pub fn remove_dir_if_empty(path: &Path) -> Result<Change<()>> {
    match std::fs::remove_dir(path) {
        Ok(()) => Ok(Change::Changed(())),
        Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => Ok(Change::Unchanged(())),
        Err(_) if is_absent(path) => Ok(Change::Unchanged(())),
        Err(error) => Err(error).trying(|| format!("cannot remove the folder {}", path.display())),
    }
}

/// Makes a folder with this mode, and those above it that everybody may pass through (0755): QEMU runs as a user of
/// its own and must reach its disks below. The umask does not matter. Folders that are there stay as they are.
pub fn create_dir_all(path: &Path, mode: u32) -> Result<()> {
    let what = || format!("cannot create the folder {}", path.display());
    let missing: Vec<&Path> = path.ancestors().take_while(|folder| !folder.exists()).collect();
    for folder in missing.into_iter().rev().filter(|folder| !folder.as_os_str().is_empty()) {
        let mode = if folder == path { mode } else { 0o755 };
        match std::fs::DirBuilder::new().mode(mode).create(folder) {
            Ok(()) => std::fs::set_permissions(folder, Permissions::from_mode(mode)).trying(what)?,
            // Another run made it meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && folder.is_dir() => {}
            Err(error) => return Err(error).trying(what),
        }
    }
    match path.is_dir() {
        true => Ok(()),
        false => Err(Error::failed(what(), "something else is there")),
    }
}

/// Makes a folder that must not be there yet.
pub fn create_dir_new(path: &Path, mode: u32) -> Result<()> {
    std::fs::DirBuilder::new()
        .mode(mode)
        .create(path)
        .trying(|| format!("cannot create the folder {}", path.display()))
}

/// Sets the permission bits of a file.
pub fn set_mode(path: &Path, mode: u32) -> Result<()> {
    std::fs::set_permissions(path, Permissions::from_mode(mode))
        .trying(|| format!("cannot change the permissions of {}", path.display()))
}

/// Reads a small text file; `None` where there is none. Refuses one of more than `limit` bytes.
pub fn read_text(path: &Path, limit: u64) -> Result<Option<String>> {
    let Some(bytes) = read_bytes(path, limit)? else { return Ok(None) };
    let text = String::from_utf8(bytes);
    text.map(Some).map_err(|_| Error::failed(format!("cannot read {}", path.display()), "it is not UTF-8"))
}

/// Reads a small file; `None` where there is none, or a file in the place of its folder. Refuses one of more than
/// `limit` bytes.
pub fn read_bytes(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    let what = || format!("cannot read {}", path.display());
    let file = match File::open(path) {
        Err(error) if matches!(error.kind(), NotFound | NotADirectory) => return Ok(None),
        opened => opened.trying(what)?,
    };
    // Files of the kernel do not say how long they are; most are shorter than this.
    let mut bytes = Vec::with_capacity(4096);
    // One byte more than allowed tells a file that is too large, and one that grows while it is read.
    file.take(limit + 1).read_to_end(&mut bytes).trying(what)?;
    if bytes.len() as u64 > limit {
        return Err(Error::failed(what(), format!("it is larger than {limit} bytes")));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        replace(&path, b"one", 0o600).unwrap();
        replace(&path, b"two", 0o600).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_is_below_a_file_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let below = dir.path().join("file/below");
        assert_eq!(read_bytes(&below, 9).unwrap(), None);
        assert!(!remove_if_exists(&below).unwrap().is_changed());
        assert!(!remove_dir_if_empty(&below).unwrap().is_changed());
    }

    #[test]
    fn folders_above_a_private_one_let_everybody_through() {
        let dir = tempfile::tempdir().unwrap();
        let private = dir.path().join("kld/state/locks");
        create_dir_all(&private, 0o700).unwrap();
        create_dir_all(&private, 0o755).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&private), 0o700);
        assert_eq!(mode(&dir.path().join("kld/state")), 0o755);
        assert_eq!(mode(&dir.path().join("kld")), 0o755);
    }

    #[test]
    fn a_new_file_is_not_made_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("target"), &link).unwrap();
        assert!(create_new(&link, 0o600).is_err());
        assert!(!dir.path().join("target").exists());
    }
}
