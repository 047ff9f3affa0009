//! What is known about machines, for people and programs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kld_core::hypervisor::{Address, DomainRecord, State};
use kld_core::store::{Consistency, Set, Space};
use kld_core::{ByteSize, MachineName, Result, SnapshotTag};
use serde::Serialize;
use uuid::Uuid;

use super::Machines;
use crate::domain::{Definition, Device, MacAddress};

/// A machine in full.
#[derive(Debug, Clone, Serialize)]
pub struct MachineReport {
    /// Its name, as the hypervisor has it.
    pub name: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// What it is doing; `None` where only its volumes are there, and no domain.
    pub state: Option<State>,
    /// True for a template.
    pub template: bool,
    /// `kvm`, or `qemu` for software emulation.
    pub kind: String,
    /// Its virtual processors.
    pub cpus: u32,
    /// Its memory, in bytes.
    pub memory: ByteSize,
    /// The store of its volumes.
    pub store: Option<String>,
    /// Its disks.
    pub disks: Vec<DiskReport>,
    /// Its network interfaces.
    pub interfaces: Vec<InterfaceReport>,
    /// Its addresses, where it runs and they were asked for.
    pub addresses: Vec<Address>,
    /// The space it takes, in bytes; `None` where it cannot be told.
    pub space: Option<Space>,
    /// What it was cloned from, nearest first.
    pub lineage: Vec<String>,
    /// The machines that were cloned from it.
    pub clones: Vec<MachineName>,
    /// Its snapshots, oldest first.
    pub snapshots: Vec<SnapshotReport>,
    /// What could not be found out, and why.
    pub problems: Vec<String>,
}

/// A disk of a machine.
#[derive(Debug, Clone, Serialize)]
pub struct DiskReport {
    /// Its target, such as `vda`.
    pub target: String,
    /// What it is: `disk`, `cdrom`, ...
    pub device: String,
    /// The file or device behind it.
    pub path: Option<PathBuf>,
    /// Its format.
    pub format: Option<String>,
    /// What the guest sees, in bytes, where it is known.
    pub size: Option<ByteSize>,
}

/// A network interface of a machine.
#[derive(Debug, Clone, Serialize)]
pub struct InterfaceReport {
    /// Its MAC address.
    pub mac: Option<MacAddress>,
    /// How it reaches the network: `network`, `bridge`, `user`, ...
    pub kind: String,
    /// The network, bridge or device that it is connected to.
    pub source: Option<String>,
}

/// A snapshot of a machine.
#[derive(Debug, Clone, Serialize)]
pub struct SnapshotReport {
    /// Its tag.
    pub tag: SnapshotTag,
    /// When it was taken, in seconds since 1970.
    pub created: u64,
    /// How its disks fit together.
    pub consistency: Consistency,
}

impl Machines {
    /// Every machine, by name, and sets of volumes that have lost theirs.
    pub fn list(&self) -> Result<Vec<MachineReport>> {
        let mut sets: BTreeMap<String, Set> =
            self.store.sets()?.into_iter().map(|set| (set.name.to_string(), set)).collect();
        let origins: BTreeMap<String, String> = sets.iter().filter_map(|(name, set)| Some((name.clone(), set.origin.as_ref()?.name.to_string()))).collect();
        let mut reports: Vec<MachineReport> = self
            .hypervisor
            .domains()?
            .into_iter()
            .map(|record| {
                let set = sets.remove(&record.name);
                self.report(record, set, &origins)
            })
            .collect();
        reports.extend(sets.into_values().map(|set| self.report_set(&set, &origins)));
        reports.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(reports)
    }

    /// One machine in full, its addresses included.
    pub fn show(&self, name: &MachineName) -> Result<MachineReport> {
        let origins = self.store.sets()?.into_iter().filter_map(|set| Some((set.name.to_string(), set.origin?.name.to_string())));
        let origins = origins.collect();
        let Some(record) = self.hypervisor.domain(name.as_str())? else {
            return match self.store.set(name)? {
                Some(set) => Ok(self.report_set(&set, &origins)),
                None => Err(self.no_such(name)),
            };
        };
        let running = record.state == State::Running;
        let uuid = record.uuid;
        let mut report = self.report(record, self.store.set(name)?, &origins);
        if running {
            report.addresses = self.hypervisor.addresses(uuid)?;
        }
        Ok(report)
    }

