//! The port that a WireGuard device listens on (linux/wireguard.h, linux/genetlink.h).
//!
//! The kernel's answer holds the device's private key beside it, which is neither read nor kept.

use std::io;

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use super::netlink::{Question, ask, attribute, number16, written};

/// What a WireGuard interface is called among [kinds](super::Interface::kind).
pub const KIND: &str = "wireguard";

/// The family that knows the others' numbers.
const CONTROL: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// `struct genlmsghdr`: command, version, two bytes of nothing.
const HEADER: usize = 4;
const GET_DEVICE: u8 = 0;
const DEVICE_INDEX: u16 = 1;
const LISTEN_PORT: u16 = 6;

/// The UDP port of a device, by its interface's index; `None` where it is no device, or has no port yet.
pub fn listen_port(index: u32) -> io::Result<Option<u16>> {
    let name = [&[GET_FAMILY, 1, 0, 0][..], &written(FAMILY_NAME, b"wireguard\0")].concat();
    let family = Question { protocol: SockProtocol::NetlinkGeneric, kind: CONTROL, body: &name, all: false };
    let family = match ask(&family, |body| number16(attribute(body.get(HEADER..)?, FAMILY_ID)?, 0)) {
        Ok(found) => found.first().copied(),
        Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => None,
        Err(error) => return Err(error),
    };
    let Some(kind) = family else { return Ok(None) };
    let body = [&[GET_DEVICE, 1, 0, 0][..], &written(DEVICE_INDEX, &index.to_ne_bytes())].concat();
    let device = Question { protocol: SockProtocol::NetlinkGeneric, kind, body: &body, all: true };
    match ask(&device, port) {
        Ok(ports) => Ok(ports.into_iter().find(|port| *port != 0)),
        // It is gone, or is another's kind of interface.
        Err(error)
            if [Some(Errno::ENODEV as i32), Some(Errno::EOPNOTSUPP as i32)]
                .contains(&error.raw_os_error()) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn port(body: &[u8]) -> Option<u16> {
    number16(attribute(body.get(HEADER..)?, LISTEN_PORT)?, 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_port_is_read_and_the_key_beside_it_is_not() {
        let body =
            [&[0, 1, 0, 0][..], &written(3, &[7; 32]), &written(LISTEN_PORT, &51820_u16.to_ne_bytes())];
        assert_eq!(port(&body.concat()), Some(51820));
        assert_eq!(port(&[0, 1]), None);
    }

    #[test]
    fn what_is_no_device_has_no_port() {
        assert_eq!(listen_port(1).unwrap(), None, "the loopback");
    }

    proptest! {
        #[test]
        fn no_message_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            port(&bytes);
        }
    }
}
