//! Snapshots of a whole machine: its disks, its definition and its UEFI variables as one set.

use std::path::PathBuf;

use kld_core::hypervisor::State;
use kld_core::store::{Consistency, Set, Snapshot, StateContent, StateFile};
use kld_core::{Error, MachineName, Plan, Result, SnapshotTag, fsio};
use serde::Serialize;

use super::work::{Restore, Work};
use super::{Machine, Machines, add_store_steps};
use crate::domain::Definition;

/// The largest definition that is read back.
const LARGEST_DEFINITION: u64 = 4 << 20;

/// A snapshot that was taken.
#[derive(Debug, Clone, Serialize)]
pub struct SnapReport {
    /// The machine.
    pub machine: MachineName,
    /// The snapshot's tag.
    pub tag: SnapshotTag,
    /// How its disks fit together.
    pub consistency: Consistency,
}

/// Which snapshot to go back to.
#[derive(Debug, Clone)]
pub struct RollbackRequest {
    /// The machine.
    pub machine: MachineName,
    /// The snapshot's tag.
    pub tag: SnapshotTag,
    /// Give up the snapshots that are newer.
    pub discard_newer: bool,
}

/// What a rollback did, or would do.
#[derive(Debug, Clone, Serialize)]
pub struct RollbackReport {
    /// The machine.
    pub machine: MachineName,
    /// The snapshot it is back at.
    pub tag: SnapshotTag,
    /// The newer snapshots that are gone.
    pub discarded: Vec<SnapshotTag>,
}

impl Machines {
    /// What [`snapshot`](Self::snapshot) would do.
    pub fn plan_snapshot(&self, name: &MachineName, tag: &SnapshotTag) -> Result<Plan> {
        self.prepare_snapshot(name, tag).map(|(plan, ..)| plan)
    }

    /// Takes a snapshot of a machine, running or not.
    pub fn snapshot(&self, name: &MachineName, tag: &SnapshotTag) -> Result<SnapReport> {
        let _locks = self.lock(std::slice::from_ref(name), &[])?;
        let (plan, work, files, expected) = self.prepare_snapshot(name, tag)?;
        let reached = self.carry_out(&plan.title, std::slice::from_ref(name), work, &files)?;
        Ok(SnapReport { machine: name.clone(), tag: tag.clone(), consistency: reached.unwrap_or(expected) })
    }

    fn prepare_snapshot(
        &self,
        name: &MachineName,
        tag: &SnapshotTag,
    ) -> Result<(Plan, Work, Vec<StateFile>, Consistency)> {
        let machine = self.find(name)?;
        if machine.set.snapshot(tag).is_some() {
            return Err(Error::message(format!("{name} already has a snapshot '{tag}'"))
                .with_hint(format!("choose another tag, or delete it with 'kvm-snap {name} delete {tag}'")));
        }
        let shared = machine.definition.uncloneable();
        if !shared.is_empty() {
            return Err(Error::refused(format!(
                "{name} cannot be snapshot as a whole: {}",
                shared.join("; ")
            ))
            .with_hint("detach what cannot be snapshot, and try again"));
        }
        machine.check_not_saved()?;
        self.check_not_in_use(&machine)?;
        let consistency = match machine.record.state {
            State::Off | State::Crashed => Consistency::Stopped,
            _ => Consistency::CrashConsistent,
        };
        let change = self.store.plan_snapshot(&machine.set, tag, consistency)?;
        let mut plan = Plan::new(format!("snapshot {name} as {tag}"));
        add_store_steps(&mut plan, &change);
        let folder = PathBuf::from("snapshots").join(tag);
        let file = |leaf: &str, content| StateFile { set: name.clone(), path: folder.join(leaf), content };
        let mut files =
            vec![file("domain.xml", StateContent::Bytes(machine.record.definition.clone().into_bytes()))];
        plan.step("keep", "definition", "with the snapshot");
        if let Some(nvram) = machine.definition.nvram().filter(|path| path.exists()) {
            plan.step("keep", nvram.display(), "UEFI variables, with the snapshot");
            files.push(file("nvram.fd", StateContent::CopyOf(nvram)));
        }
        let switch = Some(machine.record.uuid);
        let work = Work { switch, snapshot: Some(tag.clone()), ..Work::new(change) };
        Ok((plan, work, files, consistency))
    }

    /// What [`rollback`](Self::rollback) would do, refusals included.
    pub fn plan_rollback(&self, request: &RollbackRequest) -> Result<Plan> {
        self.prepare_rollback(request).map(|(plan, ..)| plan)
    }

    /// Makes a machine what it was at a snapshot: disks, definition and UEFI variables.
    ///
    /// # Errors
    /// [`Error::Refused`] where the machine runs, or where newer snapshots would be lost and the request does not
    /// say so.
    pub fn rollback(&self, request: &RollbackRequest) -> Result<RollbackReport> {
        let machines = std::slice::from_ref(&request.machine);
        let _locks = self.lock(machines, &[])?;
        let (plan, work, report) = self.prepare_rollback(request)?;
        self.carry_out(&plan.title, machines, work, &[])?;
        Ok(report)
    }