    fn report(
        &self,
        record: DomainRecord,
        recorded: Option<Set>,
        origins: &BTreeMap<String, String>,
    ) -> MachineReport {
        let mut report = MachineReport::empty(record.name.clone(), record.uuid);
        report.state = Some(record.state);
        let definition = match Definition::parse(&record.definition) {
            Ok(definition) => definition,
            Err(error) => {
                report.problems.push(error.to_string());
                return report;
            }
        };
        report.template = definition.is_template();
        report.kind = definition.kind().to_string();
        report.cpus = definition.cpus();
        report.memory = definition.memory();
        let interfaces = definition.interfaces().into_iter();
        report.interfaces = interfaces
            .map(|nic| InterfaceReport { mac: nic.mac, kind: nic.kind.to_string(), source: nic.source })
            .collect();
        let set = MachineName::parse(&record.name).and_then(|name| match recorded {
            Some(set) if set.machine == record.uuid && super::same_places(&set.volumes, &super::volumes_of(&definition)) => Ok(set),
            _ => self.store.adopt(&name, record.uuid, super::volumes_of(&definition)),
        });
        report.disks = disks(&definition, set.as_ref().ok());
        match set {
            Ok(set) => self.add_set(&mut report, &set, origins),
            Err(error) => report.problems.push(error.to_string()),
        }
        report
    }

    fn report_set(&self, set: &Set, origins: &BTreeMap<String, String>) -> MachineReport {
        let mut report = MachineReport::empty(set.name.to_string(), set.machine);
        report.problems.push("its domain is gone: kvm-delete frees its volumes".to_string());
        self.add_set(&mut report, set, origins);
        report
    }

    fn add_set(&self, report: &mut MachineReport, set: &Set, origins: &BTreeMap<String, String>) {
        report.store = Some(set.store.clone());
        report.lineage = lineage(&report.name, origins);
        report.snapshots = set
            .snapshots
            .iter()
            .map(|one| SnapshotReport { tag: one.tag.clone(), created: one.created, consistency: one.consistency })
            .collect();
        match self.store.space(set) {
            Ok(space) => report.space = Some(space),
            Err(error) => report.problems.push(error.to_string()),
        }
        match self.store.clones(set) {
            Ok(clones) => report.clones = clones,
            Err(error) => report.problems.push(error.to_string()),
        }
    }
}

impl MachineReport {
    fn empty(name: String, uuid: Uuid) -> Self {
        MachineReport {
            name,
            uuid,
            state: None,
            template: false,
            kind: String::new(),
            cpus: 0,
            memory: ByteSize::default(),
            store: None,
            disks: Vec::new(),
            interfaces: Vec::new(),
            addresses: Vec::new(),
            space: None,
            lineage: Vec::new(),
            clones: Vec::new(),
            snapshots: Vec::new(),
            problems: Vec::new(),
        }
    }
}

fn disks(definition: &Definition, set: Option<&Set>) -> Vec<DiskReport> {
    let size = |target: &str| {
        let volume = set?.volumes.iter().find(|volume| volume.name == target)?;
        Some(volume.size)
    };
    let disks = definition.disks().into_iter();
    disks
        .map(|disk| DiskReport {
            size: size(&disk.target),
            device: device(disk.device).to_string(),
            path: disk.source.path().map(PathBuf::from),
            format: disk.driver,
            target: disk.target,
        })
        .collect()
}

fn device(device: Device) -> &'static str {
    match device {
        Device::Disk => "disk",
        Device::Cdrom => "cdrom",
        Device::Floppy => "floppy",
        Device::Lun => "lun",
    }
}

/// The names that a machine descends from, nearest first; a circle (names used again) ends it.
fn lineage(name: &str, origins: &BTreeMap<String, String>) -> Vec<String> {
    let mut line: Vec<String> = Vec::new();
    let mut at = name;
    while let Some(parent) = origins.get(at).filter(|parent| *parent != name && !line.contains(parent)) {
        line.push(parent.clone());
        at = parent;
    }
    line
}
