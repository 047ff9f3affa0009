//! Sockets that are bound, that listen, and that take connections.

use std::net::SocketAddr;

use kld_ebpf_events::{Plain, Task, socket};

use super::tcp::ends;
use super::{Hook, Known, Probe, REGISTERS, SOCKET};

/// A bind(2) of an internet socket has ended.
#[derive(Debug, Clone)]
pub struct Bind {
    /// Who.
    pub task: Task,
    /// The address, with the port that the kernel has chosen where it was left to it; what was asked for where it has
    /// failed.
    pub address: SocketAddr,
    /// IPPROTO_TCP and its like.
    pub protocol: u16,
    /// SOCK_STREAM and its like.
    pub kind: u16,
    /// What the socket is set to: [`FREEBIND`](Self::FREEBIND) and the others.
    pub options: u32,
    /// The number of the interface that it is bound to; 0: none.
    pub interface: u32,
    /// The error's number, where it has failed.
    pub result: Result<(), i32>,
}

/// A listen(2) of an internet socket has ended.
#[derive(Debug, Clone)]
pub struct Listen {
    /// Who.
    pub task: Task,
    /// Where.
    pub address: SocketAddr,
    /// IPPROTO_TCP and its like.
    pub protocol: u16,
    /// How many connections may wait, as the call has it: the kernel takes no more than net.core.somaxconn.
    pub backlog: i32,
    /// The number of the network namespace.
    pub namespace: u32,
    /// The error's number, where it has failed.
    pub result: Result<(), i32>,
}

/// A TCP connection was taken by accept(2).
#[derive(Debug, Clone)]
pub struct TcpAccept {
    /// Who took it.
    pub task: Task,
    /// Its end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
}

impl Bind {
    /// IP_FREEBIND, in [`options`](Self::options).
    pub const FREEBIND: u32 = socket::FREEBIND;
    /// IP_TRANSPARENT.
    pub const TRANSPARENT: u32 = socket::TRANSPARENT;
    /// IP_BIND_ADDRESS_NO_PORT.
    pub const NO_PORT: u32 = socket::NO_PORT;
    /// SO_REUSEADDR.
    pub const REUSE_ADDRESS: u32 = socket::REUSE_ADDRESS;
    /// SO_REUSEPORT.
    pub const REUSE_PORT: u32 = socket::REUSE_PORT;
    /// The switch for what has failed too, in [`Filter::switches`](crate::Filter); the filter's argument is the port.
    pub const FAILED: u32 = socket::FAILED;
}

impl Listen {
    /// The switch for what has failed too, in [`Filter::switches`](crate::Filter); the filter's argument is the port.
    pub const FAILED: u32 = socket::FAILED;
}

impl TcpAccept {
    /// The switch for version 4 only, in [`Filter::switches`](crate::Filter); the filter's argument is the local port.
    pub const IPV4: u32 = socket::IPV4;
    /// The switch for version 6 only.
    pub const IPV6: u32 = socket::IPV6;
}

const OBJECT: &[u8] = include_bytes!("../../objects/socketcalls.o");
const CALLS: &[Known] = &[
    Known::call("SYS_BIND", libc::SYS_bind),
    Known::call("SYS_LISTEN", libc::SYS_listen),
    Known::call("SYS_ACCEPT", libc::SYS_accept),
    Known::call("SYS_ACCEPT4", libc::SYS_accept4),
];
const KNOWN: &[&[Known]] = &[REGISTERS, CALLS, SOCKET, DESCRIPTOR, CALLED_ON];

/// How a program comes from a descriptor to the file behind it.
pub const DESCRIPTOR: &[Known] = &[
    Known::field("TASK_FILES", &["task_struct.files"]),
    Known::field("FILES_TABLE", &["files_struct.fdt"]),
    Known::field("TABLE_FILES", &["fdtable.fd"]),
];

