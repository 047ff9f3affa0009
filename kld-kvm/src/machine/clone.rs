//! Cloning: machines that share with their source what neither of them writes.

use std::collections::BTreeSet;

use kld_core::hypervisor::State;
use kld_core::store::{CloneKind, Consistency, NewClone, Set, StateContent, StateFile};
use kld_core::timing::phase;
use kld_core::{Error, MachineName, Plan, Result, SnapshotTag};
use serde::Serialize;
use uuid::Uuid;

use super::work::{NewDomain, Work};
use super::{Machine, Machines, add_store_steps, nvram_path};
use crate::domain::{Definition, FreshMacs, MacAddress};
use crate::seed::{SEED_FOLDER, SEED_IMAGE, Seed};

/// What is to be cloned, and into what.
#[derive(Debug, Clone)]
pub struct CloneRequest {
    /// The source.
    pub source: MachineName,
    /// The source's snapshot to clone; `None`: as it is now.
    pub snapshot: Option<SnapshotTag>,
    /// The new machines.
    pub names: Vec<MachineName>,
    /// Whether they share with the source or stand alone.
    pub kind: CloneKind,
    /// Whether each gets a NoCloud seed with its host name and a fresh instance id.
    pub seed: bool,
}

impl CloneRequest {
    /// Linked clones of `source` as it is now.
    pub fn new(source: MachineName, names: impl IntoIterator<Item = MachineName>) -> Self {
        let names = names.into_iter().collect();
        CloneRequest { source, snapshot: None, names, kind: CloneKind::Linked, seed: true }
    }
}

/// A clone that was made.
#[derive(Debug, Clone, Serialize)]
pub struct Cloned {
    /// Its name.
    pub name: MachineName,
    /// Its UUID.
    pub uuid: Uuid,
    /// The MAC addresses of its interfaces.
    pub macs: Vec<MacAddress>,
    /// Its volumes and state files.
    #[serde(skip)]
    pub set: Set,
}

/// What a clone run made.
#[derive(Debug, Clone, Serialize)]
pub struct CloneReport {
    /// The source.
    pub source: MachineName,
    /// How the clones' disks fit together.
    pub consistency: Consistency,
    /// The clones.
    pub clones: Vec<Cloned>,
    /// What a person should know.
    pub notes: Vec<String>,
}

struct Prepared {
    plan: Plan,
    work: Work,
    files: Vec<StateFile>,
    report: CloneReport,
}

impl Machines {
    /// What [`clone_machine`](Self::clone_machine) would do.
    pub fn plan_clone(&self, request: &CloneRequest) -> Result<Plan> {
        self.prepare_clone(request).map(|prepared| prepared.plan)
    }

    /// Clones a machine, once or many times. All clones come to be, or none.
    ///
    /// # Errors
    /// [`Error::Busy`] where another run holds one of the names; [`Error::Failed`] where a name is taken or the
    /// source is missing; [`Error::Refused`] where the source has something that cannot be shared.
    pub fn clone_machine(&self, request: &CloneRequest) -> Result<CloneReport> {
        check_names(request)?;
        let _locks = self.lock(&request.names, std::slice::from_ref(&request.source))?;
        let Prepared { plan, work, files, mut report } = phase("plan", || self.prepare_clone(request))?;
        let machines: Vec<MachineName> = request.names.iter().chain([&request.source]).cloned().collect();
        if let Some(reached) = self.carry_out(&plan.title, &machines, work, &files)? {
            report.consistency = reached;
        }
        Ok(report)
    }

