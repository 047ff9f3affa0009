//! A hypervisor in memory, to test what stands on one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use uuid::Uuid;

use super::{Address, DomainRecord, Hypervisor, HypervisorCapabilities, State};
use crate::store::{Consistency, Repoint};
use crate::{Change, Error, Probe, Result};

/// A deed that [`SimHypervisor::fail_next`] can make fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// Any of the lookups of domains.
    Look,
    /// [`Hypervisor::define`].
    Define,
    /// [`Hypervisor::undefine`].
    Undefine,
    /// [`Hypervisor::start`].
    Start,
    /// [`Hypervisor::shutdown`].
    Shutdown,
    /// [`Hypervisor::power_off`].
    PowerOff,
    /// [`Hypervisor::switch_disks`].
    SwitchDisks,
}

/// A [`Hypervisor`] whose domains are in memory. It reads no more of a definition than the name, the UUID and,
/// when it switches disks, where they are.
///
/// There is a network `default`, which is up. Guests have no agent, and shut down when they are asked.
#[derive(Debug)]
pub struct SimHypervisor {
    inside: Mutex<Inside>,
}

#[derive(Debug)]
struct Inside {
    domains: BTreeMap<Uuid, DomainRecord>,
    networks: BTreeMap<String, bool>,
    addresses: BTreeMap<Uuid, Vec<Address>>,
    failing: BTreeSet<Op>,
    agent: bool,
    obedient: bool,
    live_switch: bool,
    fail_after_switch: bool,
}

impl Default for SimHypervisor {
    fn default() -> Self {
        Self::new()
    }
}

impl SimHypervisor {
    /// A host without domains.
    pub fn new() -> Self {
        SimHypervisor {
            inside: Mutex::new(Inside {
                fail_after_switch: false,
                domains: BTreeMap::new(),
                networks: BTreeMap::from([("default".to_string(), true)]),
                addresses: BTreeMap::new(),
                failing: BTreeSet::new(),
                agent: false,
                obedient: true,
                live_switch: true,
            }),
        }
    }

    /// Makes the next such deed fail, before it changes anything.
    pub fn fail_next(&self, op: Op) {
        self.inside().failing.insert(op);
    }

    /// Whether guests have an agent that freezes their file systems.
    pub fn set_agent(&self, present: bool) {
        self.inside().agent = present;
    }

    /// Whether guests shut down when they are asked.
    pub fn set_obedient(&self, obedient: bool) {
        self.inside().obedient = obedient;
    }

    /// Whether disks of running domains can be switched.
    pub fn set_live_switch(&self, possible: bool) {
        self.inside().live_switch = possible;
    }

    /// Puts a network there that is up or not; `None` takes it away.
    pub fn set_network(&self, name: &str, up: Option<bool>) {
        let networks = &mut self.inside().networks;
        match up {
            Some(up) => networks.insert(name.to_string(), up),
            None => networks.remove(name),
        };
    }

    /// Says which addresses a guest has while it is active.
    pub fn set_addresses(&self, uuid: Uuid, addresses: Vec<Address>) {
        self.inside().addresses.insert(uuid, addresses);
    }

    /// The next switch of disks is done and then answered with an error, as when the daemon goes away in between.
    pub fn fail_after_next_switch(&self) {
        self.inside().fail_after_switch = true;
    }

    /// Saves the memory of a domain that is off, or forgets it.
    pub fn set_saved(&self, uuid: Uuid, saved: bool) {
        if let Some(domain) = self.inside().domains.get_mut(&uuid) {
            domain.saved = saved;
        }
    }

    /// Puts a domain into a state, as somebody else might have.
    pub fn set_state(&self, uuid: Uuid, state: State) {
        if let Some(domain) = self.inside().domains.get_mut(&uuid) {
            domain.state = state;
        }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        // A test that panicked while it held the lock says so itself.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The inside, where `op` is not to fail.
    fn before(&self, op: Op) -> Result<MutexGuard<'_, Inside>> {
        let mut inside = self.inside();
        if inside.failing.remove(&op) {
            return Err(Error::message(format!("the simulated hypervisor fails at {op:?}")));
        }
        Ok(inside)
    }
}

