//! Machines: what a hypervisor runs and a store holds, brought together.
//!
//! [`Machines`] looks machines up and changes them. Each change is computed first (its [`Plan`] prints), then
//! recorded in the journal, then carried out; see [`work`](self::Recovered) for what a kill leaves and who mends
//! it. The truth about a machine's present disks is its definition; the store's record adds snapshots and lineage.

mod clone;
mod create;
mod delete;
mod power;
mod report;
mod snap;
mod template;
mod work;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kld_core::hypervisor::{DomainRecord, Hypervisor};
use kld_core::lock::Lock;
use kld_core::store::{Set, StoreChange, Volume, VolumeFormat, VolumeStore};
use kld_core::timing::phase;
use kld_core::ui::printable;
use kld_core::{ByteSize, Error, MachineName, Plan, Result};

use uuid::Uuid;

use crate::domain::{Definition, Device, Source};
use crate::image;

pub use clone::{CloneReport, CloneRequest, Cloned};
pub use create::{CreateRequest, Created, DiskRequest, FirmwareRequest, NetworkRequest};
pub use delete::{Clones, DeleteReport, DeleteRequest};
pub use power::StopRequest;
pub use report::{DiskReport, InterfaceReport, MachineReport, SnapshotReport};
pub use snap::{RollbackReport, RollbackRequest, SnapReport};
pub use work::Recovered;

/// How long a clone waits for another run that holds its source.
const SOURCE_PATIENCE: Duration = Duration::from_secs(30);

/// The machines of one host: its hypervisor and its volume store.
#[derive(Clone)]
pub struct Machines {
    hypervisor: Arc<dyn Hypervisor>,
    store: Arc<dyn VolumeStore>,
    state_dir: PathBuf,
    tool: String,
    notice: Arc<dyn Fn(&Recovered) + Send + Sync>,
}

/// A machine, looked up.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Its name.
    pub name: MachineName,
    /// As the hypervisor knows it.
    pub record: DomainRecord,
    /// Its definition, read.
    pub definition: Definition,
    /// Its volumes, snapshots and lineage.
    pub set: Set,
}

impl Machines {
    /// Machines that `hypervisor` runs on volumes of `store`; `state_dir` keeps the journal and the locks, and
    /// `tool` is the name by which others learn who holds a lock.
    pub fn new(
        hypervisor: Arc<dyn Hypervisor>,
        store: Arc<dyn VolumeStore>,
        state_dir: impl Into<PathBuf>,
        tool: impl Into<String>,
    ) -> Self {
        Machines {
            hypervisor,
            store,
            state_dir: state_dir.into(),
            tool: tool.into(),
            notice: Arc::new(|_| ()),
        }
    }

    /// Calls `notice` for each interrupted operation that is mended on the way.
    #[must_use]
    pub fn on_recovery(mut self, notice: impl Fn(&Recovered) + Send + Sync + 'static) -> Self {
        self.notice = Arc::new(notice);
        self
    }

    /// The hypervisor.
    pub fn hypervisor(&self) -> &dyn Hypervisor {
        self.hypervisor.as_ref()
    }

    /// The volume store.
    pub fn store(&self) -> &dyn VolumeStore {
        self.store.as_ref()
    }

    /// Looks a machine up.
    ///
    /// # Errors
    /// Where there is no machine of this name, naming the nearest one.
    pub fn find(&self, name: &MachineName) -> Result<Machine> {
        match phase("look up", || self.hypervisor.domain(name.as_str()))? {
            Some(record) => self.assemble(name, record),
            None => Err(self.no_such(name)),
        }
    }

    fn assemble(&self, name: &MachineName, record: DomainRecord) -> Result<Machine> {
        let definition = Definition::parse(&record.definition)?;
        let set = self.set_of(name, record.uuid, &definition, self.store.set(name)?)?;
        Ok(Machine { name: name.clone(), record, definition, set })
    }

    /// The set of a domain: the store's record where it still says what the definition says, or else the disks of
    /// the definition.
    fn set_of(
        &self,
        name: &MachineName,
        uuid: Uuid,
        definition: &Definition,
        recorded: Option<Set>,
    ) -> Result<Set> {
        let volumes = volumes_of(definition);
        match recorded {
            Some(set) if set.machine == uuid && same_places(&set.volumes, &volumes) => Ok(set),
            Some(_) => self.store.adopt(name, uuid, volumes),
            None => match self.store.sets()?.into_iter().find(|set| set.machine == uuid) {
                Some(set) => Err(renamed(&set.name, name)),
                None => self.store.adopt(name, uuid, volumes),
            },
        }
    }

    /// Refuses where a machine that is off has a disk that somebody writes to: `qemu-nbd`, `guestfish`, another machine.
    fn check_not_in_use(&self, machine: &Machine) -> Result<()> {
        if machine.record.state.is_active() {
            return Ok(());
        }
        for volume in &machine.set.volumes {
            if self.store.in_use(volume)? {
                let what = format!("the disk {} of {} is open in another program", volume.name, machine.name);
                return Err(
                    Error::busy(what).with_hint(format!("close {} there first", volume.path.display()))
                );
            }
        }
        Ok(())
    }

