//! What is a leak, given the interfaces that there are and what is allowed.

use std::net::{IpAddr, SocketAddr};

use kld_ebpf::network::sockets::is_any;
use kld_ebpf::network::{Interface, Socket, wireguard};
use kld_ebpf::probe::Protocol;

use super::allow::Allowance;

/// What is judged by.
#[derive(Debug, Default)]
pub struct Ground {
    /// Every interface.
    pub interfaces: Vec<Interface>,
    /// The names of interfaces that count as tunnels though they are not WireGuard's.
    pub named: Vec<String>,
    /// WireGuard's interfaces and the UDP ports of those that have one: there the kernel takes and sends the tunnel's
    /// own packets.
    pub ports: Vec<(u32, u16)>,
    /// What may be outside.
    pub allowed: Vec<Allowance>,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It stays on the host, or goes through a tunnel.
    Inside,
    /// It is the tunnel.
    Tunnel,
    /// It is outside, as the allowance of this number says that it may be.
    Allowed(usize),
    /// It is outside.
    Leak,
}

/// A flow or, without another end, a listener.
#[derive(Debug, Clone, Copy)]
pub struct Subject {
    /// Its protocol.
    pub protocol: Protocol,
    /// This end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: Option<SocketAddr>,
    /// The interface that it goes through or is bound to, by its index; 0: any, or unknown.
    pub interface: u32,
    /// Whether a process is known that holds the socket.
    pub held: bool,
}

impl Subject {
    /// What a listener is.
    pub fn listener(socket: &Socket, held: bool) -> Subject {
        let (protocol, local, interface) = (socket.protocol, socket.local, socket.interface);
        Subject { protocol, local, remote: None, interface, held }
    }
}

impl Ground {
    /// The interfaces that are tunnels.
    pub fn tunnels(&self) -> impl Iterator<Item = &Interface> {
        let named = |one: &Interface| self.named.contains(&one.name);
        self.interfaces.iter().filter(move |one| one.kind == wireguard::KIND || named(one))
    }

    /// An interface by its index.
    pub fn interface(&self, index: u32) -> Option<&Interface> {
        self.interfaces.iter().find(|one| one.index == index)
    }

    /// The interface that has an address.
    pub fn of_address(&self, address: IpAddr) -> Option<&Interface> {
        self.interfaces.iter().find(|one| one.addresses.contains(&address))
    }

    /// The name of the interface that something goes through or is bound to.
    pub fn name(&self, subject: &Subject) -> Option<String> {
        let own = || self.of_address(subject.local.ip()).filter(|_| subject.remote.is_none());
        match subject.interface {
            0 => own().map(|one| one.name.clone()),
            index => Some(self.interface(index).map_or_else(|| format!("if{index}"), |one| one.name.clone())),
        }
    }

    /// The verdict.
    pub fn judge(&self, subject: &Subject) -> Verdict {
        let inside = match subject.remote {
            Some(_) => self.is_inside(subject.interface),
            None => self.is_inside(subject.interface) || self.is_bound_inside(subject.local.ip()),
        };
        if inside {
            return Verdict::Inside;
        }
        let of_tunnel = self.ports.iter().any(|(_, port)| *port == subject.local.port());
        if of_tunnel && subject.protocol == Protocol::Udp && !subject.held {
            return Verdict::Tunnel;
        }
        let name = self.name(subject);
        let fits = |allowance: &Allowance| {
            allowance.fits(subject.protocol, subject.local, subject.remote, name.as_deref())
        };
        self.allowed.iter().position(fits).map_or(Verdict::Leak, Verdict::Allowed)
    }

    /// Whether it is the loopback or a tunnel.
    fn is_inside(&self, index: u32) -> bool {
        self.interface(index).is_some_and(|one| one.loopback)
            || self.tunnels().any(|tunnel| tunnel.index == index)
    }

