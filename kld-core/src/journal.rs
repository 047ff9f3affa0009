//! Journals: what a run is about to do, on disk before it does it.
//!
//! An operation writes one entry that holds everything needed to undo or finish it ([`Journal::begin`]), does
//! what can still be undone, marks the entry [`Phase::Decided`], does the rest and removes the entry. A run
//! that was killed leaves its entry behind; the next run finds it ([`Journal::left_behind`]), and undoes a
//! [`Phase::Staging`] entry or finishes a [`Phase::Decided`] one. Whatever is done or undone must be safe to do
//! twice.
//!
//! An entry is written beside its place and renamed. A run that is killed between the two has begun nothing: what
//! it wrote is swept away by the next one.

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::Trying;
use crate::{Error, MachineName, Result, fsio, time};

/// How far an operation got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Only things nobody uses yet were made: undo.
    Staging,
    /// All is ready and the switch has begun: finish.
    Decided,
}

/// One operation in the journal.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry<T> {
    /// The format's version, 1.
    pub version: u32,
    /// Unique.
    pub id: uuid::Uuid,
    /// The whole in one line, such as `clone template to web-5`.
    pub title: String,
    /// The machines whose locks the operation holds.
    pub machines: Vec<MachineName>,
    /// When it began, in seconds since 1970.
    pub began: u64,
    /// How far it got.
    pub phase: Phase,
    /// What it does.
    pub work: T,
}

/// The folder of entries under the state folder.
#[derive(Debug, Clone)]
pub struct Journal {
    folder: PathBuf,
}

/// An entry of a run that is under way.
#[derive(Debug)]
pub struct Open<T> {
    path: PathBuf,
    entry: Entry<T>,
}

const LARGEST: u64 = 64 << 20;
/// The version of entries that this program writes, and the only one that it reads: entries live short.
const VERSION: u32 = 1;

/// What every version of an entry has.
#[derive(Deserialize)]
struct Head {
    version: u32,
}

impl Journal {
    /// The journal under `state_dir`.
    pub fn new(state_dir: &Path) -> Self {
        Journal { folder: state_dir.join("journal") }
    }

    /// Records what is about to be done. When this returns, the entry is on the disk.
    pub fn begin<T: Serialize + DeserializeOwned>(
        &self,
        title: &str,
        machines: &[MachineName],
        phase: Phase,
        work: T,
    ) -> Result<Open<T>> {
        fsio::create_dir_all(&self.folder, 0o700)?;
        let id = uuid::Uuid::new_v4();
        let (title, machines) = (title.to_string(), machines.to_vec());
        let entry = Entry { version: VERSION, id, title, machines, began: time::now(), phase, work };
        let open = Open { path: self.folder.join(format!("{id}.json")), entry };
        open.write()?;
        Ok(open)
    }

