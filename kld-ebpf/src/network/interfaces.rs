//! Interfaces, their addresses, and which of them the kernel would send through (linux/rtnetlink.h, linux/if_link.h,
//! linux/if_addr.h; man 7 rtnetlink).

use std::net::IpAddr;

use kld_core::Result;
use kld_core::error::Trying;
use nix::sys::socket::SockProtocol;

use super::netlink::{Question, address, ask, attribute, number32, written};

const GET_LINK: u16 = 18;
const GET_ADDRESS: u16 = 22;
const GET_ROUTE: u16 = 26;
/// `struct ifinfomsg`.
const LINK: usize = 16;
/// `struct ifaddrmsg`.
const ADDRESS: usize = 8;
/// `struct rtmsg`.
const ROUTE: usize = 12;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_OIF: u16 = 4;

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What it is, such as `wireguard`, `tun` or `veth`; empty for hardware.
    pub kind: String,
    /// Whether it is the loopback.
    pub loopback: bool,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// All there are now.
pub fn all() -> Result<Vec<Interface>> {
    let what = || "cannot list the network's interfaces".to_string();
    let mut all = ask(&listing(GET_LINK, &[0; LINK]), link).trying(what)?;
    let addresses = ask(&listing(GET_ADDRESS, &[0; ADDRESS]), address_of).trying(what)?;
    for (index, address) in addresses {
        if let Some(interface) = all.iter_mut().find(|interface| interface.index == index) {
            interface.addresses.push(address);
        }
    }
    Ok(all)
}

fn listing(kind: u16, body: &[u8]) -> Question<'_> {
    Question { protocol: SockProtocol::NetlinkRoute, kind, body, all: true }
}

/// The interface through which the kernel sends from one address to another; `None` where it has no way.
pub fn way(from: IpAddr, to: IpAddr) -> Option<u32> {
    let bytes = |address: IpAddr| match address {
        IpAddr::V4(address) => (libc::AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6, address.octets().to_vec()),
    };
    let ((family, to), (of_source, from)) = (bytes(to), bytes(from));
    if family != of_source {
        return None;
    }
    let bits = (to.len() * 8) as u8;
    let head = [family as u8, bits, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let body = [head.to_vec(), written(RTA_DST, &to), written(RTA_SRC, &from)].concat();
    let question =
        Question { protocol: SockProtocol::NetlinkRoute, kind: GET_ROUTE, body: &body, all: false };
    let found = ask(&question, |body| number32(attribute(body.get(ROUTE..)?, RTA_OIF)?, 0));
    found.ok()?.first().copied()
}

fn link(body: &[u8]) -> Option<Interface> {
    let attributes = body.get(LINK..)?;
    let info = attribute(attributes, IFLA_LINKINFO).unwrap_or_default();
    Some(Interface {
        index: number32(body, 4)?,
        name: text(attribute(attributes, IFLA_IFNAME)?),
        kind: attribute(info, IFLA_INFO_KIND).map(text).unwrap_or_default(),
        loopback: number32(body, 8)? & libc::IFF_LOOPBACK as u32 != 0,
        addresses: Vec::new(),
    })
}

/// An interface's index and one of its addresses. Where a link has two ends, `IFA_LOCAL` is this one.
fn address_of(body: &[u8]) -> Option<(u32, IpAddr)> {
    let attributes = body.get(ADDRESS..)?;
    let own = attribute(attributes, IFA_LOCAL).or_else(|| attribute(attributes, IFA_ADDRESS))?;
    Some((number32(body, 4)?, address(own)?))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_interface_and_its_addresses_are_read_from_their_messages() {
        let mut head = [0; LINK];
        head[4] = 7;
        let info = written(IFLA_INFO_KIND, b"wireguard\0");
        let body = [head.to_vec(), written(IFLA_IFNAME, b"wg0\0"), written(IFLA_LINKINFO, &info)].concat();
        let read = link(&body).unwrap();
        assert_eq!((read.index, read.name.as_str(), read.kind.as_str()), (7, "wg0", "wireguard"));
        let peers = [written(IFA_ADDRESS, &[10, 0, 0, 2]), written(IFA_LOCAL, &[10, 0, 0, 1])].concat();
        let body = [&[2, 32, 0, 0, 7, 0, 0, 0][..], &peers].concat();
        assert_eq!(address_of(&body), Some((7, [10, 0, 0, 1].into())));
    }

    #[test]
    fn the_loopback_is_there_and_is_the_way_to_itself() {
        let all = all().unwrap();
        let loopback = all.iter().find(|interface| interface.loopback).unwrap();
        assert_eq!(loopback.name, "lo");
        let own = IpAddr::from([127, 0, 0, 1]);
        if loopback.addresses.contains(&own) {
            assert_eq!(way(own, own), Some(loopback.index));
        }
    }

    proptest! {
        #[test]
        fn no_message_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            link(&bytes);
            address_of(&bytes);
        }
    }
}
