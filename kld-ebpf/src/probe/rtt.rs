//! How long packets go there and back.

use std::net::IpAddr;

use kld_ebpf_events::histogram::Histogram;
use kld_ebpf_events::tcp::{Address, BY_LOCAL, BY_REMOTE};

use super::tcp::address;
use super::{Hook, Known, SOCKET};
use crate::table::Summary;

/// How long packets go there and back, as connections know it when a packet comes; the key is an address, or nothing.
#[derive(Debug, Clone, Copy)]
pub struct TcpRtt;

impl TcpRtt {
    /// The switch for a distribution for each local address, in [`Filter::switches`](crate::Filter).
    pub const BY_LOCAL: u32 = BY_LOCAL;
    /// The switch for a distribution for each remote address.
    pub const BY_REMOTE: u32 = BY_REMOTE;
    /// Only connections with this local port, in [`Filter::numbers`](crate::Filter).
    pub const ONLY_LOCAL: &'static str = "ONLY_LOCAL";
    /// Only connections with this remote port.
    pub const ONLY_REMOTE: &'static str = "ONLY_REMOTE";

    /// The address that a key stands for.
    pub fn address(key: &Address) -> IpAddr {
        address(key.family as u16, key.bytes)
    }
}

impl Summary for TcpRtt {
    type Key = Address;
    type Value = Histogram;
    const NAME: &'static str = "tcprtt";
    const OBJECT: &'static [u8] = include_bytes!("../../objects/tcprtt.o");
    const HOOKS: &'static [Hook] = &[Hook::new("received", "tcp_probe")];
    const KNOWN: &'static [&'static [Known]] = &[SOCKET, &[Known::field("TCP_RTT", &["tcp_sock.srtt_us"])]];
    const KEYS: u32 = 1024;
    const KEYED: Option<u32> = Some(BY_LOCAL | BY_REMOTE);
}
