//! What an IP packet says of itself: its protocol, its addresses and its ports.

use aya_ebpf::programs::SkBuffContext;
use kld_ebpf_events::flow::Key;
use kld_ebpf_events::tcp::Flow;

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const TCP: u8 = 6;
const UDP: u8 = 17;

// The headers that may stand between IPv6's own and TCP's or UDP's (RFC 8200, RFC 4302).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
/// No sender writes more of them.
const MOST_HEADERS: usize = 6;

/// The flow of a packet that begins with its IP header; `None` where it is neither TCP nor UDP.
#[inline(always)]
pub fn flow(packet: &SkBuffContext) -> Option<Key> {
    let first: u8 = packet.load(0).ok()?;
    match first >> 4 {
        4 => version4(packet),
        6 => version6(packet),
        _ => None,
    }
}

#[inline(always)]
fn version4(packet: &SkBuffContext) -> Option<Key> {
    let header: [u8; 20] = packet.load(0).ok()?;
    // Only the first fragment has ports.
    if header[6] & 0x1f != 0 || header[7] != 0 {
        return None;
    }
    let mut ends = Flow { family: AF_INET, ..EMPTY };
    ends.local[..4].copy_from_slice(&header[12..16]);
    ends.remote[..4].copy_from_slice(&header[16..20]);
    with_ports(packet, ends, header[9], usize::from(header[0] & 15) * 4)
}

#[inline(always)]
fn version6(packet: &SkBuffContext) -> Option<Key> {
    let header: [u8; 40] = packet.load(0).ok()?;
    let mut ends = Flow { family: AF_INET6, ..EMPTY };
    ends.local.copy_from_slice(&header[8..24]);
    ends.remote.copy_from_slice(&header[24..40]);
    let (mut next, mut at) = (header[6], 40);
    for _ in 0..MOST_HEADERS {
        if !matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION) {
            break;
        }
        let further: [u8; 2] = packet.load(at).ok()?;
        at += match next {
            FRAGMENT => 8,
            AUTHENTICATION => (usize::from(further[1]) + 2) * 4,
            _ => (usize::from(further[1]) + 1) * 8,
        };
        next = further[0];
    }
    with_ports(packet, ends, next, at)
}

const EMPTY: Flow =
    Flow { local: [0; 16], remote: [0; 16], family: 0, local_port: 0, remote_port: 0, state: 0 };

#[inline(always)]
fn with_ports(packet: &SkBuffContext, mut ends: Flow, protocol: u8, at: usize) -> Option<Key> {
    if protocol != TCP && protocol != UDP {
        return None;
    }
    let ports: [u8; 4] = packet.load(at).ok()?;
    ends.local_port = u16::from_be_bytes([ports[0], ports[1]]);
    ends.remote_port = u16::from_be_bytes([ports[2], ports[3]]);
    Some(Key { ends, interface: 0, protocol: u32::from(protocol) })
}