impl Inside {
    fn domain(&mut self, uuid: Uuid) -> Result<&mut DomainRecord> {
        self.domains.get_mut(&uuid).ok_or_else(|| Error::message(format!("there is no domain {uuid}")))
    }

    /// Turns a domain off; a transient one is gone then.
    fn stop(&mut self, uuid: Uuid) -> Result<Change<()>> {
        let domain = self.domain(uuid)?;
        let was = std::mem::replace(&mut domain.state, State::Off);
        if !domain.persistent {
            self.domains.remove(&uuid);
        }
        Ok(if was.is_active() { Change::Changed(()) } else { Change::Unchanged(()) })
    }
}

impl Hypervisor for SimHypervisor {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn capabilities(&self) -> HypervisorCapabilities {
        HypervisorCapabilities { live_switch: self.inside().live_switch, hardware: false }
    }

    fn probe(&self) -> Probe {
        Probe::serves("hypervisor sim", "domains live in this process's memory")
    }

    fn domains(&self) -> Result<Vec<DomainRecord>> {
        Ok(self.before(Op::Look)?.domains.values().cloned().collect())
    }

    fn domain(&self, name: &str) -> Result<Option<DomainRecord>> {
        Ok(self.before(Op::Look)?.domains.values().find(|domain| domain.name == name).cloned())
    }

    fn domain_by_uuid(&self, uuid: Uuid) -> Result<Option<DomainRecord>> {
        Ok(self.before(Op::Look)?.domains.get(&uuid).cloned())
    }

    fn define(&self, definition: &str) -> Result<Uuid> {
        let mut inside = self.before(Op::Define)?;
        let bad = |cause| Error::failed("cannot define the domain", cause);
        let name = element(definition, "name").ok_or_else(|| bad("it has no name".to_string()))?;
        let (uuid, definition) = match element(definition, "uuid") {
            Some(text) => (Uuid::parse_str(&text).map_err(|e| bad(e.to_string()))?, definition.to_string()),
            None => {
                let uuid = Uuid::new_v4();
                let with_uuid = format!("</name>\n  <uuid>{uuid}</uuid>");
                (uuid, definition.replacen("</name>", &with_uuid, 1))
            }
        };
        if let Some(other) =
            inside.domains.values().find(|other| (other.name == name) != (other.uuid == uuid))
        {
            return Err(bad(format!("'{}' has the UUID {}", other.name, other.uuid)));
        }
        let new = DomainRecord {
            name,
            uuid,
            state: State::Off,
            persistent: true,
            saved: false,
            definition: definition.clone(),
        };
        let domain = inside.domains.entry(uuid).or_insert(new);
        (domain.definition, domain.persistent) = (definition, true);
        Ok(uuid)
    }

    fn undefine(&self, uuid: Uuid) -> Result<Change<()>> {
        let mut inside = self.before(Op::Undefine)?;
        match inside.domains.get_mut(&uuid) {
            Some(domain) if domain.persistent && domain.state.is_active() => domain.persistent = false,
            Some(domain) if domain.persistent => drop(inside.domains.remove(&uuid)),
            _ => return Ok(Change::Unchanged(())),
        }
        Ok(Change::Changed(()))
    }

    fn start(&self, uuid: Uuid) -> Result<Change<()>> {
        let mut inside = self.before(Op::Start)?;
        let domain = inside.domain(uuid)?;
        match domain.state {
            State::Running => return Ok(Change::Unchanged(())),
            State::Off | State::Crashed => domain.state = State::Running,
            state => return Err(Error::failed(format!("cannot start '{}'", domain.name), state)),
        }
        Ok(Change::Changed(()))
    }

    fn shutdown(&self, uuid: Uuid, patience: Duration) -> Result<Change<()>> {
        let mut inside = self.before(Op::Shutdown)?;
        let obedient = inside.obedient;
        let domain = inside.domain(uuid)?;
        if domain.state.is_active() && !obedient {
            let waited = patience.as_secs();
            return Err(Error::busy(format!("'{}' still runs after {waited} seconds", domain.name)));
        }
        inside.stop(uuid)
    }

