//! TCP connections: their beginnings, their ends, and every state in between.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use kld_ebpf_events::{Plain, Task, socket, tcp};

use super::{Hook, Known, Probe};

/// An outgoing connection is begun.
#[derive(Debug, Clone)]
pub struct TcpConnect {
    /// Who connects.
    pub task: Task,
    /// From where; the port is 0 where the kernel has not chosen one yet.
    pub local: SocketAddr,
    /// Where to.
    pub remote: SocketAddr,
}

/// An outgoing connection was answered.
#[derive(Debug, Clone)]
pub struct TcpLatency {
    /// Who connected.
    pub task: Task,
    /// Its end.
    pub local: SocketAddr,
    /// Where to.
    pub remote: SocketAddr,
    /// How long the answer took.
    pub lasted: Duration,
    /// Whether the answer was that nobody listens there.
    pub refused: bool,
}

/// A connection has ended.
#[derive(Debug, Clone)]
pub struct TcpLife {
    /// Whose it was, where that is known: who connected, or who closed.
    pub owner: Option<Task>,
    /// When it ended, by the monotonic clock.
    pub time: u64,
    /// Its ends.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// How many bytes the other side has acknowledged.
    pub sent: u64,
    /// How many bytes were received.
    pub received: u64,
    /// How long it has lived, since it was first seen.
    pub age: Duration,
}

/// A connection has changed its state.
#[derive(Debug, Clone)]
pub struct TcpState {
    /// Who ran when it did: often not whose connection it is.
    pub task: Task,
    /// What tells one socket from another.
    pub socket: u64,
    /// Its end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// The old state.
    pub old: &'static str,
    /// The new state.
    pub new: &'static str,
    /// How long it was in the old state; zero where that was not seen.
    pub lasted: Duration,
}

const OBJECT: &[u8] = include_bytes!("../../objects/tcpstate.o");
const HOOKS: &[Hook] = &[Hook::new("changed", "inet_sock_set_state")];
const KNOWN: &[&[Known]] = &[SOCKET, COUNTERS];
const COUNTERS: &[Known] = &[
    Known::field("SOCK_ERROR", &["sock.sk_err"]),
    Known::field("TCP_ACKED", &["tcp_sock.bytes_acked"]),
    Known::field("TCP_RECEIVED", &["tcp_sock.bytes_received"]),
];

/// Where a socket keeps its two ends.
pub const SOCKET: &[Known] = &[
    Known::field("SOCK_FAMILY", &["sock.__sk_common.skc_family"]),
    Known::field("SOCK_PROTOCOL", &["sock.sk_protocol"]),
    Known::field("SOCK_STATE", &["sock.__sk_common.skc_state"]),
    Known::field("SOCK_LOCAL4", &["sock.__sk_common.skc_rcv_saddr"]),
    Known::field("SOCK_REMOTE4", &["sock.__sk_common.skc_daddr"]),
    Known::field("SOCK_LOCAL6", &["sock.__sk_common.skc_v6_rcv_saddr"]),
    Known::field("SOCK_REMOTE6", &["sock.__sk_common.skc_v6_daddr"]),
    // A connection that ends has given its skc_num back already.
    Known::field("SOCK_LOCAL_PORT", &["inet_sock.inet_sport"]),
    Known::field("SOCK_REMOTE_PORT", &["sock.__sk_common.skc_dport"]),
];

impl Probe for TcpConnect {
    type Event = TcpConnect;
    const NAME: &'static str = "tcpconnect";
    const OBJECT: &'static [u8] = OBJECT;
    const HOOKS: &'static [Hook] = HOOKS;
    const KNOWN: &'static [&'static [Known]] = KNOWN;
    const SWITCHES: u32 = tcp::CONNECTS;

    fn decode(bytes: &[u8]) -> Option<TcpConnect> {
        let (head, _) = tcp::State::split(bytes)?;
        let (local, remote) = ends(&head.flow);
        Some(TcpConnect { task: head.task, local, remote })
    }
}

impl TcpLatency {
    /// The switch for version 4 only, in [`Filter::switches`](crate::Filter); the filter's argument is the shortest
    /// wait that is told, in nanoseconds.
    pub const IPV4: u32 = socket::IPV4;
    /// The switch for version 6 only.
    pub const IPV6: u32 = socket::IPV6;
}