    /// Whether what is bound to an address is reached over the loopback and the tunnels only. Other addresses of the
    /// loopback's, as routers have them, are reached from everywhere.
    fn is_bound_inside(&self, address: IpAddr) -> bool {
        !is_any(address)
            && (address.is_loopback() || self.tunnels().any(|tunnel| tunnel.addresses.contains(&address)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(index: u32, name: &str, kind: &str, addresses: &[&str]) -> Interface {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Interface { index, name: name.into(), kind: kind.into(), loopback: name == "lo", addresses }
    }

    /// A host with a loopback, an outside, a WireGuard tunnel and a tunnel of a program's.
    fn ground(allowed: &[&str]) -> Ground {
        Ground {
            interfaces: vec![
                interface(1, "lo", "", &["127.0.0.1", "::1", "203.0.113.1"]),
                interface(2, "eth0", "", &["192.0.2.1", "2001:db8::1"]),
                interface(3, "wg0", "wireguard", &["10.0.0.1", "fd00::1"]),
                interface(4, "tun0", "tun", &["10.1.0.1"]),
            ],
            named: vec!["tun0".into()],
            ports: vec![(3, 51820)],
            allowed: allowed.iter().map(|text| Allowance::parse(text).unwrap()).collect(),
        }
    }

    fn listener(protocol: Protocol, local: &str, interface: u32) -> Subject {
        Subject { protocol, local: local.parse().unwrap(), remote: None, interface, held: true }
    }

    fn flow(local: &str, remote: &str, interface: u32) -> Subject {
        Subject { remote: Some(remote.parse().unwrap()), ..listener(Protocol::Tcp, local, interface) }
    }

    #[test]
    fn a_listener_is_a_leak_unless_it_is_bound_to_the_loopback_or_a_tunnel() {
        for (local, interface, wanted) in [
            ("127.0.0.1:80", 0, Verdict::Inside),
            ("127.9.9.9:80", 0, Verdict::Inside),
            ("[::1]:80", 0, Verdict::Inside),
            ("10.0.0.1:80", 0, Verdict::Inside),
            ("[fd00::1]:80", 0, Verdict::Inside),
            ("10.1.0.1:80", 0, Verdict::Inside),
            ("0.0.0.0:80", 0, Verdict::Leak),
            ("[::]:80", 0, Verdict::Leak),
            ("192.0.2.1:80", 0, Verdict::Leak),
            ("203.0.113.1:80", 0, Verdict::Leak),
            ("0.0.0.0:80", 3, Verdict::Inside),
            ("0.0.0.0:80", 1, Verdict::Inside),
            ("0.0.0.0:80", 2, Verdict::Leak),
        ] {
            assert_eq!(
                ground(&[]).judge(&listener(Protocol::Tcp, local, interface)),
                wanted,
                "{local} {interface}"
            );
        }
    }

    #[test]
    fn a_flow_is_a_leak_by_the_interface_that_it_leaves_through_alone() {
        let judge = |local: &str, interface| ground(&[]).judge(&flow(local, "198.51.100.7:443", interface));
        assert_eq!(judge("10.0.0.1:5", 3), Verdict::Inside);
        assert_eq!(judge("10.1.0.1:5", 4), Verdict::Inside);
        assert_eq!(judge("127.0.0.1:5", 1), Verdict::Inside);
        assert_eq!(judge("192.0.2.1:5", 2), Verdict::Leak);
        assert_eq!(judge("10.0.0.1:5", 2), Verdict::Leak, "the tunnel's address does not make it go there");
        assert_eq!(judge("10.0.0.1:5", 99), Verdict::Leak, "an interface that is gone");
        assert_eq!(judge("10.0.0.1:5", 0), Verdict::Leak, "an unknown interface");
    }

    #[test]
    fn on_the_tunnel_s_port_only_the_kernel_s_socket_is_the_tunnel() {
        let ground = ground(&[]);
        let own = listener(Protocol::Udp, "0.0.0.0:51820", 0);
        assert_eq!(ground.judge(&own), Verdict::Leak, "a process has it");
        assert_eq!(ground.judge(&Subject { held: false, ..own }), Verdict::Tunnel);
        assert_eq!(ground.judge(&Subject { held: false, protocol: Protocol::Tcp, ..own }), Verdict::Leak);
        let other = listener(Protocol::Udp, "0.0.0.0:51821", 0);
        assert_eq!(ground.judge(&Subject { held: false, ..other }), Verdict::Leak);
    }

    #[test]
    fn what_is_allowed_is_told_by_the_first_allowance_that_fits() {
        let ground = ground(&["udp", "tcp,port=22", "interface=eth0,to=198.51.100.0/24"]);
        assert_eq!(ground.judge(&listener(Protocol::Tcp, "[::]:22", 0)), Verdict::Allowed(1));
        assert_eq!(ground.judge(&flow("192.0.2.1:22", "203.0.113.9:999", 2)), Verdict::Allowed(1));
        assert_eq!(ground.judge(&flow("192.0.2.1:5", "198.51.100.7:443", 2)), Verdict::Allowed(2));
        assert_eq!(ground.judge(&flow("192.0.2.1:5", "203.0.113.9:22", 2)), Verdict::Leak);
    }

    #[test]
    fn an_interface_is_named_by_what_is_bound_to_it_or_goes_through_it() {
        let ground = ground(&[]);
        let name = |subject: Subject| ground.name(&subject);
        assert_eq!(name(listener(Protocol::Tcp, "192.0.2.1:80", 0)).as_deref(), Some("eth0"));
        assert_eq!(name(listener(Protocol::Tcp, "0.0.0.0:80", 0)), None);
        assert_eq!(name(flow("192.0.2.1:5", "198.51.100.7:443", 3)).as_deref(), Some("wg0"));
        assert_eq!(name(flow("192.0.2.1:5", "198.51.100.7:443", 99)).as_deref(), Some("if99"));
    }
}
