//! Hypervisors: who runs machines.

pub mod conformance;
mod sim;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::store::{Consistency, Repoint};
use crate::{Change, Probe, Result};

pub use sim::{Op, SimHypervisor};

/// What a domain is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Its processors run.
    Running,
    /// It exists, but its processors stand still.
    Paused,
    /// It is on its way down.
    ShuttingDown,
    /// It is off.
    Off,
    /// Its guest or its emulator failed.
    Crashed,
}

impl State {
    /// True where the domain has an emulator, so that its disks are open.
    pub fn is_active(self) -> bool {
        matches!(self, State::Running | State::Paused | State::ShuttingDown)
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            State::Running => "running",
            State::Paused => "paused",
            State::ShuttingDown => "shutting down",
            State::Off => "off",
            State::Crashed => "crashed",
        })
    }
}

/// A domain as the hypervisor knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainRecord {
    /// Its name; foreign domains may have names that are no [`crate::MachineName`].
    pub name: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// What it is doing.
    pub state: State,
    /// False for a transient domain, which is gone when it stops.
    pub persistent: bool,
    /// True for one that is off and whose memory was saved: its next start goes on from there, on the disks that it
    /// had.
    #[serde(default)]
    pub saved: bool,
    /// The definition that its next start uses, in libvirt's XML.
    pub definition: String,
}

/// An address of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The interface's MAC address.
    pub mac: String,
    /// The address, without prefix length.
    pub address: std::net::IpAddr,
    /// Who says so: `lease`, `agent` or `arp`.
    pub source: String,
}

/// What a hypervisor can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HypervisorCapabilities {
    /// Disks of a running domain can be switched to overlays at one moment.
    pub live_switch: bool,
    /// Domains run on hardware virtualisation; false: software emulation only.
    pub hardware: bool,
}

/// Who runs machines. Definitions are libvirt domain XML.
pub trait Hypervisor: Send + Sync {
    /// The name under which it is chosen.
    fn name(&self) -> &'static str;
    /// Which one of its kind it is, such as a connection's URI: the journal notes it, so that what was begun with one
    /// is not undone or finished with another.
    fn place(&self) -> String {
        self.name().to_string()
    }
    /// What it can do here.
    fn capabilities(&self) -> HypervisorCapabilities;
    /// Whether it can serve on this host.
    fn probe(&self) -> Probe;

    /// Every domain.
    fn domains(&self) -> Result<Vec<DomainRecord>>;
    /// One domain by name.
    fn domain(&self, name: &str) -> Result<Option<DomainRecord>>;
    /// One domain by UUID.
    fn domain_by_uuid(&self, uuid: Uuid) -> Result<Option<DomainRecord>>;

    /// Makes or replaces a definition. An error where another domain has its name or its UUID.
    fn define(&self, definition: &str) -> Result<Uuid>;
    /// Makes or replaces several definitions, at once where it can. After an error, any of them may have been made.
    fn define_all(&self, definitions: &[&str]) -> Result<()> {
        definitions.iter().try_for_each(|definition| self.define(definition).map(drop))
    }
    /// Forgets a definition; files that it names (NVRAM, disks) stay. One that is not there is as wanted.
    fn undefine(&self, uuid: Uuid) -> Result<Change<()>>;
    /// What was defined and forgotten before survives a power cut when this returns.
    fn settle(&self) -> Result<()> {
        Ok(())
    }

    /// Starts a domain and waits until its processors run. An error (and the domain off again) where they do
    /// not: a paused machine is not started.
    fn start(&self, uuid: Uuid) -> Result<Change<()>>;
    /// Asks the guest to shut down and waits for it.
    ///
    /// # Errors
    /// [`crate::Error::Busy`] where it still runs after `patience`.
    fn shutdown(&self, uuid: Uuid, patience: Duration) -> Result<Change<()>>;
    /// Takes the power away.
    fn power_off(&self, uuid: Uuid) -> Result<Change<()>>;

    /// Switches disks of a domain to prepared overlays. Of a running one all at one moment, in the running guest
    /// and in its definition; the guest's agent freezes its file systems for the moment where there is one. Of one
    /// that is off, in its definition, which gives [`Consistency::Stopped`]. Safe to repeat: disks that already
    /// stand there are left.
    fn switch_disks(&self, uuid: Uuid, repoints: &[Repoint]) -> Result<Consistency>;

    /// Does something while a running guest's file systems are frozen by its agent, where there is one that answers;
    /// says how disks fit together that are snapshot by it.
    fn while_frozen(&self, uuid: Uuid, deed: &mut dyn FnMut() -> Result<()>) -> Result<Consistency> {
        let before = self.domain_by_uuid(uuid)?;
        deed()?;
        // Started meanwhile, it has perhaps written; stopped meanwhile, too.
        let after = self.domain_by_uuid(uuid)?;
        let ran = [before, after].into_iter().flatten().any(|domain| domain.state.is_active());
        Ok(if ran { Consistency::CrashConsistent } else { Consistency::Stopped })
    }
    /// Lets a guest go on that a killed run has left frozen.
    fn thaw(&self, uuid: Uuid) -> Result<()> {
        let _ = uuid;
        Ok(())
    }

    /// Whether a virtual network of this name is up; `None` where there is none of this name.
    fn network(&self, name: &str) -> Result<Option<bool>>;
    /// The addresses that are known of a guest; empty where none is known yet.
    fn addresses(&self, uuid: Uuid) -> Result<Vec<Address>>;
    /// The terminal device of a running domain's serial console.
    fn console(&self, uuid: Uuid) -> Result<PathBuf>;
}
