//! What [`libvirt::domains`](crate::libvirt::domains) does, over the direct connection.

use kld_core::hypervisor::DomainRecord;
use kld_core::{Change, Result};
use uuid::Uuid;
use virt::error::ErrorNumber;

use super::calls::{self, Domain, Facts, Outcome};
use super::client::{Client, Refusal, STRING, Trouble};
use crate::libvirt::domains::{self, INACTIVE};
use crate::libvirt::tell::{self, Told};

/// What came of it for kld, or why it is to be asked in another way.
pub(super) type Done<T> = std::result::Result<Result<T>, Trouble>;

/// Every domain, by name; one that goes away meanwhile is left out.
pub(super) fn all(client: &mut Client) -> Done<Vec<DomainRecord>> {
    let told = |refusal: Refusal| tell::failure("cannot list the machines", &refusal);
    let listed = match calls::list_all(client)? {
        Ok(listed) => listed,
        Err(refusal) => return Ok(Err(told(refusal))),
    };
    let facts = calls::facts(client, &listed, INACTIVE)?;
    let records = listed.into_iter().zip(facts).map(|(domain, facts)| record(&domain, facts));
    let records = records.filter_map(|record| present(record).transpose());
    Ok(records.collect::<std::result::Result<Vec<_>, _>>().map_err(told).map(|mut records| {
        records.sort_by(|a, b| a.name.cmp(&b.name));
        records
    }))
}

pub(super) fn by_name(client: &mut Client, name: &str) -> Done<Option<DomainRecord>> {
    let lookup = calls::lookup_by_name(client, name)?;
    found(client, lookup, name)
}

pub(super) fn by_uuid(client: &mut Client, uuid: Uuid) -> Done<Option<DomainRecord>> {
    let lookup = calls::lookup_by_uuid(client, uuid)?;
    found(client, lookup, &uuid.to_string())
}

fn found(
    client: &mut Client,
    lookup: std::result::Result<Domain, Refusal>,
    name: &str,
) -> Done<Option<DomainRecord>> {
    let looked_up = match lookup {
        Ok(domain) => {
            let facts = calls::facts(client, std::slice::from_ref(&domain), INACTIVE)?;
            facts.into_iter().next().map(|facts| record(&domain, facts)).transpose()
        }
        Err(refusal) => Err(refusal),
    };
    Ok(looked_up
        .or_else(absent)
        .map_err(|refusal| tell::failure(format!("cannot look up the machine {name}"), &refusal)))
}

fn record(domain: &Domain, facts: Facts) -> std::result::Result<DomainRecord, Refusal> {
    // Only a running domain can be transient.
    let persistent = domain.is_off() || facts.persistent?;
    let (code, reason) = facts.state?;
    let state = domains::state(code.cast_unsigned(), reason);
    Ok(DomainRecord {
        name: domain.name(),
        uuid: domain.uuid,
        state,
        persistent,
        saved: !state.is_active() && facts.saved?,
        definition: facts.definition?,
    })
}

/// A domain that is not there is no failure.
fn absent<T>(refusal: Refusal) -> std::result::Result<Option<T>, Refusal> {
    if refusal.code() == ErrorNumber::NoDomain { Ok(None) } else { Err(refusal) }
}

fn present<T>(value: std::result::Result<T, Refusal>) -> std::result::Result<Option<T>, Refusal> {
    value.map(Some).or_else(absent)
}

/// Makes or replaces definitions; the first refusal counts. Their UUIDs, in order.
pub(super) fn define(client: &mut Client, definitions: &[&str]) -> Done<Vec<Uuid>> {
    if definitions.iter().any(|definition| definition.len() > STRING) {
        return Err(Trouble::Unsent);
    }
    let defined =
        calls::define(client, definitions)?.into_iter().map(|domain| domain.map(|domain| domain.uuid));
    Ok(defined
        .collect::<std::result::Result<_, _>>()
        .map_err(|refusal| tell::failure("cannot define the machine", &refusal)))
}

pub(super) fn undefine(client: &mut Client, uuid: Uuid) -> Done<Change<()>> {
    const GONE: Change<()> = Change::Unchanged(());
    let domain = match calls::lookup_by_uuid(client, uuid).map_err(Trouble::harmless)? {
        Ok(domain) => domain,
        Err(refusal) => {
            return Ok(absent(refusal)
                .map(|found| found.unwrap_or(GONE))
                .map_err(|refusal| tell::failure(format!("cannot forget the machine {uuid}"), &refusal)));
        }
    };
    let undefined = forget(client, &domain)?;
    Ok(undefined.or_else(|refusal| {
        absent(refusal).map(|found| found.unwrap_or(GONE)).map_err(|refusal| {
            tell::failure(format!("cannot forget the machine {}", domain.name()), &refusal)
        })
    }))
}

fn forget(client: &mut Client, domain: &Domain) -> Outcome<Change<()>> {
    let mut outcome = Ok(Change::Unchanged(()));
    for flags in domains::UNDEFINE {
        outcome = calls::undefine(client, domain, flags)?.map(Change::Changed);
        match &outcome {
            Err(refusal) if domains::is_unsupported(refusal.code()) => {}
            _ => break,
        }
    }
    match outcome {
        // A transient domain has no definition. Whoever undefines it again does no harm.
        Err(refusal) if refusal.code() == ErrorNumber::OperationInvalid => {
            let persistent = calls::is_persistent(client, domain).map_err(Trouble::harmless)?;
            Ok(persistent
                .and_then(|persistent| if persistent { Err(refusal) } else { Ok(Change::Unchanged(())) }))
        }
        other => Ok(other),
    }
}
