//! Locks on names, held by a process and gone with it, that say who holds them.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::error::Trying;
use crate::{Error, MachineName, Result, fsio, time};

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
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(&path)
            .trying(|| format!("cannot open the lock {}", path.display()))?;
        let deadline = Instant::now() + patience;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(mut locked) => {
                    let holder =
                        Holder { pid: std::process::id() as i32, tool: tool.to_string(), since: time::now() };
                    let text = serde_json::to_string(&holder).unwrap_or_default();
                    let written = locked.set_len(0).and_then(|()| locked.rewind());
                    written
                        .and_then(|()| locked.write_all(text.as_bytes()))
                        .trying(|| format!("cannot write the lock {}", path.display()))?;
                    return Ok(Lock { _file: locked });
                }
                Err((returned, nix::errno::Errno::EWOULDBLOCK)) => file = returned,
                Err((_, errno)) => {
                    return Err(errno).trying(|| format!("cannot lock {}", path.display()));
                }
            }
            if Instant::now() >= deadline {
                return Err(busy(name, &mut file));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
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

fn busy(name: &MachineName, file: &mut File) -> Error {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
    let who = match read.ok().and_then(|_| serde_json::from_str::<Holder>(&text).ok()) {
        Some(holder) => {
            format!("{} (process {}, since {})", holder.tool, holder.pid, time::rfc3339(holder.since))
        }
        None => "another kld tool".to_string(),
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
