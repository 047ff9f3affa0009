//! What may be outside the tunnel: `--allow tcp,port=22`.

use std::net::{IpAddr, SocketAddr};

use kld_ebpf::probe::Protocol;

/// A permission. All that it names must fit; what it does not name may be anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowance {
    /// As it was written.
    pub text: String,
    protocol: Option<Protocol>,
    interface: Option<String>,
    from: Option<Network>,
    port: Option<u16>,
    to: Option<Network>,
    to_port: Option<u16>,
}

impl Allowance {
    /// Words with commas between them, as the help says.
    pub fn parse(text: &str) -> Result<Allowance, String> {
        let mut allowance = Allowance { text: text.to_string(), ..Allowance::default() };
        for word in text.split(',') {
            allowance.add(word)?;
        }
        Ok(allowance)
    }

    fn add(&mut self, word: &str) -> Result<(), String> {
        match word.split_once('=') {
            None => set(&mut self.protocol, word, protocol(word)?),
            Some(("interface", name)) => set(&mut self.interface, word, interface(name)?),
            Some(("from", network)) => set(&mut self.from, word, Network::parse(network)?),
            Some(("port", number)) => set(&mut self.port, word, port(number)?),
            Some(("to", network)) => set(&mut self.to, word, Network::parse(network)?),
            Some(("to-port", number)) => set(&mut self.to_port, word, port(number)?),
            Some((other, _)) => {
                Err(format!("'{}' is none of interface, from, port, to and to-port", other.escape_debug()))
            }
        }
    }

    /// Whether it fits a flow, or a listener where there is no other end.
    pub fn fits(
        &self,
        protocol: Protocol,
        local: SocketAddr,
        remote: Option<SocketAddr>,
        interface: Option<&str>,
    ) -> bool {
        let is = |network: &Network, end: SocketAddr| network.has(end.ip());
        self.protocol.is_none_or(|wanted| wanted == protocol)
            && self.interface.as_deref().is_none_or(|wanted| Some(wanted) == interface)
            && self.from.as_ref().is_none_or(|wanted| is(wanted, local))
            && self.port.is_none_or(|wanted| wanted == local.port())
            && self.to.as_ref().is_none_or(|wanted| remote.is_some_and(|remote| is(wanted, remote)))
            && self.to_port.is_none_or(|wanted| remote.is_some_and(|remote| wanted == remote.port()))
    }
}

fn set<T>(place: &mut Option<T>, word: &str, value: T) -> Result<(), String> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!("'{}' says a second time what one can say once", word.escape_debug())),
    }
}

fn protocol(word: &str) -> Result<Protocol, String> {
    match word {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        _ => Err(format!("'{}' is neither tcp, udp, nor NAME=VALUE", word.escape_debug())),
    }
}

fn interface(name: &str) -> Result<String, String> {
    match name {
        "" => Err("the interface has no name".into()),
        _ => Ok(name.to_string()),
    }
}

fn port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err(format!("'{}' is no port", text.escape_debug())),
        Ok(port) => Ok(port),
    }
}

/// Addresses that begin alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// An address, or one with the number of its bits that count: `192.0.2.0/24`.
    fn parse(text: &str) -> Result<Network, String> {
        let wrong = || format!("'{}' is no address or network", text.escape_debug());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), |bits| bits.parse::<u8>().map_err(|_| wrong()))?;
        if bits > most {
            return Err(wrong());
        }
        Ok(Network { address, bits })
    }

    fn has(&self, address: IpAddr) -> bool {
        let differ = match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => (own.to_bits() ^ other.to_bits()).leading_zeros(),
            (IpAddr::V6(own), IpAddr::V6(other)) => (own.to_bits() ^ other.to_bits()).leading_zeros(),
            _ => return false,
        };
        differ >= u32::from(self.bits)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fits(rule: &str, protocol: Protocol, local: &str, remote: Option<&str>, interface: &str) -> bool {
        let end = |text: &str| text.parse().unwrap();
        Allowance::parse(rule).unwrap().fits(protocol, end(local), remote.map(end), Some(interface))
    }

    #[test]
    fn all_that_a_permission_names_must_fit() {
        let ssh = ("192.0.2.1:22", "198.51.100.9:50000");
        for (rule, wanted) in [
            ("tcp", true),
            ("udp", false),
            ("port=22", true),
            ("to-port=22", false),
            ("tcp,port=22,interface=eth0", true),
            ("tcp,port=22,interface=eth1", false),
            ("to=198.51.100.0/24", true),
            ("to=198.51.101.0/24", false),
            ("from=192.0.2.1,to-port=50000", true),
            ("from=::/0", false),
            ("to=0.0.0.0/0", true),
        ] {
            assert_eq!(fits(rule, Protocol::Tcp, ssh.0, Some(ssh.1), "eth0"), wanted, "{rule}");
        }
    }

    #[test]
    fn a_permission_for_the_other_end_permits_no_listener() {
        let listener = |rule: &str| fits(rule, Protocol::Tcp, "[::]:22", None, "");
        assert!(listener("tcp,port=22") && listener("from=::"));
        assert!(!listener("to=::/0") && !listener("to-port=22") && !listener("interface=eth0"));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        for (rule, said) in [
            ("", "'' is neither tcp, udp, nor NAME=VALUE"),
            ("sctp", "'sctp' is neither tcp, udp, nor NAME=VALUE"),
            ("tcp,udp", "'udp' says a second time what one can say once"),
            ("port=0", "'0' is no port"),
            ("port=65536", "'65536' is no port"),
            ("to=192.0.2.0/33", "'192.0.2.0/33' is no address or network"),
            ("to=example.org", "'example.org' is no address or network"),
            ("interface=", "the interface has no name"),
            ("comm=ssh", "'comm' is none of interface, from, port, to and to-port"),
        ] {
            assert_eq!(Allowance::parse(rule).unwrap_err(), said, "{rule}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[a-z0-9=,./:\\-]{0,40}", address: [u8; 4]) {
            if let Ok(allowance) = Allowance::parse(&text) {
                allowance.fits(Protocol::Tcp, (address, 1).into(), None, None);
            }
        }
    }
}
