//! Turning a definition into that of a clone.

use kld_core::MachineName;
use uuid::Uuid;

use super::{Definition, MacAddress};

impl Definition {
    /// Gives it a new identity.
    pub fn become_clone(
        &mut self,
        name: &MachineName,
        uuid: Uuid,
        macs: &mut dyn FnMut(MacAddress) -> MacAddress,
    ) -> Vec<String> {
        let _ = macs;
        self.set_identity(name, uuid);
        self.set_template(false);
        Vec::new()
    }

    /// What keeps it from being cloned.
    pub fn uncloneable(&self) -> Vec<String> {
        Vec::new()
    }
}