    fn power_off(&self, uuid: Uuid) -> Result<Change<()>> {
        self.before(Op::PowerOff)?.stop(uuid)
    }

    fn switch_disks(&self, uuid: Uuid, repoints: &[Repoint]) -> Result<Consistency> {
        let mut inside = self.before(Op::SwitchDisks)?;
        let (agent, possible) = (inside.agent, inside.live_switch);
        let domain = inside.domain(uuid)?;
        let what = format!("cannot switch the disks of '{}'", domain.name);
        let running = domain.state.is_active();
        if running && !possible {
            return Err(Error::failed(what, "this host cannot do that while it runs"));
        }
        let switched = repoints.iter().try_fold(domain.definition.clone(), |definition, repoint| {
            let target = &repoint.volume.name;
            repointed(&definition, target, &repoint.volume.path.display().to_string())
                .ok_or_else(|| Error::failed(&what, format!("it has no disk '{target}'")))
        });
        domain.definition = switched?;
        if std::mem::take(&mut inside.fail_after_switch) {
            return Err(Error::failed(what, "the connection was lost"));
        }
        Ok(match (running, agent) {
            (false, _) => Consistency::Stopped,
            (true, true) => Consistency::Frozen,
            (true, false) => Consistency::CrashConsistent,
        })
    }

    fn network(&self, name: &str) -> Result<Option<bool>> {
        Ok(self.inside().networks.get(name).copied())
    }

    fn addresses(&self, uuid: Uuid) -> Result<Vec<Address>> {
        let mut inside = self.inside();
        let active = inside.domain(uuid)?.state.is_active();
        Ok(inside.addresses.get(&uuid).filter(|_| active).cloned().unwrap_or_default())
    }

    fn console(&self, uuid: Uuid) -> Result<PathBuf> {
        let mut inside = self.inside();
        let domain = inside.domain(uuid)?;
        if !domain.state.is_active() {
            return Err(Error::message(format!("'{}' is off: it has no console", domain.name)));
        }
        Ok(PathBuf::from("/dev/null"))
    }
}

/// The text of the first element of this name.
fn element(xml: &str, name: &str) -> Option<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let (_, rest) = xml.split_once(&open)?;
    let (text, _) = rest.split_once(&close)?;
    let text = text.trim().replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
    Some(text.replace("&apos;", "'").replace("&amp;", "&"))
}