/// How a program comes from the file behind a descriptor to the socket, and what that is set to.
pub const CALLED_ON: &[Known] = &[
    Known::field("FILE_PRIVATE", &["file.private_data"]),
    Known::field("SOCKET_SOCK", &["socket.sk"]),
    Known::field("SOCK_TYPE", &["sock.sk_type"]),
    Known::field("SOCK_INTERFACE", &["sock_common.skc_bound_dev_if"]),
    Known::field("SOCK_NET", &["sock_common.skc_net.net"]),
    Known::field("NET_NUMBER", &["net.ns.inum"]),
    Known::bit("BIT_FREEBIND", &["inet_sock.inet_flags@INET_FLAGS_FREEBIND", "inet_sock.freebind"]),
    Known::bit("BIT_TRANSPARENT", &["inet_sock.inet_flags@INET_FLAGS_TRANSPARENT", "inet_sock.transparent"]),
    Known::bit(
        "BIT_NO_PORT",
        &["inet_sock.inet_flags@INET_FLAGS_BIND_ADDRESS_NO_PORT", "inet_sock.bind_address_no_port"],
    ),
    Known::bit("BIT_REUSE", &["sock_common.skc_reuse"]),
    Known::bit("BIT_REUSEPORT", &["sock_common.skc_reuseport"]),
];

/// Whose a socket is.
pub const OWNED: &[Known] = &[
    Known::field("SOCK_UID", &["sock.sk_uid"]),
    Known::field("SOCK_CGROUP", &["sock.sk_cgrp_data.cgroup", "sock.sk_cgrp_data.val"]),
    Known::field("CGROUP_NODE", &["cgroup.kn"]),
    Known::field("NODE_ID", &["kernfs_node.id"]),
    Known::optional("CGROUP_ANCESTORS", &["cgroup.ancestors"]),
];

impl Probe for Bind {
    type Event = Bind;
    const NAME: &'static str = "bindsnoop";
    const OBJECT: &'static [u8] = OBJECT;
    const HOOKS: &'static [Hook] = &[Hook::new("bound", "sys_exit")];
    const KNOWN: &'static [&'static [Known]] = KNOWN;

    fn decode(bytes: &[u8]) -> Option<Bind> {
        let (head, _) = socket::Bind::split(bytes)?;
        Some(Bind {
            task: head.task,
            address: ends(&head.flow).0,
            protocol: head.protocol,
            kind: head.kind,
            options: head.options,
            interface: head.interface,
            result: outcome(head.result),
        })
    }
}

impl Probe for Listen {
    type Event = Listen;
    const NAME: &'static str = "solisten";
    const OBJECT: &'static [u8] = OBJECT;
    const HOOKS: &'static [Hook] = &[Hook::new("listens", "sys_exit")];
    const KNOWN: &'static [&'static [Known]] = KNOWN;

    fn decode(bytes: &[u8]) -> Option<Listen> {
        let (head, _) = socket::Listen::split(bytes)?;
        Some(Listen {
            task: head.task,
            address: ends(&head.flow).0,
            protocol: head.protocol as u16,
            backlog: head.backlog,
            namespace: head.namespace,
            result: outcome(head.result),
        })
    }
}

impl Probe for TcpAccept {
    type Event = TcpAccept;
    const NAME: &'static str = "tcpaccept";
    const OBJECT: &'static [u8] = OBJECT;
    const HOOKS: &'static [Hook] = &[Hook::new("accepted", "sys_exit")];
    const KNOWN: &'static [&'static [Known]] = KNOWN;

    fn decode(bytes: &[u8]) -> Option<TcpAccept> {
        let (head, _) = socket::Accept::split(bytes)?;
        let (local, remote) = ends(&head.flow);
        Some(TcpAccept { task: head.task, local, remote })
    }
}

/// What a call returned, as the kernel has it.
fn outcome(result: i32) -> Result<(), i32> {
    if result < 0 { Err(-result) } else { Ok(()) }
}