impl Probe for TcpLatency {
    type Event = TcpLatency;
    const NAME: &'static str = "tcpconnlat";
    const OBJECT: &'static [u8] = OBJECT;
    const HOOKS: &'static [Hook] = HOOKS;
    const KNOWN: &'static [&'static [Known]] = KNOWN;
    const SWITCHES: u32 = tcp::LATENCIES;

    fn decode(bytes: &[u8]) -> Option<TcpLatency> {
        let (head, _) = tcp::State::split(bytes)?;
        let (local, remote) = ends(&head.flow);
        let lasted = Duration::from_nanos(head.task.time.saturating_sub(head.changed));
        // The time is the answer's; all else is of who asked.
        let task = Task { time: head.task.time, ..head.owner };
        Some(TcpLatency { task, local, remote, lasted, refused: head.new != ESTABLISHED })
    }
}

impl Probe for TcpLife {
    type Event = TcpLife;
    const NAME: &'static str = "tcplife";
    const OBJECT: &'static [u8] = OBJECT;
    const HOOKS: &'static [Hook] = HOOKS;
    const KNOWN: &'static [&'static [Known]] = KNOWN;
    const SWITCHES: u32 = tcp::ENDS;

    fn decode(bytes: &[u8]) -> Option<TcpLife> {
        let (head, _) = tcp::State::split(bytes)?;
        let (local, remote) = ends(&head.flow);
        let age = Duration::from_nanos(head.task.time.saturating_sub(head.began));
        let owner = (head.owner.pid != 0).then_some(head.owner);
        let (sent, received) = (head.sent, head.received);
        Some(TcpLife { owner, time: head.task.time, local, remote, sent, received, age })
    }
}

impl Probe for TcpState {
    type Event = TcpState;
    const NAME: &'static str = "tcpstates";
    const OBJECT: &'static [u8] = OBJECT;
    const HOOKS: &'static [Hook] = HOOKS;
    const KNOWN: &'static [&'static [Known]] = KNOWN;

    fn decode(bytes: &[u8]) -> Option<TcpState> {
        let (head, _) = tcp::State::split(bytes)?;
        let (local, remote) = ends(&head.flow);
        let lasted = if head.changed == 0 { 0 } else { head.task.time.saturating_sub(head.changed) };
        Some(TcpState {
            task: head.task,
            socket: head.socket,
            local,
            remote,
            old: name(u64::from(head.flow.state)),
            new: name(head.new),
            lasted: Duration::from_nanos(lasted),
        })
    }
}

/// The state of a connection that stands.
const ESTABLISHED: u64 = 1;

/// A connection's two ends.
pub(super) fn ends(flow: &tcp::Flow) -> (SocketAddr, SocketAddr) {
    let (local, remote) = (address(flow.family, flow.local), address(flow.family, flow.remote));
    (SocketAddr::new(local, flow.local_port), SocketAddr::new(remote, flow.remote_port))
}

/// An address of either family.
pub(super) fn address(family: u16, bytes: [u8; 16]) -> IpAddr {
    match i32::from(family) {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3])),
        _ => IpAddr::V6(Ipv6Addr::from(bytes)),
    }
}

/// A state's name, as net/tcp_states.h has it.
pub(super) fn name(state: u64) -> &'static str {
    const NAMES: [&str; 14] = [
        "UNKNOWN",
        "ESTABLISHED",
        "SYN_SENT",
        "SYN_RECV",
        "FIN_WAIT1",
        "FIN_WAIT2",
        "TIME_WAIT",
        "CLOSE",
        "CLOSE_WAIT",
        "LAST_ACK",
        "LISTEN",
        "CLOSING",
        "NEW_SYN_RECV",
        "BOUND_INACTIVE",
    ];
    usize::try_from(state).ok().and_then(|state| NAMES.get(state)).unwrap_or(&"UNKNOWN")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_have_their_addresses() {
        let mut flow = tcp::Flow { family: libc::AF_INET as u16, local_port: 80, ..Default::default() };
        flow.local[..4].copy_from_slice(&[127, 0, 0, 1]);
        assert_eq!(ends(&flow).0.to_string(), "127.0.0.1:80");
        flow.family = libc::AF_INET6 as u16;
        flow.remote[15] = 1;
        assert_eq!(ends(&flow).1.to_string(), "[::1]:0");
    }

    #[test]
    fn states_have_their_names() {
        assert_eq!([1, 7, 10, 99].map(name), ["ESTABLISHED", "CLOSE", "LISTEN", "UNKNOWN"]);
    }
}