/// A definition whose disk `target` has its source at `path`.
fn repointed(definition: &str, target: &str, path: &str) -> Option<String> {
    let mut from = 0;
    while let Some(at) = definition[from..].find("<disk ").map(|at| at + from) {
        let end = definition[at..].find("</disk>")? + at;
        let disk = &definition[at..end];
        if [format!("dev='{target}'"), format!("dev=\"{target}\"")].iter().any(|dev| disk.contains(dev)) {
            let source = at + disk.find("<source ")?;
            let quote = source + definition[source..end].find(['\'', '"'])?;
            let mark = &definition[quote..=quote];
            let close = quote + 1 + definition[quote + 1..end].find(mark)?;
            return Some(format!("{}{path}{}", &definition[..=quote], &definition[close..]));
        }
        from = end;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::conformance::{self, Rig};
    use super::*;
    use crate::store::{Volume, VolumeFormat};
    use crate::{ByteSize, MachineName};

    struct SimRig {
        hypervisor: SimHypervisor,
    }

    fn volume(path: &str) -> Volume {
        let (name, format) = ("vda".to_string(), VolumeFormat::Qcow2);
        Volume { name, path: path.into(), format, size: ByteSize::mib(1), adopted: false }
    }

    impl Rig for SimRig {
        fn hypervisor(&self) -> &dyn Hypervisor {
            &self.hypervisor
        }
        fn domain_type(&self) -> &str {
            "test"
        }
        fn guest_obeys(&self) -> bool {
            self.hypervisor.inside().obedient
        }
        fn disk(&self) -> Option<Volume> {
            Some(volume("/disks/a.qcow2"))
        }
        fn overlay(&self, on: &Volume) -> Volume {
            volume(&format!("{}.overlay", on.path.display()))
        }
    }

    const DOMAIN: &str = "<domain type='test'><name>a</name><devices>\
        <disk type='file' device='cdrom'><source file='/x.iso'/><target dev='sda'/></disk>\
        <disk type=\"file\"><driver name='qemu'/><source file=\"/a.qcow2\"/><target dev=\"vda\"/></disk>\
        </devices></domain>";

    fn running() -> (SimHypervisor, Uuid) {
        let hypervisor = SimHypervisor::new();
        let uuid = hypervisor.define(DOMAIN).unwrap();
        hypervisor.start(uuid).unwrap();
        (hypervisor, uuid)
    }

    fn repoint(name: &str) -> Repoint {
        let volume = Volume { name: name.to_string(), ..volume("/new.qcow2") };
        Repoint { set: MachineName::parse("a").unwrap(), volume }
    }

    #[test]
    fn the_simulated_hypervisor_does_what_every_hypervisor_does() {
        conformance::all(&|| Box::new(SimRig { hypervisor: SimHypervisor::new() }));
    }

    #[test]
    fn with_guests_that_do_not_obey_it_does_so_too() {
        conformance::all(&|| {
            let hypervisor = SimHypervisor::new();
            hypervisor.set_obedient(false);
            Box::new(SimRig { hypervisor })
        });
    }

    #[test]
    fn a_deed_that_is_to_fail_fails_once_and_changes_nothing() {
        let (hypervisor, uuid) = running();
        for op in [Op::Define, Op::Undefine, Op::Start, Op::Shutdown, Op::PowerOff, Op::SwitchDisks] {
            hypervisor.fail_next(op);
        }
        let before = hypervisor.domains().unwrap();
        assert!(hypervisor.define(DOMAIN).is_err());
        assert!(hypervisor.undefine(uuid).is_err());
        assert!(hypervisor.start(uuid).is_err());
        assert!(hypervisor.shutdown(uuid, Duration::ZERO).is_err());
        assert!(hypervisor.power_off(uuid).is_err());
        assert!(hypervisor.switch_disks(uuid, &[repoint("vda")]).is_err());
        assert_eq!(hypervisor.domains().unwrap(), before);
        assert!(hypervisor.power_off(uuid).unwrap().is_changed());
        hypervisor.fail_next(Op::Look);
        assert!(hypervisor.domain("a").is_err());
    }

    #[test]
    fn a_switch_changes_one_source_or_none() {
        let (hypervisor, uuid) = running();
        let definition = || hypervisor.domain("a").unwrap().unwrap().definition;
        let before = definition();
        assert!(hypervisor.switch_disks(uuid, &[repoint("vda"), repoint("vdz")]).is_err());
        assert_eq!(definition(), before);
        hypervisor.switch_disks(uuid, &[repoint("vda")]).unwrap();
        assert_eq!(definition(), before.replace("/a.qcow2", "/new.qcow2"));
    }

    #[test]
    fn a_guest_with_an_agent_is_frozen_for_the_switch() {
        let (hypervisor, uuid) = running();
        let switch = || hypervisor.switch_disks(uuid, &[repoint("vda")]).unwrap();
        assert_eq!(switch(), Consistency::CrashConsistent);
        hypervisor.set_agent(true);
        assert_eq!(switch(), Consistency::Frozen);
    }

    #[test]
    fn the_network_default_is_up() {
        let hypervisor = SimHypervisor::new();
        assert_eq!(hypervisor.network("default").unwrap(), Some(true));
        hypervisor.set_network("default", None);
        assert_eq!(hypervisor.network("default").unwrap(), None);
    }

    #[test]
    fn a_definition_without_uuid_gets_one() {
        let (hypervisor, uuid) = running();
        let record = hypervisor.domain_by_uuid(uuid).unwrap().unwrap();
        assert_eq!(element(&record.definition, "uuid"), Some(uuid.to_string()));
    }
}
