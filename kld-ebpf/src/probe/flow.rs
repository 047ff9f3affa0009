//! Flows that leave this network namespace.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;

use aya::maps::{Array, HashMap, Map, MapData};
use kld_core::error::Trying;
use kld_core::{Error, Result};
use kld_ebpf_events::{Plain, Task, flow};

use super::{Cgroup, Hook, Known, Probe};
use crate::Tracer;

/// The first packet of a TCP or UDP flow leaves through an interface. Nothing is told before the [`Gate`] is open.
#[derive(Debug, Clone)]
pub struct Flow {
    /// When, by the monotonic clock.
    pub time: u64,
    /// Who connected or sent, where that was seen.
    pub owner: Option<Task>,
    /// The number of the socket's inode, by which [`Holders`](crate::holders::Holders) tells who has it; 0: nobody.
    pub inode: u64,
    /// The id of the socket's control group.
    pub cgroup: u64,
    /// Its protocol.
    pub protocol: Protocol,
    /// This end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// The interface that it leaves through, by its index.
    pub interface: u32,
}

/// What carries a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}

impl Probe for Flow {
    type Event = Flow;
    const NAME: &'static str = "wg-leaks";
    const OBJECT: &'static [u8] = include_bytes!("../../objects/flows.o");
    const HOOKS: &'static [Hook] = &[
        // Who sends is remembered before what is sent is looked at.
        Hook::cgroup("connects4", Cgroup::Connect4),
        Hook::cgroup("connects6", Cgroup::Connect6),
        Hook::cgroup("sends4", Cgroup::Sendmsg4),
        Hook::cgroup("sends6", Cgroup::Sendmsg6),
        Hook::cgroup("leaves", Cgroup::Egress),
    ];
    const KNOWN: &'static [&'static [Known]] = &[&[
        Known::field("SKB_SENDER", &["sk_buff.sk"]),
        Known::field("SENDER_STATE", &["sock.__sk_common.skc_state"]),
        Known::field("SENDER_LISTENER", &["sock.__sk_common.skc_listener"]),
        Known::field("SENDER_TYPE", &["sock.sk_type"]),
        Known::field("SENDER_NETWORK", &["sock.__sk_common.skc_net"]),
        Known::field("SENDER_SOCKET", &["sock.sk_socket"]),
        Known::field("NETWORK_NUMBER", &["net.ns.inum"]),
        Known::field("SOCKET_INODE", &["socket_alloc.vfs_inode.i_ino"]),
    ]];

    fn decode(bytes: &[u8]) -> Option<Flow> {
        let (sent, _) = flow::Sent::split(bytes)?;
        let (local, remote) = super::tcp::ends(&sent.key.ends);
        let protocol = match i32::try_from(sent.key.protocol).ok()? {
            libc::IPPROTO_TCP => Protocol::Tcp,
            libc::IPPROTO_UDP => Protocol::Udp,
            _ => return None,
        };
        Some(Flow {
            time: sent.time,
            owner: (sent.owner.pid != 0).then_some(sent.owner),
            inode: sent.inode,
            cgroup: sent.cgroup,
            protocol,
            local,
            remote,
            interface: sent.key.interface,
        })
    }
}

/// Which flows are told: those of this network namespace that leave through none of the given interfaces.
pub struct Gate {
    here: Array<MapData, u32>,
    passed_over: HashMap<MapData, u32, u8>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

impl Gate {
    /// The gate of a probe that runs; closed.
    pub fn of(tracer: &mut Tracer<Flow>) -> Result<Gate> {
        Ok(Gate {
            here: Array::try_from(Map::Array(tracer.take_map("HERE")?)).map_err(failed)?,
            passed_over: HashMap::try_from(Map::HashMap(tracer.take_map("TUNNELS")?)).map_err(failed)?,
        })
    }

    /// From now on flows are told.
    pub fn open(&mut self) -> Result<()> {
        let namespace = "/proc/self/ns/net";
        let meta = std::fs::metadata(namespace).trying(|| format!("cannot read {namespace}"))?;
        let number = u32::try_from(meta.ino()).map_err(|_| failed("the namespace has no number"))?;
        self.here.set(0, number, 0).map_err(failed)
    }

    /// Passes over what leaves through these interfaces, and through no others.
    pub fn pass_over(&mut self, interfaces: &[u32]) -> Result<()> {
        let old: Vec<u32> = self.passed_over.keys().filter_map(|key| key.ok()).collect();
        for index in old.iter().filter(|index| !interfaces.contains(index)) {
            self.passed_over.remove(index).map_err(failed)?;
        }
        for index in interfaces.iter().filter(|index| !old.contains(index)) {
            self.passed_over.insert(index, 1, 0).map_err(failed)?;
        }
        Ok(())
    }
}

fn failed(cause: impl std::fmt::Display) -> Error {
    Error::failed("cannot tell the kernel which flows are meant", cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_read_from_its_bytes() {
        let task = Task { time: 1, cgroup: 2, pid: 0, tid: 0, uid: 5, gid: 6, comm: [0; 16] };
        let mut key = flow::Key { interface: 3, protocol: 17, ..Default::default() };
        key.ends.family = libc::AF_INET as u16;
        key.ends.remote[..4].copy_from_slice(&[192, 0, 2, 7]);
        key.ends.remote_port = 53;
        let sent = flow::Sent { owner: task, time: 9, inode: 77, cgroup: 2, key };
        let read = Flow::decode(sent.bytes()).unwrap();
        assert_eq!((read.protocol, read.remote.to_string().as_str()), (Protocol::Udp, "192.0.2.7:53"));
        assert_eq!((read.interface, read.inode, read.time), (3, 77, 9));
        assert!(read.owner.is_none(), "no process 0 sends");
        let other = flow::Sent { key: flow::Key { protocol: 1, ..key }, ..sent };
        assert!(Flow::decode(other.bytes()).is_none(), "ICMP is no flow");
        assert!(Flow::decode(&[0; 8]).is_none());
    }
}
