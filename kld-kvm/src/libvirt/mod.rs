//! The hypervisor that is libvirt.
//!
//! Two connections, each opened by the first call that needs it: a direct one for the calls that read, define
//! and forget domains, and that of libvirt's library for everything else and wherever the direct one does not
//! serve. No call waits longer than its time limit. Definitions that libvirt gives are the inactive ones with their secrets: what
//! the next start uses, fit to be defined again.

mod address;
mod domains;
pub mod hook;
mod kvm;
pub mod lazy;
mod life;
mod probes;
mod settle;
mod switch;
mod tell;
mod wire;
mod worker;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use kld_core::hypervisor::{Address, DomainRecord, Hypervisor, HypervisorCapabilities};
use kld_core::store::{Consistency, Repoint};
use kld_core::{Change, Error, Probe, Result};
use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::{Error as VirtError, ErrorNumber};

use wire::Direct;
use worker::Worker;

/// What is added to the time limit where the daemon itself waits: for an emulator to start or to end, or for a
/// guest to freeze its file systems.
const DEED: Duration = Duration::from_secs(60);

/// libvirt at one URI.
pub struct Libvirt {
    worker: Worker,
    direct: Direct,
    uri: String,
    timeout: Duration,
    state_dir: PathBuf,
    kvm: OnceLock<kvm::Kvm>,
}

impl Libvirt {
    /// libvirt at `uri` (such as `qemu:///system`), which is not contacted before it is needed. No call waits
    /// longer than `timeout` for the daemon, and a minute more where the daemon waits for an emulator. What was
    /// found out about hardware virtualisation is remembered in `state_dir` until the next boot.
    pub fn new(uri: &str, timeout: Duration, state_dir: &Path) -> Self {
        Libvirt {
            worker: Worker::new(uri),
            direct: Direct::new(uri),
            uri: uri.to_string(),
            timeout,
            state_dir: state_dir.to_path_buf(),
            kvm: OnceLock::new(),
        }
    }

    /// The same, with every call through libvirt's library: for tests.
    #[doc(hidden)]
    pub fn through_the_library(self) -> Self {
        self.direct.never();
        self
    }

    /// The domain type for new machines: `kvm`, or `qemu` (software emulation) where guests do not run under
    /// KVM here.
    pub fn guest_kind(&self) -> &'static str {
        if self.kvm().is_ok_and(|kvm| kvm.runs_guests) { "kvm" } else { "qemu" }
    }

    /// What serves here and what does not: the daemon, hardware virtualisation, the default network.
    pub fn probes(&self) -> Vec<Probe> {
        probes::all(self)
    }

    /// Makes or replaces definitions, and gives their UUIDs in the same order. The daemon has each as long as one has.
    fn define_at_once(&self, definitions: &[&str]) -> Result<Vec<Uuid>> {
        definitions.iter().try_for_each(|definition| check_text("the definition", definition))?;
        let limit = self.timeout * u32::try_from(definitions.len()).unwrap_or(u32::MAX).max(1);
        if let Some(told) = self.direct.define(definitions, limit) {
            return told;
        }
        let definitions: Vec<String> = definitions.iter().map(ToString::to_string).collect();
        self.call(limit, move |connect| {
            definitions.iter().map(|definition| domains::define(connect, definition)).collect()
        })
    }

    /// Runs `deed` on the connection's thread.
    fn call<T: Send + 'static>(
        &self,
        limit: Duration,
        deed: impl FnOnce(&Connect) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.worker.call(limit, deed)
    }

    /// Runs `deed` on a domain; `None` where there is none, or where it goes away meanwhile. `what` is a verb
    /// for the error.
    fn on<T: Send + 'static>(
        &self,
        uuid: Uuid,
        what: &'static str,
        limit: Duration,
        deed: impl FnOnce(&Domain) -> Result<T, VirtError> + Send + 'static,
    ) -> Result<Option<T>> {
        self.call(limit, move |connect| {
            let domain = match Domain::lookup_by_uuid(connect, uuid) {
                Ok(domain) => domain,
                Err(error) => {
                    return absent(error)
                        .map_err(|error| tell::failure(format!("cannot {what} {uuid}"), &error));
                }
            };
            let name = || domain.get_name().unwrap_or_else(|_| uuid.to_string());
            match deed(&domain) {
                Ok(value) => Ok(Some(value)),
                Err(error) => {
                    absent(error).map_err(|error| tell::failure(format!("cannot {what} {}", name()), &error))
                }
            }
        })
    }
}

