//! Deleting: everything that a machine took is freed, and nothing else.

use std::collections::BTreeSet;

use kld_core::lock::Lock;
use kld_core::store::Set;
use kld_core::{ByteSize, Error, MachineName, Plan, Result};
use serde::Serialize;
use uuid::Uuid;

use super::work::{Undefine, Work};
use super::{Machines, add_store_steps, renamed};

/// What is to happen to the clones of a machine that is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Clones {
    /// A machine with clones is not deleted.
    #[default]
    Refuse,
    /// They stay, and stand without it.
    Promote,
    /// They are deleted too, and theirs.
    Delete,
}

/// What is to be deleted.
#[derive(Debug, Clone)]
pub struct DeleteRequest {
    /// The machines.
    pub names: Vec<MachineName>,
    /// Turn off those that run.
    pub force: bool,
    /// What happens to their clones.
    pub clones: Clones,
}

/// What a deletion did.
#[derive(Debug, Clone, Serialize)]
pub struct DeleteReport {
    /// The machines that are gone, clones before what they stood on.
    pub deleted: Vec<MachineName>,
    /// The clones that stand alone now.
    pub promoted: Vec<MachineName>,
    /// What the store has still to free, in the background.
    pub freeing: ByteSize,
}

/// One machine on its way out: its domain, its set, or what there is of the two.
struct Victim {
    name: MachineName,
    domain: Option<Uuid>,
    set: Option<Set>,
    promoted: Vec<MachineName>,
}

impl Machines {
    /// What [`delete`](Self::delete) would do, refusals included.
    pub fn plan_delete(&self, request: &DeleteRequest) -> Result<Plan> {
        let victims = self.victims(request)?;
        let mut plan = Plan::new(title(&victims));
        for victim in &victims {
            self.describe(victim, &mut plan)?;
        }
        Ok(plan)
    }

    /// Deletes machines with their volumes, snapshots and state.
    ///
    /// # Errors
    /// [`Error::Refused`], before anything is touched, where one runs or has clones and the request does not say what
    /// to do about it.
    pub fn delete(&self, request: &DeleteRequest) -> Result<DeleteReport> {
        let mut wanted: BTreeSet<MachineName> = request.names.iter().cloned().collect();
        // Who stands on them is known only under their locks, and must be locked, and mended, too.
        let (_locks, victims) = loop {
            let locks = self.lock(&wanted.iter().cloned().collect::<Vec<_>>(), &[])?;
            let victims = self.victims(request)?;
            let known = wanted.len();
            wanted.extend(victims.iter().map(|victim| victim.name.clone()));
            if wanted.len() == known {
                break (locks, victims);
            }
        };
        self.let_stand(&victims)?;
        let work = victims.iter().map(|victim| self.work_of(victim, request.force)).collect::<Result<_>>()?;
        let names: Vec<MachineName> = victims.iter().map(|victim| victim.name.clone()).collect();
        self.carry_through(&title(&victims), &names, work)?;
        let promoted = victims.into_iter().flat_map(|victim| victim.promoted).collect();
        // The machines are gone, whatever the store says now.
        let freeing = self.store.freeing().unwrap_or_default();
        let mut report = DeleteReport { deleted: names, promoted, freeing };
        report.promoted.retain(|name| !report.deleted.contains(name));
        Ok(report)
    }

    /// The machines to delete, clones first, after every reason to refuse was looked for.
    fn victims(&self, request: &DeleteRequest) -> Result<Vec<Victim>> {
        let mut victims = Vec::new();
        for name in &request.names {
            self.collect(name, request, &mut victims)?;
        }
        Ok(victims)
    }

    fn collect(&self, name: &MachineName, request: &DeleteRequest, victims: &mut Vec<Victim>) -> Result<()> {
        if victims.iter().any(|victim| victim.name == *name) {
            return Ok(());
        }
        let (domain, set) = match self.hypervisor.domain(name.as_str())? {
            Some(record) => {
                if record.state.is_active() && !request.force {
                    return Err(Error::refused(format!("{name} is {}", record.state)).with_hint(format!(
                        "stop it first (kvm-stop {name}), or add --force to take its power away"
                    )));
                }
                let machine = self.assemble(name, record)?;
                (Some(machine.record.uuid), Some(machine.set))
            }
            None => {
                let set = self.store.set(name)?;
                let uuid = set.as_ref().map(|set| set.machine);
                let domain = uuid.map(|uuid| self.hypervisor.domain_by_uuid(uuid)).transpose()?.flatten();
                if let Some(is) = domain.and_then(|domain| MachineName::parse(&domain.name).ok()) {
                    return Err(renamed(name, &is));
                }
                (None, set)
            }
        };
        let clones = match &set {
            Some(set) => self.store.clones(set)?,
            None if domain.is_none() => return Err(self.no_such(name)),
            None => Vec::new(),
        };
        let (going, staying): (Vec<MachineName>, Vec<MachineName>) =
            clones.into_iter().partition(|clone| request.names.contains(clone));
        going.iter().try_for_each(|clone| self.collect(clone, request, victims))?;
        let mut promoted = Vec::new();
        match request.clones {
            _ if staying.is_empty() => {}
            Clones::Delete => staying.iter().try_for_each(|clone| self.collect(clone, request, victims))?,
            Clones::Promote => promoted = staying,
            Clones::Refuse => {
                let names: Vec<&str> = staying.iter().map(MachineName::as_str).collect();
                return Err(Error::refused(format!("{name} has clones: {}", names.join(", "))).with_hint(
                    "add --promote to let them stand without it, or --recursive to delete them too",
                ));
            }
        }
        victims.push(Victim { name: name.clone(), domain, set, promoted });
        Ok(())
    }

    fn describe(&self, victim: &Victim, plan: &mut Plan) -> Result<()> {
        if let Some(uuid) = victim.domain {
            plan.step("undefine", &victim.name, format!("uuid {uuid}"));
        }
        for clone in &victim.promoted {
            plan.step("promote", clone, format!("stands without {}", victim.name));
        }
        if let Some(set) = &victim.set {
            add_store_steps(plan, &self.store.plan_delete(set)?);
        }
        Ok(())
    }

    /// Makes the clones that stay stand alone, where they cannot share a base without their source.
    fn let_stand(&self, victims: &[Victim]) -> Result<()> {
        if self.store.capabilities().shared_bases {
            return Ok(());
        }
        victims.iter().flat_map(|victim| &victim.promoted).try_for_each(|clone| self.promote(clone))
    }

    fn work_of(&self, victim: &Victim, force: bool) -> Result<Work> {
        let set = victim.set.as_ref().ok_or_else(|| self.no_such(&victim.name))?;
        let change = self.store.plan_delete(set)?;
        self.check_nobody_else_needs(&change)?;
        let undefine = victim.domain.map(|uuid| Undefine { uuid, force }).into_iter().collect();
        Ok(Work { undefine, ..Work::new(change) })
    }

    /// Makes a clone stand alone.
    fn promote(&self, name: &MachineName) -> Result<()> {
        let machines = std::slice::from_ref(name);
        let _lock = Lock::take_all(&self.state_dir, machines, &self.tool, std::time::Duration::ZERO)?;
        let machine = self.find(name)?;
        let change = self.store.plan_promote(&machine.set)?;
        let work = Work { switch: Some(machine.record.uuid), ..Work::new(change) };
        self.carry_out(&format!("promote {name}"), machines, work, &[]).map(drop)
    }
}

fn title(victims: &[Victim]) -> String {
    let names: Vec<&str> = victims.iter().map(|victim| victim.name.as_str()).collect();
    format!("delete {}", names.join(", "))
}