    /// Refuses where a machine that kld has no record of stands on files that the change may remove or rewrite: one
    /// that is off holds no lock on them.
    fn check_nobody_else_needs(&self, change: &StoreChange) -> Result<()> {
        if change.frees.is_empty() {
            return Ok(());
        }
        let recorded: BTreeSet<Uuid> = self.store.sets()?.into_iter().map(|set| set.machine).collect();
        for domain in self.hypervisor.domains()?.into_iter().filter(|domain| !recorded.contains(&domain.uuid))
        {
            let Ok(definition) = Definition::parse(&domain.definition) else { continue };
            for volume in volumes_of(&definition) {
                let format = match volume.format {
                    VolumeFormat::Qcow2 => image::DiskFormat::Qcow2,
                    VolumeFormat::Raw | VolumeFormat::Block => image::DiskFormat::Raw,
                };
                // A chain that cannot be read cannot be started from either.
                let chain = image::chain_as(&volume.path, format).unwrap_or_default();
                if let Some(needed) = chain.iter().find(|image| change.frees.contains(&image.path)) {
                    return Err(Error::refused(format!(
                        "the machine {}, which kld did not make, stands on {}",
                        printable(&domain.name),
                        needed.path.display()
                    ))
                    .with_hint(
                        "delete that machine first, or make its disk stand alone (qemu-img rebase -b '')",
                    ));
                }
            }
        }
        Ok(())
    }

    fn no_such(&self, name: &MachineName) -> Error {
        let error = Error::message(format!("there is no machine '{name}'"));
        let known: BTreeSet<String> =
            self.hypervisor.domains().unwrap_or_default().into_iter().map(|domain| domain.name).collect();
        match kld_core::suggest::nearest(name.as_str(), known.iter().map(String::as_str)) {
            Some(near) => error.with_hint(format!("did you mean '{near}'?")),
            None => error.with_hint("kvm-list shows every machine"),
        }
    }

    /// Refuses a name that a machine has. One that only a set of volumes has is refused by the store's plan.
    fn check_free(&self, name: &MachineName) -> Result<()> {
        match self.hypervisor.domain(name.as_str())? {
            Some(_) => Err(Error::message(format!("there is already a machine named '{name}'"))
                .with_hint("choose another name, or delete that one with kvm-delete")),
            None => Ok(()),
        }
    }

    /// Takes the locks of one operation: `waited` are waited for, `wanted` must be free. Interrupted operations on
    /// any of them are mended before.
    fn lock(&self, wanted: &[MachineName], waited: &[MachineName]) -> Result<Vec<Lock>> {
        let names: BTreeSet<&MachineName> = wanted.iter().chain(waited).collect();
        loop {
            self.recover_for(|name| names.contains(name))?;
            let mut locks = Lock::take_all(&self.state_dir, wanted, &self.tool, Duration::ZERO)?;
            locks.extend(Lock::take_all(&self.state_dir, waited, &self.tool, SOURCE_PATIENCE)?);
            // A holder we waited for may have been killed just now, and left its work to us.
            if !self.is_interrupted(&names)? {
                return Ok(locks);
            }
        }
    }
}

/// The volumes that a definition's disks are: what is cloned and snapshot, not its CD-ROMs and read-only disks.
fn volumes_of(definition: &Definition) -> Vec<Volume> {
    let volume = |target: String, path: PathBuf, format| {
        Some(Volume { name: target, path, format, size: ByteSize::default(), adopted: false })
    };
    let disks = definition.disks().into_iter();
    disks
        .filter(|disk| matches!(disk.device, Device::Disk | Device::Lun) && !disk.readonly)
        .filter_map(|disk| match (disk.source, disk.driver.as_deref()) {
            (Source::File(path), Some("qcow2")) => volume(disk.target, path, VolumeFormat::Qcow2),
            // libvirt takes a file without a stated format as raw, and so do we.
            (Source::File(path), _) => volume(disk.target, path, VolumeFormat::Raw),
            (Source::Block(path), _) => volume(disk.target, path, VolumeFormat::Block),
            _ => None,
        })
        .collect()
}

fn same_places(recorded: &[Volume], defined: &[Volume]) -> bool {
    let places = |volumes: &[Volume]| -> BTreeSet<(String, PathBuf)> {
        volumes.iter().map(|volume| (volume.name.clone(), volume.path.clone())).collect()
    };
    places(recorded) == places(defined)
}

impl Machine {
    /// Refuses where the machine's memory was saved: its next start would go on with it on disks that have changed.
    fn check_not_saved(&self) -> Result<()> {
        match self.record.saved {
            true => Err(Error::refused(format!("the memory of {} is saved", self.name)).with_hint(format!(
                "start it and shut it down, or give the saved memory up: virsh managedsave-remove {}",
                self.name
            ))),
            false => Ok(()),
        }
    }
}

fn renamed(was: &MachineName, is: &MachineName) -> Error {
    Error::refused(format!("{is} was called {was} when kld made its record, and was renamed by another tool"))
        .with_hint(format!("give it its name back: virsh domrename {is} {was}"))
}

/// Where a set keeps its UEFI variables.
fn nvram_path(state_dir: &Path) -> PathBuf {
    state_dir.join("nvram.fd")
}

/// Adds the steps of a store's change to a plan.
fn add_store_steps(plan: &mut Plan, change: &kld_core::store::StoreChange) {
    plan.steps.extend(change.steps.iter().cloned());
}
