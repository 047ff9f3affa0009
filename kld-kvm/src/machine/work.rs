//! Carrying an operation out so that a kill at any point is mended by the next run.
//!
//! The journal entry holds [`Work`], one or several that follow each other. While it is [`Phase::Staging`], only
//! things nobody uses yet are made: new files, and definitions of new domains. [`Phase::Decided`] begins where
//! existing machines are touched. The next run undoes the first and finishes the second; each deed is safe to do
//! twice.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;

use kld_core::hypervisor::DomainRecord;
use kld_core::journal::{Journal, Open, Phase};
use kld_core::lock::Lock;
use kld_core::probe::Verdict;
use kld_core::store::{Consistency, StateFile, StoreChange};
use kld_core::timing::phase;
use kld_core::{Error, MachineName, Result, SnapshotTag, fsio, time};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Machines;
use crate::domain::{Definition, Disk};

/// An operation that began so many seconds ago may have been killed a moment ago.
const RECENT: u64 = 5;

/// How long a hypervisor's daemon may be busy with what a killed run has asked of it.
const UNDER_WAY: Duration = Duration::from_millis(300);

/// The largest file of UEFI variables that is restored.
const LARGEST_NVRAM: u64 = 64 << 20;

/// Everything that one operation does, as it stands in the journal.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Work {
    /// What the store does.
    pub change: StoreChange,
    /// Domains that come to be; undone by forgetting them.
    pub define: Vec<NewDomain>,
    /// Machines whose disks move as the change's repoints say, by their UUID.
    pub switch: Option<Uuid>,
    /// Definitions of existing machines that are replaced.
    pub redefine: Vec<String>,
    /// Files that are put back: from a snapshot to where the machine has them.
    pub restore: Vec<Restore>,
    /// Domains that are turned off and forgotten.
    pub undefine: Vec<Undefine>,
    /// The snapshot whose consistency is known only when the disks have been switched.
    pub snapshot: Option<SnapshotTag>,
    /// The hypervisor that it is about; see [`kld_core::hypervisor::Hypervisor::place`].
    pub place: String,
}

/// A domain to be made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct NewDomain {
    pub uuid: Uuid,
    pub definition: String,
}

/// A domain to be forgotten; turned off first only where `force` says so.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Undefine {
    pub uuid: Uuid,
    pub force: bool,
}

/// A file to be put back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Restore {
    pub from: PathBuf,
    pub to: PathBuf,
}

/// An interrupted operation that was mended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Recovered {
    /// The operation, such as `clone template to web-5`.
    pub title: String,
    /// True where it was finished, false where it was undone.
    pub finished: bool,
}

impl std::fmt::Display for Recovered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let deed = if self.finished { "finished" } else { "undid" };
        write!(f, "{deed} what a killed run had begun: {}", self.title)
    }
}

impl Work {
    /// The machines that were there before and whose disks move.
    fn existing(&self) -> Result<Vec<Uuid>> {
        let redefined = self.redefine.iter().map(|text| Ok(Definition::parse(text)?.uuid()));
        let redefined: Vec<Option<Uuid>> = redefined.collect::<Result<_>>()?;
        Ok(self.switch.into_iter().chain(redefined.into_iter().flatten()).collect())
    }

    /// Whether a domain's definition names one of the volumes that machines move to.
    fn stands_on_new(&self, domain: &DomainRecord) -> Result<bool> {
        let disks = Definition::parse(&domain.definition)?.disks();
        let new =
            |disk: &Disk| self.change.repoints.iter().any(|to| disk.source.path() == Some(&to.volume.path));
        Ok(disks.iter().any(new))
    }

    /// Work that is only the store's.
    pub(super) fn new(change: StoreChange) -> Self {
        Work {
            change,
            define: Vec::new(),
            switch: None,
            redefine: Vec::new(),
            restore: Vec::new(),
            undefine: Vec::new(),
            snapshot: None,
            place: String::new(),
        }
    }
}

