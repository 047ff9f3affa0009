//! Segments of TCP that are sent again.

use std::net::SocketAddr;

use kld_ebpf_events::{Plain, Task, socket, tcp};

use super::socket::OWNED;
use super::tcp::{ends, name};
use super::{Hook, Known, Probe, SOCKET};

/// A segment was sent again, or the answer to the first one.
#[derive(Debug, Clone)]
pub struct TcpRetransmit {
    /// Who ran when it was: often not whose connection it is. User and control group are the socket's.
    pub task: Task,
    /// Its end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// The connection's state.
    pub state: &'static str,
    /// The number of the segment's first byte.
    pub sequence: u32,
    /// Whether it is a tail loss probe: it may not have been lost.
    pub probe: bool,
}

impl TcpRetransmit {
    /// The switch for tail loss probes too, in [`Filter::switches`](crate::Filter).
    pub const PROBES: u32 = tcp::PROBES;
    /// The switch for version 4 only.
    pub const IPV4: u32 = socket::IPV4;
    /// The switch for version 6 only.
    pub const IPV6: u32 = socket::IPV6;
}

impl Probe for TcpRetransmit {
    type Event = TcpRetransmit;
    const NAME: &'static str = "tcpretrans";
    const OBJECT: &'static [u8] = include_bytes!("../../objects/tcpretrans.o");
    const HOOKS: &'static [Hook] = &[
        Hook::new("sent_again", "tcp_retransmit_skb"),
        Hook::new("answered_again", "tcp_retransmit_synack"),
    ];
    const KNOWN: &'static [&'static [Known]] = &[
        SOCKET,
        OWNED,
        &[
            Known::field("PACKET_CONTROL", &["sk_buff.cb"]),
            Known::field("CONTROL_SEQUENCE", &["tcp_skb_cb.seq"]),
            Known::field("CONNECTION_PENDING", &["inet_connection_sock.icsk_pending"]),
            Known::field("CONNECTION_CONGESTION", &["inet_connection_sock.icsk_ca_state"]),
            Known::field("SOCK_NUMBER", &["sock_common.skc_num"]),
            Known::field("REQUEST_SEQUENCE", &["tcp_request_sock.snt_isn"]),
        ],
    ];

    fn decode(bytes: &[u8]) -> Option<TcpRetransmit> {
        let (head, _) = tcp::Retransmit::split(bytes)?;
        let (local, remote) = ends(&head.flow);
        Some(TcpRetransmit {
            task: head.task,
            local,
            remote,
            state: name(u64::from(head.flow.state)),
            sequence: head.sequence,
            probe: head.probe != 0,
        })
    }
}
