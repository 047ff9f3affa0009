//! What libvirt knows of domains: reading, defining, forgetting.

use kld_core::hypervisor::{DomainRecord, State};
use kld_core::{Change, Result};
use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::{Error as VirtError, ErrorNumber};
use virt_sys as sys;

use super::{absent, tell};

/// What the next start uses, with the passwords that a plain dump leaves out.
pub(super) const INACTIVE: sys::virDomainXMLFlags = sys::VIR_DOMAIN_XML_INACTIVE | sys::VIR_DOMAIN_XML_SECURE;

/// Every domain, by name; one that goes away meanwhile is left out.
pub(super) fn all(connect: &Connect) -> Result<Vec<DomainRecord>> {
    let told = |error: VirtError| tell::failure("cannot list the machines", &error);
    // Persistence is asked for all at once, not a round trip each.
    let list = |flags| connect.list_all_domains(flags).map_err(told);
    let mut records = Vec::new();
    for (flags, persistent) in
        [(sys::VIR_CONNECT_LIST_DOMAINS_PERSISTENT, true), (sys::VIR_CONNECT_LIST_DOMAINS_TRANSIENT, false)]
    {
        for domain in list(flags)? {
            match record(&domain, persistent) {
                Ok(record) => records.push(record),
                Err(error) if error.code() == ErrorNumber::NoDomain => {}
                Err(error) => return Err(told(error)),
            }
        }
    }
    records.sort_by(|a, b| a.name.cmp(&b.name));
    records.dedup_by(|a, b| a.uuid == b.uuid);
    Ok(records)
}

/// The record of what a lookup found.
pub(super) fn found(lookup: Result<Domain, VirtError>, name: &str) -> Result<Option<DomainRecord>> {
    lookup
        .and_then(|domain| {
            // Only a running domain can be transient.
            let persistent = domain.get_id().is_none() || domain.is_persistent()?;
            record(&domain, persistent).map(Some)
        })
        .or_else(absent)
        .map_err(|error| tell::failure(format!("cannot look up the machine {name}"), &error))
}

fn record(domain: &Domain, persistent: bool) -> Result<DomainRecord, VirtError> {
    let (code, reason) = domain.get_state()?;
    let state = state(code, reason);
    Ok(DomainRecord {
        name: domain.get_name()?,
        uuid: domain.get_uuid()?,
        state,
        persistent,
        saved: !state.is_active() && domain.has_managed_save(0)?,
        definition: domain.get_xml_desc(INACTIVE)?,
    })
}

/// libvirt's state and reason as a [`State`]. A domain that libvirt calls crashed but preserves has an emulator
/// that holds its disks open: paused. One whose emulator died is off to libvirt: crashed.
pub(super) fn state(code: sys::virDomainState, reason: i32) -> State {
    match code {
        sys::VIR_DOMAIN_RUNNING | sys::VIR_DOMAIN_BLOCKED => State::Running,
        sys::VIR_DOMAIN_SHUTDOWN => State::ShuttingDown,
        sys::VIR_DOMAIN_SHUTOFF if reason == sys::VIR_DOMAIN_SHUTOFF_CRASHED as i32 => State::Crashed,
        sys::VIR_DOMAIN_SHUTOFF => State::Off,
        _ => State::Paused,
    }
}

/// Makes or replaces a definition. Not validated against libvirt's schema: a newer daemon's elements and those
/// of other tools pass. libvirt itself refuses a name or a UUID that another domain has.
pub(super) fn define(connect: &Connect, definition: &str) -> Result<Uuid> {
    Domain::define_xml_flags(connect, definition, 0)
        .and_then(|domain| domain.get_uuid())
        .map_err(|error| tell::failure("cannot define the machine", &error))
}

/// Forgets a definition; files stay. What an older libvirt does not know is left out.
pub(super) fn undefine(domain: &Domain) -> Result<Change<()>, VirtError> {
    const BASE: u32 = sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
        | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        | sys::VIR_DOMAIN_UNDEFINE_KEEP_NVRAM;
    const CHECKPOINTS: u32 = BASE | sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA;
    const TPM: u32 = CHECKPOINTS | sys::VIR_DOMAIN_UNDEFINE_KEEP_TPM;

    let unsupported = |error: &VirtError| {
        matches!(
            error.code(),
            ErrorNumber::InvalidArg | ErrorNumber::ArgumentUnsupported | ErrorNumber::NoSupport
        )
    };
    let mut outcome = domain.undefine_flags(TPM);
    for flags in [CHECKPOINTS, BASE] {
        match &outcome {
            Err(error) if unsupported(error) => outcome = domain.undefine_flags(flags),
            _ => break,
        }
    }
    match outcome {
        Ok(()) => Ok(Change::Changed(())),
        // A transient domain has no definition.
        Err(error) if error.code() == ErrorNumber::OperationInvalid && !domain.is_persistent()? => {
            Ok(Change::Unchanged(()))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_whose_emulator_lives_is_active_whatever_its_guest_did() {
        assert!(state(sys::VIR_DOMAIN_CRASHED, 1).is_active());
        assert!(state(sys::VIR_DOMAIN_PMSUSPENDED, 0).is_active());
        assert!(state(sys::VIR_DOMAIN_NOSTATE, 0).is_active());
        assert_eq!(state(sys::VIR_DOMAIN_SHUTOFF, sys::VIR_DOMAIN_SHUTOFF_CRASHED as i32), State::Crashed);
        assert_eq!(state(sys::VIR_DOMAIN_SHUTOFF, sys::VIR_DOMAIN_SHUTOFF_DESTROYED as i32), State::Off);
    }
}