impl Machines {
    /// Carries `work` out. The caller holds the locks of `machines`.
    ///
    /// Returns how the disks of a switched machine fit together.
    pub(super) fn carry_out(
        &self,
        title: &str,
        machines: &[MachineName],
        work: Work,
        files: &[StateFile],
    ) -> Result<Option<Consistency>> {
        let work = vec![Work { place: self.hypervisor.place(), ..work }];
        let mut entry = phase("journal", || self.journal().begin(title, machines, Phase::Staging, work))?;
        let staged = self
            .stage(&entry.entry().work[0], files)
            .and_then(|reached| phase("journal", || entry.decide()).map(|()| reached));
        let reached = match staged {
            Ok(reached) => reached,
            Err(error) => return Err(self.back_out(entry, error)),
        };
        let mut touched = false;
        match self.finish(&entry.entry().work, &mut touched, Run::First(reached)) {
            Ok(consistency) => entry.close().map(|()| consistency),
            Err(error) if !touched => Err(self.back_out(entry, error)),
            Err(error) => Err(unfinished(error, title)),
        }
    }

    /// Carries out work that cannot be undone half-way, such as a deletion: a killed run is always finished. All
    /// of `work` is one operation.
    pub(super) fn carry_through(&self, title: &str, machines: &[MachineName], work: Vec<Work>) -> Result<()> {
        let probe = self.store.probe();
        if let (Verdict::Absent, finding) = (probe.verdict, probe.finding) {
            let error = Error::failed(format!("cannot {title}"), finding);
            return Err(match probe.remedy {
                Some(remedy) => error.with_hint(remedy),
                None => error,
            });
        }
        let place = self.hypervisor.place();
        let work: Vec<Work> = work.into_iter().map(|work| Work { place: place.clone(), ..work }).collect();
        let entry = self.journal().begin(title, machines, Phase::Decided, work)?;
        let mut touched = false;
        match self.finish(&entry.entry().work, &mut touched, Run::First(None)) {
            Ok(_) => entry.close(),
            // Looked at, and left as it was. Any other failure may have come half-way through the store's part.
            Err(error @ Error::Refused { .. }) if !touched => entry.close().and(Err(error)),
            Err(error) => Err(unfinished(error, title)),
        }
    }

    /// Mends what killed runs left behind, and says what it did. Operations under way are left alone.
    pub fn recover(&self) -> Result<Vec<Recovered>> {
        self.recover_for(|_| true)
    }

    /// As [`recover`](Self::recover). What cannot be mended is an error only where it is about a machine that matters
    /// here: what is stuck with one machine does not keep people from the others.
    pub(super) fn recover_for(&self, matters: impl Fn(&MachineName) -> bool) -> Result<Vec<Recovered>> {
        let mut mended = Vec::new();
        for open in self.journal().left_behind::<Vec<Work>>()? {
            let matters = open.entry().machines.iter().any(&matters);
            match self.mend_if_left(open) {
                Ok(recovered) => mended.extend(recovered),
                Err(error) if matters => return Err(error),
                Err(_) => {}
            }
        }
        mended.iter().for_each(|recovered| (self.notice)(recovered));
        Ok(mended)
    }

    /// Mends an entry unless its run is under way or has ended well.
    fn mend_if_left(&self, open: Open<Vec<Work>>) -> Result<Option<Recovered>> {
        let machines = &open.entry().machines;
        let _locks = match Lock::take_all(&self.state_dir, machines, &self.tool, Duration::ZERO) {
            Err(Error::Busy { .. }) => return Ok(None),
            locks => locks?,
        };
        // Read again under the locks: its run may have gone on since we looked.
        open.reread()?.map(|open| self.mend(open)).transpose()
    }

    fn mend(&self, open: Open<Vec<Work>>) -> Result<Recovered> {
        let entry = open.entry();
        let elsewhere = entry.work.iter().find(|work| work.place != self.hypervisor.place());
        if let Some(work) = elsewhere {
            let cause = format!("it is about the machines at {}", work.place);
            return Err(Error::failed(
                format!("cannot mend what a killed run had begun ({})", entry.title),
                cause,
            )
            .with_hint(format!("run a tool with --set libvirt-uri='{}'", work.place)));
        }
        let recovered = Recovered { title: entry.title.clone(), finished: entry.phase == Phase::Decided };
        self.let_the_daemon_come_to_an_end(entry.began);
        let mut touched = false;
        let outcome = match entry.phase {
            Phase::Staging => self.undo(&entry.work),
            Phase::Decided => self.finish(&entry.work, &mut touched, Run::Recovery).map(drop),
        };
        match outcome {
            Ok(()) => open.close().map(|()| recovered),
            // The machine was started since, as it was: whoever did that wants it so.
            Err(Error::Refused { .. }) if recovered.finished && !touched => {
                self.undo(&open.entry().work)?;
                open.close().map(|()| Recovered { finished: false, ..recovered })
            }
            Err(error) => {
                let deed = if recovered.finished { "finish" } else { "undo" };
                let what = format!("cannot {deed} what a killed run had begun ({})", recovered.title);
                let hint = error.hint().map(str::to_string);
                let error = Error::failed(what, error);
                Err(match hint {
                    Some(hint) => error.with_hint(hint),
                    None => error,
                })
            }
        }
    }