    fn prepare_clone(&self, request: &CloneRequest) -> Result<Prepared> {
        check_names(request)?;
        let source = self.find(&request.source)?;
        request.names.iter().try_for_each(|name| self.check_free(name))?;
        let (definition, nvram, consistency) = origin(&source, request)?;
        if request.snapshot.is_none() {
            self.check_not_in_use(&source)?;
        }
        let clones: Vec<NewClone> = request
            .names
            .iter()
            .map(|name| NewClone { name: name.clone(), machine: Uuid::new_v4() })
            .collect();
        let change = self.store.plan_clone(&source.set, request.snapshot.as_ref(), &clones, request.kind)?;

        let how = if request.kind == CloneKind::Full { "copy" } else { "clone" };
        let names: Vec<&str> = request.names.iter().map(MachineName::as_str).collect();
        let mut plan = Plan::new(format!("{how} {} to {}", request.source, names.join(", ")));
        add_store_steps(&mut plan, &change);
        let mut report =
            CloneReport { source: source.name.clone(), consistency, clones: Vec::new(), notes: Vec::new() };
        let mut files = Vec::new();
        let mut define = Vec::new();
        let seed = Seed::read_back(&source.set.state_dir.join(SEED_FOLDER))?;
        let mut macs = FreshMacs::new(definition.interfaces().into_iter().filter_map(|nic| nic.mac));

        for clone in &clones {
            let set = change.sets.iter().find(|set| set.name == clone.name).cloned();
            let set =
                set.ok_or_else(|| Error::message(format!("the store made no volumes for {}", clone.name)))?;
            let mut new = definition.clone();
            report.notes.extend(new.become_clone(&clone.name, clone.machine, &mut |old| macs.replace(old)));
            for volume in &set.volumes {
                new.set_disk(&volume.name, &volume.path, volume.format)?;
            }
            let file =
                |path: &str, content| StateFile { set: clone.name.clone(), path: path.into(), content };
            if let Some(nvram) = &nvram {
                new.set_nvram(&nvram_path(&set.state_dir))?;
                if nvram.exists() {
                    files.push(file("nvram.fd", StateContent::CopyOf(nvram.clone())));
                }
            }
            if request.seed {
                let (seed, notes) = match &seed {
                    Some(seed) => seed.for_clone(&clone.name),
                    None => (Seed::new(clone.name.clone()), Vec::new()),
                };
                report.notes.extend(notes);
                files.extend(seed.state_files(&clone.name));
                new.set_seed(&set.state_dir.join(SEED_IMAGE))?;
            }
            plan.step("define", &clone.name, format!("uuid {}", clone.machine));
            define.push(NewDomain { uuid: clone.machine, definition: new.to_xml() });
            let macs = new.interfaces().into_iter().filter_map(|nic| nic.mac).collect();
            report.clones.push(Cloned { name: clone.name.clone(), uuid: clone.machine, macs, set });
        }
        report.notes.sort();
        report.notes.dedup();
        let switch = request.snapshot.is_none().then_some(source.record.uuid);
        Ok(Prepared { plan, work: Work { define, switch, ..Work::new(change) }, files, report })
    }
}

/// What is cloned: the definition, the file of UEFI variables, and how the disks fit together as far as it is known
/// before a running source's disks are switched.
fn origin(
    source: &Machine,
    request: &CloneRequest,
) -> Result<(Definition, Option<std::path::PathBuf>, Consistency)> {
    let Some(tag) = &request.snapshot else {
        let shared = source.definition.uncloneable();
        if !shared.is_empty() {
            return Err(Error::refused(format!("{} cannot be cloned: {}", source.name, shared.join("; ")))
                .with_hint("detach what cannot be copied, or make it read-only, and clone again"));
        }
        source.check_not_saved()?;
        let consistency = match source.record.state {
            State::Off | State::Crashed => Consistency::Stopped,
            _ => Consistency::CrashConsistent,
        };
        return Ok((source.definition.clone(), source.definition.nvram(), consistency));
    };
    let (snapshot, definition) = super::snap::read_snapshot(source, tag)?;
    let nvram = definition.nvram().map(|_| super::snap::folder(&source.set, tag).join("nvram.fd"));
    Ok((definition, nvram, snapshot.consistency))
}

fn check_names(request: &CloneRequest) -> Result<()> {
    if request.names.is_empty() {
        return Err(Error::usage("a clone needs a name").with_hint("kvm-clone SOURCE NEW..."));
    }
    let mut seen = BTreeSet::from([&request.source]);
    match request.names.iter().find(|name| !seen.insert(name)) {
        Some(name) => Err(Error::usage(format!("the name '{name}' is given twice"))
            .with_hint("each clone needs a name of its own")),
        None => Ok(()),
    }
}