    /// The entries that are there, oldest first: those of runs under way (whose locks are held) and those that
    /// killed runs left behind.
    pub fn left_behind<T: DeserializeOwned>(&self) -> Result<Vec<Open<T>>> {
        let what = || format!("cannot read the journal {}", self.folder.display());
        let files = match std::fs::read_dir(&self.folder) {
            Ok(files) => files,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).trying(what),
        };
        let mut entries = Vec::new();
        let mut unfinished = false;
        for file in files {
            let path = file.trying(what)?.path();
            let suffix = path.extension().and_then(|suffix| suffix.to_str());
            unfinished |= suffix == Some(fsio::TEMPORARY);
            if suffix != Some("json") {
                continue;
            }
            // Another run may finish and remove its entry while we look.
            if let Some(entry) = read(&path)? {
                entries.push(Open { path, entry });
            }
        }
        if unfinished {
            self.sweep()?;
        }
        entries.sort_by_key(|open| (open.entry.began, open.entry.id));
        Ok(entries)
    }

    /// Removes what killed runs were writing, unless somebody is writing now.
    fn sweep(&self) -> Result<()> {
        let what = || format!("cannot tidy up the journal {}", self.folder.display());
        let folder = File::open(&self.folder).trying(what)?;
        let Ok(_nobody_writes) = Flock::lock(folder, FlockArg::LockExclusiveNonblock) else { return Ok(()) };
        for file in std::fs::read_dir(&self.folder).trying(what)? {
            let path = file.trying(what)?.path();
            if path.extension().is_some_and(|suffix| suffix == fsio::TEMPORARY) {
                fsio::remove_if_exists(&path)?;
            }
        }
        Ok(())
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<Entry<T>>> {
    let Some(text) = fsio::read_text(path, LARGEST)? else { return Ok(None) };
    let what = || format!("cannot read the journal entry {}", path.display());
    let damaged = |cause| {
        Error::failed(what(), format!("it is damaged ({cause})")).with_hint(
            "it tells what an interrupted run had begun: look at that, and move the file away to go on without",
        )
    };
    let head: Head = serde_json::from_str(&text).map_err(damaged)?;
    if head.version != VERSION {
        let cause = format!("it has version {}, and only version {VERSION} is known", head.version);
        return Err(Error::failed(what(), cause).with_hint(
            "another version of kld was interrupted: run any tool of that version to finish or undo it",
        ));
    }
    serde_json::from_str(&text).map(Some).map_err(damaged)
}

impl<T: Serialize + DeserializeOwned> Open<T> {
    /// The entry's contents.
    pub fn entry(&self) -> &Entry<T> {
        &self.entry
    }

    /// From here on the operation is finished, not undone. On the disk when this returns.
    pub fn decide(&mut self) -> Result<()> {
        self.entry.phase = Phase::Decided;
        self.write()
    }

    /// Back to where the operation is undone, not finished: it failed before it touched anything that was there. On
    /// the disk when this returns.
    pub fn undecide(&mut self) -> Result<()> {
        self.entry.phase = Phase::Staging;
        self.write()
    }

    /// The operation is done, or undone: the entry is removed. When this returns, no power cut brings it back: a
    /// rollback that is finished again would lose what was written since.
    pub fn close(self) -> Result<()> {
        fsio::remove_if_exists(&self.path)?;
        self.path.parent().map_or(Ok(()), fsio::sync_dir)
    }

    /// True while the entry is still there: a run that held its lock may have ended well meanwhile.
    pub fn still_there(&self) -> bool {
        self.path.exists()
    }

    /// Reads the entry again: its run may have gone on between the first look and the lock.
    pub fn reread(self) -> Result<Option<Self>> {
        let Some(entry) = read(&self.path)? else { return Ok(None) };
        Ok(Some(Open { path: self.path, entry }))
    }

    fn write(&self) -> Result<()> {
        let text = serde_json::to_vec(&self.entry)
            .map_err(|cause| Error::failed("cannot write a journal", cause))?;
        let path = self.path.parent().unwrap_or(Path::new("/"));
        let what = || format!("cannot write to the journal {}", path.display());
        let folder = File::open(path).trying(what)?;
        // While it is held, what is being written is not swept away.
        let _writing = Flock::lock(folder, FlockArg::LockShared).map_err(|(_, errno)| errno).trying(what)?;
        fsio::replace(&self.path, &text, 0o600)?;
        fsio::sync_dir(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_run_leaves_is_found_with_its_phase() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::new(dir.path());
        let web = MachineName::parse("web").unwrap();
        let mut killed = journal.begin("clone a to web", &[web], Phase::Staging, vec![1, 2]).unwrap();
        let found = journal.left_behind::<Vec<i32>>().unwrap();
        assert_eq!(found[0].entry().phase, Phase::Staging);
        assert_eq!(found[0].entry().work, [1, 2]);

        killed.decide().unwrap();
        let mut found = journal.left_behind::<Vec<i32>>().unwrap();
        assert_eq!(found[0].entry().phase, Phase::Decided);

        found.remove(0).close().unwrap();
        assert!(journal.left_behind::<Vec<i32>>().unwrap().is_empty());
    }

    #[test]
    fn what_a_run_was_writing_when_it_was_killed_is_swept_away_when_nobody_writes() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::new(dir.path());
        let web = MachineName::parse("web").unwrap();
        let whole = journal.begin("delete web", &[web], Phase::Decided, 1).unwrap();
        let half = journal.folder.join(".6b29fc40-ca47-1067-b31d-00dd010662da.json.kld-new");
        std::fs::write(&half, "{\"ver").unwrap();

        let writing = Flock::lock(File::open(&journal.folder).unwrap(), FlockArg::LockShared).unwrap();
        assert_eq!(journal.left_behind::<i32>().unwrap().len(), 1);
        assert!(half.exists());

        drop(writing);
        assert_eq!(journal.left_behind::<i32>().unwrap().len(), 1);
        assert!(!half.exists() && whole.still_there());
    }
}
