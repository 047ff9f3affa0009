//! TCP's and UDP's sockets (linux/inet_diag.h; man 7 sock_diag).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use kld_core::Result;
use kld_core::error::Trying;
use nix::sys::socket::SockProtocol;

use super::netlink::{Question, address, ask, attribute, number32};
use crate::probe::Protocol;

const BY_FAMILY: u16 = 20;
/// `struct inet_diag_msg`.
const MESSAGE: usize = 72;
const CGROUP_ID: u16 = 21;
// net/tcp_states.h; UDP's sockets are "established" where they are connected, and "closed" otherwise.
const ESTABLISHED: u8 = 1;
const SYN_RECV: u8 = 3;
const TIME_WAIT: u8 = 6;
const CLOSE_WAIT: u8 = 8;
const LISTEN: u8 = 10;
/// All states but those of connections that no process has any more.
const STATES: u32 = !(1 << TIME_WAIT);

/// A socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// Its protocol.
    pub protocol: Protocol,
    /// This end: of a listener, what it is bound to.
    pub local: SocketAddr,
    /// The other end; `None` where it takes from anybody.
    pub remote: Option<SocketAddr>,
    /// The interface that it is bound to, by its index; 0 where to none.
    pub interface: u32,
    /// Its owner.
    pub uid: u32,
    /// The number of its inode; of a connection that waits to be accepted, its listener's.
    pub inode: u64,
    /// The id of its control group, where the kernel tells (since 5.8).
    pub cgroup: u64,
    /// Whether it is a connection that nobody has accepted yet.
    waits: bool,
}

/// All of TCP and UDP that are connected, or bound to a port.
pub fn all() -> Result<Vec<Socket>> {
    let mut all = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for family in [libc::AF_INET, libc::AF_INET6] {
            let found = ask(
                &Question {
                    protocol: SockProtocol::NetlinkSockDiag,
                    kind: BY_FAMILY,
                    body: &request(protocol, family as u8),
                    all: true,
                },
                |body| socket(protocol, body),
            );
            all.extend(found.trying(|| format!("cannot list the sockets of {}", protocol.name()))?);
        }
    }
    join_listeners(&mut all);
    Ok(all)
}

/// Gives connections that wait to be accepted the inode and the group of the listener that they wait at.
fn join_listeners(all: &mut [Socket]) {
    let listeners: Vec<Socket> = all.iter().filter(|socket| socket.remote.is_none()).cloned().collect();
    for socket in all.iter_mut().filter(|socket| socket.waits) {
        let (protocol, local) = (socket.protocol, socket.local);
        let fits = |address: IpAddr| {
            let end = SocketAddr::new(address, local.port());
            listeners.iter().find(|one| one.protocol == protocol && one.local == end)
        };
        // The one that is bound to the very address comes first.
        let found = fits(local.ip())
            .or_else(|| fits(Ipv4Addr::UNSPECIFIED.into()).filter(|_| local.is_ipv4()))
            .or_else(|| fits(Ipv6Addr::UNSPECIFIED.into()));
        if let Some(listener) = found {
            (socket.inode, socket.cgroup) = (listener.inode, listener.cgroup);
        }
    }
}

/// `struct inet_diag_req_v2`: family, protocol, extensions, states, and a socket that is all zeros.
fn request(protocol: Protocol, family: u8) -> [u8; 56] {
    let number = match protocol {
        Protocol::Tcp => libc::IPPROTO_TCP,
        Protocol::Udp => libc::IPPROTO_UDP,
    };
    let mut request = [0; 56];
    request[..2].copy_from_slice(&[family, number as u8]);
    request[4..8].copy_from_slice(&STATES.to_ne_bytes());
    request
}

