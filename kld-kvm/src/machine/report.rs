//! What is known about machines, for people and programs.

use std::collections::{BTreeMap, BTreeSet};
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
    /// True where it is off and its memory was saved: its next start goes on from there.
    pub saved: bool,
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
        let sets = self.store.sets()?;
        let family = Family::of(&sets);
        let mut sets: BTreeMap<String, Set> =
            sets.into_iter().map(|set| (set.name.to_string(), set)).collect();
        let mut reports = Vec::new();
        let mut seen = BTreeSet::new();
        for record in self.hypervisor.domains()? {
            let set = sets.remove(&record.name);
            seen.insert(record.uuid);
            reports.push(self.report(record, set, &family));
        }
        // The set of a renamed machine is told of with the machine.
        sets.retain(|_, set| !seen.contains(&set.machine));
        reports.extend(sets.into_values().map(|set| without_domain(set, &family)));
        self.add_space(&mut reports);
        let mut reports: Vec<MachineReport> = reports.into_iter().map(|(report, _)| report).collect();
        reports.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(reports)
    }

    /// One machine in full, its addresses included.
    pub fn show(&self, name: &MachineName) -> Result<MachineReport> {
        let sets = self.store.sets()?;
        let family = Family::of(&sets);
        let set = sets.into_iter().find(|set| set.name == *name);
        let mut reports = match (self.hypervisor.domain(name.as_str())?, set) {
            (Some(record), set) => {
                let running = (record.state == State::Running).then_some(record.uuid);
                let mut report = self.report(record, set, &family);
                if let Some(uuid) = running {
                    report.0.addresses = self.hypervisor.addresses(uuid)?;
                }
                [report]
            }
            (None, Some(set)) => [without_domain(set, &family)],
            (None, None) => return Err(self.no_such(name)),
        };
        self.add_space(&mut reports);
        let [(report, _)] = reports;
        Ok(report)
    }

    fn report(
        &self,
        record: DomainRecord,
        recorded: Option<Set>,
        family: &Family,
    ) -> (MachineReport, Option<Set>) {
        let mut report = MachineReport::empty(record.name.clone(), record.uuid);
        report.state = Some(record.state);
        report.saved = record.saved;
        let definition = match Definition::parse(&record.definition) {
            Ok(definition) => definition,
            Err(error) => {
                report.problems.push(error.to_string());
                return (report, None);
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
        let set = MachineName::parse(&record.name)
            .and_then(|name| self.set_of(&name, record.uuid, &definition, recorded));
        report.disks = disks(&definition, set.as_ref().ok());
        match set {
            Ok(set) => {
                report.add_set(&set, family);
                (report, Some(set))
            }
            Err(error) => {
                report.problems.push(error.to_string());
                (report, None)
            }
        }
    }

    /// Asks for the space of all at once, and one by one only where that fails.
    fn add_space(&self, reports: &mut [(MachineReport, Option<Set>)]) {
        let sets: Vec<Set> = reports.iter().filter_map(|(_, set)| set.clone()).collect();
        let all = self.store.spaces(&sets).ok();
        let mut all = all.into_iter().flatten();
        for (report, set) in reports.iter_mut() {
            let Some(set) = set else { continue };
            match all.next().map_or_else(|| self.store.space(set), Ok) {
                Ok(space) => report.space = Some(space),
                Err(error) => report.problems.push(error.to_string()),
            }
        }
    }
}

/// Who was cloned from whom. Names are used again; UUIDs are not.
struct Family {
    /// A machine's name, and the name and the UUID of what it was cloned from.
    members: BTreeMap<Uuid, (MachineName, Option<(MachineName, Uuid)>)>,
}

impl Family {
    fn of(sets: &[Set]) -> Self {
        let parent = |set: &Set| set.origin.as_ref().map(|origin| (origin.name.clone(), origin.machine));
        Family { members: sets.iter().map(|set| (set.machine, (set.name.clone(), parent(set)))).collect() }
    }

    /// The names that a machine descends from, nearest first; a circle ends it.
    fn lineage(&self, machine: Uuid) -> Vec<String> {
        let mut line: Vec<(Uuid, String)> = Vec::new();
        let mut at = machine;
        while let Some((_, Some((name, parent)))) = self.members.get(&at) {
            if *parent == machine || line.iter().any(|(known, _)| known == parent) {
                break;
            }
            line.push((*parent, name.to_string()));
            at = *parent;
        }
        line.into_iter().map(|(_, name)| name).collect()
    }

    fn clones(&self, machine: Uuid) -> Vec<MachineName> {
        let members = self.members.values();
        let is_clone =
            |origin: &Option<(MachineName, Uuid)>| origin.as_ref().is_some_and(|(_, of)| *of == machine);
        let mut clones: Vec<_> =
            members.filter(|(_, origin)| is_clone(origin)).map(|(name, _)| name.clone()).collect();
        clones.sort();
        clones
    }
}

fn without_domain(set: Set, family: &Family) -> (MachineReport, Option<Set>) {
    let mut report = MachineReport::empty(set.name.to_string(), set.machine);
    report.problems.push("there is no domain of this name: kvm-delete frees its volumes".to_string());
    report.add_set(&set, family);
    (report, Some(set))
}

impl MachineReport {
    fn add_set(&mut self, set: &Set, family: &Family) {
        self.store = Some(set.store.clone());
        self.lineage = family.lineage(self.uuid);
        self.clones = family.clones(self.uuid);
        let snapshots = set.snapshots.iter();
        self.snapshots = snapshots
            .map(|one| SnapshotReport {
                tag: one.tag.clone(),
                created: one.created,
                consistency: one.consistency,
            })
            .collect();
    }

    fn empty(name: String, uuid: Uuid) -> Self {
        MachineReport {
            name,
            uuid,
            state: None,
            saved: false,
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
