//! Locks on names, held by a process and gone with it, that say who holds them; and QEMU's on what it has open.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;
use std::time::Duration;

use nix::fcntl::{FcntlArg, Flock, fcntl};
use nix::libc;
use serde::{Deserialize, Serialize};

use crate::error::Trying;
use crate::{Error, MachineName, Result, fsio, time};

/// QEMU locks single bytes of an image or device that it has open: permissions from byte 100, shared ones from byte 200
/// (`RAW_LOCK_PERM_BASE` and `RAW_LOCK_SHARED_BASE` in block/file-posix.c). The first byte and the length of it all.
const QEMU: (i64, i64) = (100, 200);

/// Whether QEMU or one of its tools has this file or device open in another process.
pub fn held_by_qemu(file: &File) -> std::io::Result<bool> {
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: QEMU.0,
        l_len: QEMU.1,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(lock.l_type != libc::F_UNLCK as i16)
}

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its process id.
    pub pid: i32,
    /// The tool it runs.
    pub tool: String,
    /// Since when, in seconds since 1970.
    pub since: u64,
}

/// An exclusive lock on one machine's name. The kernel drops it when the process ends, however it ends; the
/// small file stays, since removing a lock file that another process is about to lock is a race.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock on `name` under `state_dir/locks`, waiting at most `patience` for its holder.
    ///
    /// # Errors
    /// [`Error::Busy`], naming the holder, when it does not become free in time.
    pub fn take(state_dir: &Path, name: &MachineName, tool: &str, patience: Duration) -> Result<Lock> {
        let folder = state_dir.join("locks");
        fsio::create_dir_all(&folder, 0o700)?;
        let path = folder.join(format!("{name}.lock"));
        let mut locked = fsio::lock(&path, patience)?.ok_or_else(|| busy(name, &path))?;
        let holder = Holder { pid: std::process::id() as i32, tool: tool.to_string(), since: time::now() };
        let text = serde_json::to_string(&holder).unwrap_or_default();
        // Cut after it is written: a file that is emptied first, ext4 writes to the disk when it is closed.
        let written = locked.rewind().and_then(|()| locked.write_all(text.as_bytes()));
        written
            .and_then(|()| locked.set_len(text.len() as u64))
            .trying(|| format!("cannot write the lock {}", path.display()))?;
        Ok(Lock { _file: locked })
    }

    /// Takes the locks of several names, always in the same order so that two runs cannot wait for each other.
    pub fn take_all<'a>(
        state_dir: &Path,
        names: impl IntoIterator<Item = &'a MachineName>,
        tool: &str,
        patience: Duration,
    ) -> Result<Vec<Lock>> {
        let names: std::collections::BTreeSet<_> = names.into_iter().collect();
        names.into_iter().map(|name| Lock::take(state_dir, name, tool, patience)).collect()
    }
}

fn busy(name: &MachineName, path: &Path) -> Error {
    let text = fsio::read_text(path, 4096).ok().flatten().unwrap_or_default();
    let who = match serde_json::from_str::<Holder>(&text) {
        Ok(holder) => {
            format!("{} (process {}, since {})", holder.tool, holder.pid, time::rfc3339(holder.since))
        }
        Err(_) => "another kld tool".to_string(),
    };
    Error::busy(format!("{name} is in use by {who}")).with_hint("wait until it is done, then try again")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Exit;

    #[test]
    fn the_second_taker_is_told_who_holds_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let name = MachineName::parse("web").unwrap();
        let held = Lock::take(dir.path(), &name, "kvm-clone", Duration::ZERO).unwrap();

        let error = Lock::take(dir.path(), &name, "kvm-delete", Duration::ZERO).unwrap_err();
        assert_eq!(error.exit(), Exit::Busy);
        let expected = format!("web is in use by kvm-clone (process {}, since ", std::process::id());
        assert!(error.to_string().starts_with(&expected), "{error}");

        drop(held);
        assert!(Lock::take(dir.path(), &name, "kvm-delete", Duration::ZERO).is_ok());
    }
}