fn socket(protocol: Protocol, body: &[u8]) -> Option<Socket> {
    let message = body.get(..MESSAGE)?;
    let length = match i32::from(message[0]) {
        libc::AF_INET => 4,
        libc::AF_INET6 => 16,
        _ => return None,
    };
    // An IPv6 socket may speak IPv4, with addresses such as ::ffff:192.0.2.7.
    let end = |port: usize, at: usize| -> Option<SocketAddr> {
        let port = u16::from_be_bytes([message[port], message[port + 1]]);
        Some(SocketAddr::new(address(&message[at..at + length])?.to_canonical(), port))
    };
    let (local, remote) = (end(4, 8)?, end(6, 24)?);
    let takes_from_anybody = match protocol {
        Protocol::Tcp => message[1] == LISTEN,
        Protocol::Udp => is_any(remote.ip()) && remote.port() == 0,
    };
    // A socket that is bound to nothing yet takes nothing.
    (local.port() != 0).then_some(())?;
    let cgroup = attribute(&body[MESSAGE..], CGROUP_ID).and_then(|value| value.first_chunk());
    let inode = u64::from(number32(message, 68)?);
    // A process that gives a connection up closes it: one that is not being closed and has no inode never had one.
    let is_open = matches!(message[1], ESTABLISHED | SYN_RECV | CLOSE_WAIT);
    Some(Socket {
        protocol,
        local,
        remote: (!takes_from_anybody).then_some(remote),
        interface: number32(message, 40)?,
        uid: number32(message, 64)?,
        inode,
        cgroup: cgroup.map_or(0, |eight| u64::from_ne_bytes(*eight)),
        waits: protocol == Protocol::Tcp && inode == 0 && is_open,
    })
}

/// Whether an address stands for all.
pub fn is_any(address: IpAddr) -> bool {
    address.to_canonical().is_unspecified()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use proptest::prelude::*;

    use super::super::netlink::written;
    use super::*;

    #[test]
    fn a_socket_is_read_from_its_message() {
        let mut message = vec![0; MESSAGE];
        message[0] = libc::AF_INET6 as u8;
        message[1] = 1;
        message[4..8].copy_from_slice(&[0, 22, 0x1f, 0x90]);
        message[18..24].copy_from_slice(&[0xff, 0xff, 10, 0, 0, 1]);
        message[24..40].copy_from_slice(&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        message[40] = 3;
        message[64] = 5;
        message[68] = 99;
        message.extend(written(CGROUP_ID, &42_u64.to_ne_bytes()));
        let read = socket(Protocol::Tcp, &message).unwrap();
        assert_eq!(read.local.to_string(), "10.0.0.1:22");
        assert_eq!(read.remote.unwrap().to_string(), "[2001:db8::7]:8080");
        assert_eq!((read.interface, read.uid, read.inode, read.cgroup), (3, 5, 99, 42));
        message[1] = LISTEN;
        assert_eq!(socket(Protocol::Tcp, &message).unwrap().remote, None);
        assert_eq!(socket(Protocol::Tcp, &message[..MESSAGE - 1]), None);
    }

    #[test]
    fn listeners_connections_and_datagram_sockets_of_ours_are_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let bound = listener.local_addr().unwrap();
        let stream = TcpStream::connect(bound).unwrap();
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        let connected = UdpSocket::bind("127.0.0.1:0").unwrap();
        connected.connect(bound).unwrap();
        let all = all().unwrap();
        let find = |protocol, local| {
            let mut fits = all.iter().filter(move |one| one.protocol == protocol && one.local == local);
            fits.next().unwrap()
        };
        assert_eq!(find(Protocol::Tcp, stream.local_addr().unwrap()).remote, Some(bound));
        assert_eq!(find(Protocol::Udp, datagrams.local_addr().unwrap()).remote, None);
        assert_eq!(find(Protocol::Udp, connected.local_addr().unwrap()).remote, Some(bound));
        let listens = |one: &&Socket| one.local == bound && one.remote.is_none();
        let found = all.iter().find(listens).unwrap();
        assert_ne!(found.inode, 0);
    }

    #[test]
    fn a_connection_that_waits_to_be_accepted_is_its_listener_s() {
        for bind in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"] {
            let listener = TcpListener::bind(bind).unwrap();
            let port = listener.local_addr().unwrap().port();
            let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let client = stream.local_addr().unwrap();
            let find = |remote: Option<SocketAddr>| {
                let all = all().unwrap();
                all.into_iter().find(|one| one.local.port() == port && one.remote == remote).unwrap()
            };
            let waiting = find(Some(client));
            assert_eq!((waiting.inode, waiting.waits), (find(None).inode, true), "{bind}");
            let (_accepted, _) = listener.accept().unwrap();
            let accepted = find(Some(client));
            assert!(accepted.inode != find(None).inode && !accepted.waits, "{bind}");
        }
    }

    proptest! {
        #[test]
        fn no_message_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 60..120)) {
            socket(Protocol::Tcp, &bytes);
            socket(Protocol::Udp, &bytes);
        }
    }
}
