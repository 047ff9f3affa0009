//! Starting and stopping.

use std::time::Duration;

use kld_core::hypervisor::{Address, State};
use kld_core::timing::phase;
use kld_core::{Change, Error, MachineName, Result};

use super::Machines;

/// How a machine is to be stopped.
#[derive(Debug, Clone, Copy)]
pub struct StopRequest {
    /// How long the guest has to shut down.
    pub patience: Duration,
    /// Take its power away where it does not; with no patience, at once.
    pub force: bool,
}

impl Machines {
    /// Starts a machine and waits until its processors run.
    ///
    /// # Errors
    /// [`Error::Refused`] where it is a template.
    pub fn start(&self, name: &MachineName) -> Result<Change<()>> {
        let _locks = self.lock(std::slice::from_ref(name), &[])?;
        let machine = self.find(name)?;
        if machine.definition.is_template() {
            return Err(Error::refused(format!("{name} is a template and is not started")).with_hint(
                format!("clone it (kvm-clone {name} NEW), or thaw it (kvm-template {name} --undo)"),
            ));
        }
        if !machine.record.state.is_active() {
            phase("volumes", || self.store.ready(&machine.set))?;
        }
        phase("start", || self.hypervisor.start(machine.record.uuid))
    }

    /// Stops a machine: asks the guest, waits, and takes the power away where it may.
    ///
    /// # Errors
    /// [`Error::Busy`] where the guest is still running when the patience is over and force is not allowed.
    pub fn stop(&self, name: &MachineName, request: StopRequest) -> Result<Change<()>> {
        let _locks = self.lock(std::slice::from_ref(name), &[])?;
        let machine = self.find(name)?;
        let uuid = machine.record.uuid;
        // A paused guest cannot answer.
        let asked = request.patience.is_zero() || machine.record.state == State::Paused;
        if request.force && asked {
            return self.hypervisor.power_off(uuid);
        }
        match self.hypervisor.shutdown(uuid, request.patience) {
            Err(Error::Busy { .. }) if request.force => self.hypervisor.power_off(uuid),
            Err(error @ Error::Busy { .. }) => {
                Err(error
                    .with_hint("give it more time (--timeout SECONDS), or take its power away (--force)"))
            }
            other => other,
        }
    }

    /// The addresses of a machine that are known now.
    pub fn addresses(&self, name: &MachineName) -> Result<Vec<Address>> {
        let machine = self.find(name)?;
        match machine.record.state.is_active() {
            true => self.hypervisor.addresses(machine.record.uuid),
            false => Err(not_running(name, machine.record.state)),
        }
    }

    /// The terminal device of a running machine's serial console.
    pub fn console(&self, name: &MachineName) -> Result<std::path::PathBuf> {
        let machine = self.find(name)?;
        match machine.record.state.is_active() {
            true => self.hypervisor.console(machine.record.uuid),
            false => Err(not_running(name, machine.record.state)),
        }
    }
}

fn not_running(name: &MachineName, state: State) -> Error {
    Error::message(format!("{name} is {state}")).with_hint(format!("start it: kvm-start {name}"))
}