/// A domain that is not there is no failure.
fn absent<T>(error: VirtError) -> Result<Option<T>, VirtError> {
    if error.code() == ErrorNumber::NoDomain { Ok(None) } else { Err(error) }
}

fn no_machine(uuid: Uuid) -> Error {
    Error::message(format!("libvirt knows no machine with the UUID {uuid}"))
        .with_hint("`kvm-list` shows those it knows")
}

/// A C string must not hold a zero byte, and the bindings panic on one.
fn check_text(what: &str, text: &str) -> Result<()> {
    if text.contains('\0') {
        return Err(Error::usage(format!("{what} contains a zero byte")));
    }
    Ok(())
}

impl Hypervisor for Libvirt {
    fn name(&self) -> &'static str {
        "libvirt"
    }

    fn place(&self) -> String {
        self.uri.clone()
    }

    fn capabilities(&self) -> HypervisorCapabilities {
        HypervisorCapabilities { live_switch: true, hardware: self.guest_kind() == "kvm" }
    }

    fn probe(&self) -> Probe {
        probes::daemon(self)
    }

    fn domains(&self) -> Result<Vec<DomainRecord>> {
        self.direct.domains(self.timeout).unwrap_or_else(|| self.call(self.timeout, domains::all))
    }

    fn domain(&self, name: &str) -> Result<Option<DomainRecord>> {
        check_text("the machine's name", name)?;
        if let Some(told) = self.direct.domain(name, self.timeout) {
            return told;
        }
        let name = name.to_string();
        self.call(self.timeout, move |connect| domains::found(Domain::lookup_by_name(connect, &name), &name))
    }

    fn domain_by_uuid(&self, uuid: Uuid) -> Result<Option<DomainRecord>> {
        if let Some(told) = self.direct.domain_by_uuid(uuid, self.timeout) {
            return told;
        }
        self.call(self.timeout, move |connect| {
            domains::found(Domain::lookup_by_uuid(connect, uuid), &uuid.to_string())
        })
    }

    fn define(&self, definition: &str) -> Result<Uuid> {
        self.define_at_once(&[definition])?.pop().ok_or_else(|| Error::message("libvirt has defined nothing"))
    }

    fn define_all(&self, definitions: &[&str]) -> Result<()> {
        self.define_at_once(definitions).map(drop)
    }

    fn undefine(&self, uuid: Uuid) -> Result<Change<()>> {
        if let Some(told) = self.direct.undefine(uuid, self.timeout) {
            return told;
        }
        let gone = self.on(uuid, "forget the machine", self.timeout, domains::undefine)?;
        Ok(gone.unwrap_or(Change::Unchanged(())))
    }

    fn settle(&self) -> Result<()> {
        settle::settle(&self.uri)
    }

    fn start(&self, uuid: Uuid) -> Result<Change<()>> {
        life::start(self, uuid)
    }

    fn shutdown(&self, uuid: Uuid, patience: Duration) -> Result<Change<()>> {
        life::shutdown(self, uuid, patience)
    }

    fn power_off(&self, uuid: Uuid) -> Result<Change<()>> {
        life::power_off(self, uuid)
    }

    fn switch_disks(&self, uuid: Uuid, repoints: &[Repoint]) -> Result<Consistency> {
        switch::switch(self, uuid, repoints)
    }

    fn while_frozen(&self, uuid: Uuid, deed: &mut dyn FnMut() -> Result<()>) -> Result<Consistency> {
        switch::while_frozen(self, uuid, deed)
    }

    fn thaw(&self, uuid: Uuid) -> Result<()> {
        switch::thaw_guest(self, uuid)
    }

    fn network(&self, name: &str) -> Result<Option<bool>> {
        probes::network(self, name)
    }

    fn addresses(&self, uuid: Uuid) -> Result<Vec<Address>> {
        self.on(uuid, "ask for the addresses of", self.timeout, address::known)?
            .ok_or_else(|| no_machine(uuid))
    }

    fn console(&self, uuid: Uuid) -> Result<PathBuf> {
        life::console(self, uuid)
    }
}
