//! The addresses of a guest, from whoever knows them.

use std::ffi::{CStr, c_char};
use std::net::IpAddr;

use kld_core::hypervisor::Address;
use virt::domain::Domain;
use virt::error::Error as VirtError;
use virt_sys as sys;

use super::life::agent_answers;

/// What the network's leases, the guest's agent and the host's ARP table say, each address once.
pub(super) fn known(domain: &Domain) -> Result<Vec<Address>, VirtError> {
    if !domain.is_active()? {
        return Ok(Vec::new());
    }
    let mut all = from(domain, sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE, "lease");
    // An agent that hangs would hold libvirt for long.
    if agent_answers(domain) {
        all.extend(from(domain, sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT, "agent"));
    }
    all.extend(from(domain, sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP, "arp"));
    Ok(merge(all))
}

/// Each address once, under the first that knows it, without those that lead nowhere from outside.
fn merge(all: Vec<Address>) -> Vec<Address> {
    let mut merged: Vec<Address> = Vec::new();
    for address in all.into_iter().filter(|address| reachable(address.address)) {
        if !merged.iter().any(|known| known.address == address.address) {
            merged.push(address);
        }
    }
    merged
}

fn reachable(address: IpAddr) -> bool {
    let local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !local && !address.is_loopback() && !address.is_unspecified()
}

/// One source's addresses; none where it does not serve here.
fn from(domain: &Domain, source: sys::virDomainInterfaceAddressesSource, name: &str) -> Vec<Address> {
    let mut list: *mut sys::virDomainInterfacePtr = std::ptr::null_mut();
    // SAFETY: the domain is alive; libvirt stores a list that it allocated, which is freed below.
    let count = unsafe { sys::virDomainInterfaceAddresses(domain.as_ptr(), &mut list, source, 0) };
    let mut found = Vec::new();
    for index in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: libvirt returned `count` interfaces, each with `naddrs` addresses; strings may be null. Each
        // interface belongs to the caller and is freed once.
        unsafe {
            let interface = *list.add(index);
            let mac = text((*interface).hwaddr).to_lowercase();
            for nth in 0..(*interface).naddrs as usize {
                if let Ok(address) = text((*(*interface).addrs.add(nth)).addr).parse() {
                    found.push(Address { mac: mac.clone(), address, source: name.to_string() });
                }
            }
            sys::virDomainInterfaceFree(interface);
        }
    }
    if count >= 0 {
        // SAFETY: the list was allocated by malloc (or is null) and is not used again.
        unsafe { nix::libc::free(list.cast()) };
    }
    found
}

/// # Safety
/// `pointer` is null or a C string.
unsafe fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: by the caller's word.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_told_once_by_the_first_who_knows_it() {
        let told = |address: &str, source: &str| Address {
            mac: "52:54:00:00:00:01".into(),
            address: address.parse().unwrap(),
            source: source.into(),
        };
        let all = vec![
            told("192.168.122.7", "lease"),
            told("127.0.0.1", "agent"),
            told("192.168.122.7", "agent"),
            told("fe80::1", "agent"),
            told("2001:db8::7", "agent"),
            told("192.168.122.7", "arp"),
        ];
        assert_eq!(merge(all), [told("192.168.122.7", "lease"), told("2001:db8::7", "agent")]);
    }
}
