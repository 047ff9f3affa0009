//! Templates: machines that are cloned and never started.

use kld_core::{Change, Error, MachineName, Plan, Result};

use super::Machines;

impl Machines {
    /// What [`set_template`](Self::set_template) would do.
    pub fn plan_template(&self, name: &MachineName, template: bool) -> Result<Plan> {
        let machine = self.find(name)?;
        let mut plan =
            Plan::new(if template { format!("freeze {name} as a template") } else { format!("thaw {name}") });
        if machine.definition.is_template() != template {
            plan.step(
                "define",
                name,
                if template { "marked as a template" } else { "without the template's mark" },
            );
        }
        Ok(plan)
    }

    /// Freezes a machine as a template, or thaws it. A frozen machine is refused by [`start`](Self::start), and
    /// by plain `virsh start` too: its definition asks for a file that does not exist.
    ///
    /// # Errors
    /// [`Error::Refused`] where it runs.
    pub fn set_template(&self, name: &MachineName, template: bool) -> Result<Change<()>> {
        let _locks = self.lock(std::slice::from_ref(name), &[])?;
        let mut machine = self.find(name)?;
        if machine.definition.is_template() == template {
            return Ok(Change::Unchanged(()));
        }
        if machine.record.state.is_active() {
            return Err(Error::refused(format!("{name} is {}, and a template is not", machine.record.state))
                .with_hint(format!("stop it first: kvm-stop {name}")));
        }
        machine.check_not_saved()?;
        machine.definition.set_template(template);
        self.hypervisor.define(&machine.definition.to_xml())?;
        self.hypervisor.settle()?;
        Ok(Change::Changed(()))
    }
}