    /// A daemon that a run asked for something just before it was killed may still be doing it, and would make a
    /// domain that has been undone. Nobody can ask it about that; but it takes milliseconds.
    fn let_the_daemon_come_to_an_end(&self, began: u64) {
        if time::now().saturating_sub(began) <= RECENT {
            std::thread::sleep(UNDER_WAY);
        }
    }

    /// True where a killed run has left work on one of these machines.
    pub(super) fn is_interrupted(&self, names: &BTreeSet<&MachineName>) -> Result<bool> {
        let left = self.journal().left_behind::<Vec<Work>>()?;
        Ok(left.iter().any(|open| open.entry().machines.iter().any(|name| names.contains(name))))
    }

    fn journal(&self) -> Journal {
        Journal::new(&self.state_dir)
    }

    /// Makes files and new domains, both at once: each waits for the disk most of its time. Where disks are snapshot
    /// as they stand, all else waits for that, and the domains' making for the question whether the machine runs.
    ///
    /// Returns how disks fit together that were snapshot where they stand.
    fn stage(&self, work: &Work, files: &[StateFile]) -> Result<Option<Consistency>> {
        let reached = Mutex::new(None);
        let frozen = work.switch.filter(|_| work.change.repoints.is_empty());
        let define = || {
            let new: Vec<&str> = work.define.iter().map(|domain| domain.definition.as_str()).collect();
            phase("define", || self.hypervisor.define_all(&new))?;
            self.settle(!work.define.is_empty())
        };
        std::thread::scope(|scope| {
            let (asked, answered) = mpsc::channel();
            let defined = scope.spawn(move || {
                let _ = frozen.map(|_| answered.recv());
                define()
            });
            let moment = |take: &mut dyn FnMut() -> Result<()>| {
                let Some(uuid) = frozen else { return take() };
                let consistency = self.hypervisor.while_frozen(uuid, &mut || {
                    let _ = asked.send(());
                    take()
                })?;
                *reached.lock().unwrap_or_else(PoisonError::into_inner) = Some(consistency);
                Ok(())
            };
            let staged = phase("stage files", || self.store.stage_at(&work.change, files, &moment));
            // Where no snapshot was taken, nobody has asked.
            drop(asked);
            staged.and(defined.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })?;
        Ok(reached.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn undo(&self, work: &[Work]) -> Result<()> {
        for NewDomain { uuid, .. } in work.iter().flat_map(|work| &work.define) {
            // Whoever started what a killed run was making may be working with it.
            if let Some(domain) =
                self.hypervisor.domain_by_uuid(*uuid)?.filter(|domain| domain.state.is_active())
            {
                return Err(Error::busy(format!("{} is {}", domain.name, domain.state)).with_hint(format!(
                    "save what is in it, stop it (virsh destroy {}), and try again",
                    domain.name
                )));
            }
        }
        work.iter().rev().try_for_each(|work| {
            // A run that was killed while the disks were snapshot where they stand has left the guest frozen.
            if let Some(uuid) = work.switch.filter(|_| work.change.repoints.is_empty()) {
                self.hypervisor.thaw(uuid)?;
            }
            work.define.iter().try_for_each(|domain| self.hypervisor.undefine(domain.uuid).map(drop))?;
            self.settle(!work.define.is_empty())?;
            self.store.revert(&work.change)
        })
    }

    /// Undoes what was staged, after a failure; the error to report is the one that led here. Where it cannot be
    /// told that nothing moved, nothing is undone: the entry stays, and the next run finishes it.
    fn back_out(&self, mut entry: Open<Vec<Work>>, error: Error) -> Error {
        let title = entry.entry().title.clone();
        if entry.entry().phase == Phase::Decided {
            // The journal goes back first: killed from here on, the next run must not finish what is half undone.
            if let Err(second) = self.check_nothing_moved(&entry.entry().work).and_then(|()| entry.undecide())
            {
                return unfinished(error.with_hint(second), &title);
            }
        }
        match self.undo(&entry.entry().work).and_then(|()| entry.close()) {
            Ok(()) => error,
            Err(second) => error.with_hint(format!(
                "undoing it failed as well ({second}); the next kvm tool that changes something tries again"
            )),
        }
    }

    /// An error where a machine already stands on the new volumes: they hold what its guest writes. Also where nobody
    /// can tell.
    fn check_nothing_moved(&self, work: &[Work]) -> Result<()> {
        for work in work {
            for uuid in work.existing()? {
                let Some(domain) = self.hypervisor.domain_by_uuid(uuid)? else { continue };
                if work.stands_on_new(&domain)? {
                    let name = &domain.name;
                    return Err(Error::busy(format!("the disks of {name} have moved already")));
                }
            }
        }
        Ok(())
    }

    fn finish(&self, work: &[Work], touched: &mut bool, run: Run) -> Result<Option<Consistency>> {
        let mut consistency = None;
        for work in work {
            consistency = self.finish_one(work, touched, run)?;
        }
        self.settle(*touched)?;
        Ok(consistency)
    }

    /// Definitions that were changed must be on the disk before the journal forgets how they came about.
    fn settle(&self, changed: bool) -> Result<()> {
        if changed { phase("settle", || self.hypervisor.settle()) } else { Ok(()) }
    }

    fn finish_one(&self, work: &Work, touched: &mut bool, run: Run) -> Result<Option<Consistency>> {
        let mut change = work.change.clone();
        let mut consistency = match run {
            Run::First(reached) => reached,
            Run::Recovery => None,
        };
        if let Some(uuid) = work.switch.filter(|_| !change.repoints.is_empty()) {
            let reached = phase("switch disks", || self.hypervisor.switch_disks(uuid, &change.repoints))?;
            *touched = true;
            consistency = Some(reached);
        }
        // A run that takes up another's work does not learn how the disks were switched.
        if let (Some(tag), Run::First(_), Some(reached)) = (&work.snapshot, run, consistency) {
            let snapshots = change.sets.iter_mut().flat_map(|set| &mut set.snapshots);
            let taken = snapshots.filter(|snapshot| snapshot.tag == *tag);
            taken.for_each(|snapshot| snapshot.consistency = reached);
        }
        for definition in &work.redefine {
            self.put_back(work, definition)?;
            *touched = true;
        }
        for Undefine { uuid, force } in &work.undefine {
            if let Some(domain) =
                self.hypervisor.domain_by_uuid(*uuid)?.filter(|domain| domain.state.is_active())
            {
                if !force {
                    let message = format!(
                        "{} is {}: it was started after it was to be deleted",
                        domain.name, domain.state
                    );
                    return Err(Error::refused(message).with_hint("stop it first, or delete it with --force"));
                }
                self.hypervisor.power_off(*uuid)?;
            }
            *touched |= self.hypervisor.undefine(*uuid)?.is_changed();
        }
        phase("commit", || self.store.commit(&change))?;
        Ok(consistency)
    }

    /// Makes a machine that is off what it was: its UEFI variables, then its definition.
    fn put_back(&self, work: &Work, definition: &str) -> Result<()> {
        let uuid = Definition::parse(definition)?.uuid();
        let domain = uuid.map(|uuid| self.hypervisor.domain_by_uuid(uuid)).transpose()?.flatten();
        if let Some(domain) = domain.filter(|domain| domain.state.is_active()) {
            // Put back already, and started since.
            if work.stands_on_new(&domain)? {
                return Ok(());
            }
            return Err(Error::refused(format!("{} is {}", domain.name, domain.state))
                .with_hint(format!("stop it first: kvm-stop {}", domain.name)));
        }
        for Restore { from, to } in &work.restore {
            if let Some(bytes) = fsio::read_bytes(from, LARGEST_NVRAM)? {
                fsio::replace(to, &bytes, 0o600)?;
                to.parent().map_or(Ok(()), fsio::sync_dir)?;
            }
        }
        self.hypervisor.define(definition).map(drop)
    }
}

/// Whether work is carried out by the run that planned it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Run {
    /// With how the disks fit together that were snapshot where they stand.
    First(Option<Consistency>),
    /// By a later one.
    Recovery,
}

fn unfinished(error: Error, title: &str) -> Error {
    let why = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
    error.with_hint(format!(
        "'{title}' is half done; the next kvm tool that changes something finishes it{why}"
    ))
}
