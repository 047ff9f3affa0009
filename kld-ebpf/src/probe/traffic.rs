//! What processes send and receive over TCP.

use std::net::SocketAddr;

use kld_ebpf_events::socket::{IPV4, IPV6};
use kld_ebpf_events::tcp::{Of, Traffic};

use super::tcp::ends;
use super::{FUNCTION, Hook, Known, SOCKET};
use crate::table::Summary;

/// Bytes that processes send and receive, by connection.
#[derive(Debug, Clone, Copy)]
pub struct TcpTop;

impl TcpTop {
    /// The switch for version 4 only, in [`Filter::switches`](crate::Filter).
    pub const IPV4: u32 = IPV4;
    /// The switch for version 6 only.
    pub const IPV6: u32 = IPV6;

    /// A connection's two ends, its own first.
    pub fn ends(key: &Of) -> (SocketAddr, SocketAddr) {
        ends(&key.flow)
    }
}

const SENT: &str = "sock_send_length";
const RECEIVED: &str = "sock_recv_length";
/// The first kernel that has both.
const SINCE: &str = "6.3";

impl Summary for TcpTop {
    type Key = Of;
    type Value = Traffic;
    const NAME: &'static str = "tcptop";
    const OBJECT: &'static [u8] = include_bytes!("../../objects/tcptop.o");
    const HOOKS: &'static [Hook] = &[
        Hook::new("sent", SENT).optional(),
        Hook::new("received", RECEIVED).optional(),
        Hook::entry("sends", "tcp_sendmsg").replaced_by(SENT).since(SINCE),
        Hook::end("has_sent", "tcp_sendmsg").replaced_by(SENT).since(SINCE),
        // What sendfile(2) sends, up to 6.4.
        Hook::entry("sends", "tcp_sendpage").replaced_by(SENT).optional(),
        Hook::end("has_sent", "tcp_sendpage").replaced_by(SENT).optional(),
        Hook::entry("receives", "tcp_recvmsg").replaced_by(RECEIVED).since(SINCE),
        Hook::end("has_received", "tcp_recvmsg").replaced_by(RECEIVED).since(SINCE),
    ];
    const KNOWN: &'static [&'static [Known]] =
        &[SOCKET, FUNCTION, &[Known::field("TCP_COPIED", &["tcp_sock.copied_seq"])]];
    const KEYS: u32 = 8192;
}
