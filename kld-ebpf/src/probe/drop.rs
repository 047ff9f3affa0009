//! Packets of TCP that are dropped, and why.

use std::collections::HashMap;
use std::net::SocketAddr;

use kld_ebpf_events::{Plain, Task, socket, tcp};

use super::socket::OWNED;
use super::tcp::{ends, name};
use super::{Hook, Known, Probe, SOCKET};
use crate::Btf;

/// A packet of TCP was dropped.
#[derive(Debug, Clone)]
pub struct TcpDrop {
    /// Who ran when it was: often not whose packet it is. User and control group are the socket's, where there is one.
    pub task: Task,
    /// From where.
    pub source: SocketAddr,
    /// Where to.
    pub destination: SocketAddr,
    /// The state of its socket, where there is one.
    pub state: Option<&'static str>,
    /// The flags of its header, FIN the lowest bit.
    pub flags: u8,
    /// Why, to be named by [`DropReasons`]; `None` where the kernel does not tell.
    pub reason: Option<u32>,
}

impl TcpDrop {
    /// The switch for version 4 only, in [`Filter::switches`](crate::Filter).
    pub const IPV4: u32 = socket::IPV4;
    /// The switch for version 6 only.
    pub const IPV6: u32 = socket::IPV6;

    /// The flags' names, as in `SYN|ACK`.
    pub fn flag_names(&self) -> String {
        const NAMES: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
        let set = NAMES.iter().enumerate().filter(|(bit, _)| self.flags >> bit & 1 == 1);
        set.map(|(_, name)| *name).collect::<Vec<_>>().join("|")
    }
}

/// Why packets are dropped, by the names that the running kernel has for it: they differ between kernels.
#[derive(Debug, Clone, Default)]
pub struct DropReasons(HashMap<u32, String>);

impl DropReasons {
    /// Those of a kernel; none where it is older than 5.17.
    pub fn of(btf: &Btf) -> DropReasons {
        let all = btf.enumeration("skb_drop_reason").unwrap_or_default();
        let short = |name: String| name.strip_prefix("SKB_DROP_REASON_").map_or(name.clone(), str::to_string);
        DropReasons(all.into_iter().map(|(name, value)| (value.cast_unsigned(), short(name))).collect())
    }

    /// A reason's name without its beginning, such as `NO_SOCKET`; its number where it is of one of the kernel's
    /// parts that have names of their own.
    pub fn name(&self, reason: u32) -> String {
        self.0.get(&reason).cloned().unwrap_or_else(|| format!("{reason:#x}"))
    }
}

impl Probe for TcpDrop {
    type Event = TcpDrop;
    const NAME: &'static str = "tcpdrop";
    const OBJECT: &'static [u8] = include_bytes!("../../objects/tcpdrop.o");
    const HOOKS: &'static [Hook] = &[
        Hook::new("dropped", "kfree_skb").with_arguments(4),
        Hook::new("dropped_5_17", "kfree_skb").with_arguments(3),
        Hook::new("dropped_5_8", "kfree_skb").with_arguments(2),
    ];
    const KNOWN: &'static [&'static [Known]] = &[
        SOCKET,
        OWNED,
        &[
            Known::field("PACKET_SOCK", &["sk_buff.sk"]),
            Known::field("PACKET_HEAD", &["sk_buff.head"]),
            Known::field("PACKET_NETWORK", &["sk_buff.network_header"]),
            Known::field("PACKET_PROTOCOL", &["sk_buff.protocol"]),
        ],
    ];

    fn decode(bytes: &[u8]) -> Option<TcpDrop> {
        let (head, _) = tcp::Drop::split(bytes)?;
        let (source, destination) = ends(&head.flow);
        Some(TcpDrop {
            task: head.task,
            source,
            destination,
            state: (head.flow.state != 0).then(|| name(u64::from(head.flow.state))),
            flags: head.flags as u8,
            reason: (head.reason != tcp::UNKNOWN).then_some(head.reason),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_that_has_no_name_has_its_number() {
        let reasons = DropReasons([(3, "NO_SOCKET".to_string())].into());
        assert_eq!([3, 0x1_0002].map(|reason| reasons.name(reason)), ["NO_SOCKET", "0x10002"]);
    }
}