    fn prepare_rollback(&self, request: &RollbackRequest) -> Result<(Plan, Work, RollbackReport)> {
        let RollbackRequest { machine: name, tag, discard_newer } = request;
        let machine = self.find(name)?;
        let (_, mut definition) = read_snapshot(&machine, tag)?;
        if machine.record.state.is_active() {
            return Err(Error::refused(format!("{name} is {}", machine.record.state))
                .with_hint(format!("stop it first: kvm-stop {name}")));
        }
        machine.check_not_saved()?;
        self.check_not_in_use(&machine)?;
        let newer: Vec<SnapshotTag> = machine.set.snapshots.iter().rev().map(|one| one.tag.clone()).collect();
        let newer: Vec<SnapshotTag> = newer.into_iter().take_while(|one| one != tag).collect();
        if !newer.is_empty() && !discard_newer {
            let names: Vec<&str> = newer.iter().map(SnapshotTag::as_str).collect();
            let lost = format!(
                "going back to '{tag}' would lose the newer snapshots of {name}: {}",
                names.join(", ")
            );
            let clones = self.store.clones(&machine.set)?;
            let kept = match (clones.is_empty(), self.store.capabilities().shared_bases) {
                (true, _) => String::new(),
                (false, true) => format!("; its clones ({}) keep their disks", join(&clones)),
                (false, false) => format!("; clones that stand on them would be lost too: {}", join(&clones)),
            };
            return Err(Error::refused(lost + &kept).with_hint("add -r (--discard-newer) to give them up"));
        }
        let change = self.store.plan_rollback(&machine.set, tag)?;
        self.check_nobody_else_needs(&change)?;
        let mut plan = Plan::new(format!("roll {name} back to {tag}"));
        for tag in &newer {
            plan.step("discard", tag, "newer snapshot");
        }
        add_store_steps(&mut plan, &change);
        for repoint in change.repoints.iter().filter(|repoint| repoint.set == *name) {
            definition.set_disk(&repoint.volume.name, &repoint.volume.path, repoint.volume.format)?;
        }
        plan.step("define", name, "as it was");
        let saved = folder(&machine.set, tag).join("nvram.fd");
        let restore = definition.nvram().filter(|_| saved.exists()).map(|to| Restore { from: saved, to });
        if let Some(Restore { to, .. }) = &restore {
            plan.step("restore", to.display(), "UEFI variables");
        }
        let redefine = vec![definition.to_xml()];
        let work = Work { redefine, restore: restore.into_iter().collect(), ..Work::new(change) };
        Ok((plan, work, RollbackReport { machine: name.clone(), tag: tag.clone(), discarded: newer }))
    }

    /// What [`drop_snapshot`](Self::drop_snapshot) would do.
    pub fn plan_drop_snapshot(&self, name: &MachineName, tag: &SnapshotTag) -> Result<Plan> {
        self.prepare_drop_snapshot(name, tag).map(|(plan, _)| plan)
    }

    /// Deletes a snapshot; the machine and its other snapshots stay as they are. The plan that was carried out is
    /// returned: it says where space cannot be freed yet, and why.
    pub fn drop_snapshot(&self, name: &MachineName, tag: &SnapshotTag) -> Result<Plan> {
        let machines = std::slice::from_ref(name);
        let _locks = self.lock(machines, &[])?;
        let (plan, work) = self.prepare_drop_snapshot(name, tag)?;
        self.carry_through(&plan.title, machines, vec![work])?;
        Ok(plan)
    }

    fn prepare_drop_snapshot(&self, name: &MachineName, tag: &SnapshotTag) -> Result<(Plan, Work)> {
        let machine = self.find(name)?;
        find_snapshot(&machine, tag)?;
        let change = self.store.plan_drop_snapshot(&machine.set, tag)?;
        self.check_nobody_else_needs(&change)?;
        let mut plan = Plan::new(format!("delete the snapshot {tag} of {name}"));
        add_store_steps(&mut plan, &change);
        Ok((plan, Work::new(change)))
    }
}

/// The folder of a snapshot's state files.
pub(super) fn folder(set: &Set, tag: &SnapshotTag) -> PathBuf {
    set.state_dir.join("snapshots").join(tag)
}

fn find_snapshot<'a>(machine: &'a Machine, tag: &SnapshotTag) -> Result<&'a Snapshot> {
    machine.set.snapshot(tag).ok_or_else(|| {
        let error = Error::message(format!("{} has no snapshot '{tag}'", machine.name));
        let tags = || machine.set.snapshots.iter().map(|snapshot| snapshot.tag.as_str());
        match (kld_core::suggest::nearest(tag.as_str(), tags()), tags().next()) {
            (Some(near), _) => error.with_hint(format!("did you mean '{near}'?")),
            (None, Some(_)) => error.with_hint(format!("it has {}", tags().collect::<Vec<_>>().join(", "))),
            (None, None) => {
                error.with_hint(format!("it has none; take one with 'kvm-snap {} create'", machine.name))
            }
        }
    })
}

/// A snapshot and the definition that was kept with it.
pub(super) fn read_snapshot<'a>(
    machine: &'a Machine,
    tag: &SnapshotTag,
) -> Result<(&'a Snapshot, Definition)> {
    let snapshot = find_snapshot(machine, tag)?;
    let path = folder(&machine.set, tag).join("domain.xml");
    let text = fsio::read_text(&path, LARGEST_DEFINITION)?.ok_or_else(|| {
        Error::failed(format!("cannot use the snapshot '{tag}'"), format!("{} is missing", path.display()))
    })?;
    Ok((snapshot, Definition::parse(&text)?))
}

fn join(names: &[MachineName]) -> String {
    names.iter().map(MachineName::as_str).collect::<Vec<_>>().join(", ")
}
