//! Questions and answers over netlink (linux/netlink.h; man 7 netlink).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// `struct nlmsghdr`: length, type, flags, sequence, port.
const HEADER: usize = 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
/// What was listed has changed meanwhile: the list has holes.
const INTERRUPTED: u16 = 0x10;
const DUMP: u16 = 0x300;
/// An attribute's type may bear the flags "nested" and "of network byte order".
const TYPE: u16 = 0x3fff;
/// The kernel's answers are no longer than this.
const LONGEST: usize = 64 << 10;
/// The kernel answers at once; nothing waits forever.
const PATIENCE: i64 = 10;
/// So often a list is asked for again that has holes.
const TRIES: usize = 10;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Which part of the kernel.
    pub protocol: SockProtocol,
    /// The type of the message.
    pub kind: u16,
    /// What follows its header.
    pub body: &'a [u8],
    /// Whether all there are are asked for, or the one that the body names.
    pub all: bool,
}

/// Asks, and makes a value of each answer's body that `read` understands. The answers are wiped: some hold keys.
pub fn ask<T>(question: &Question<'_>, read: impl Fn(&[u8]) -> Option<T>) -> io::Result<Vec<T>> {
    for _ in 0..TRIES {
        if let Some(answers) = ask_once(question, &read)? {
            return Ok(answers);
        }
    }
    Err(io::Error::other("it changes faster than it can be read"))
}

/// `None` where the list has holes.
fn ask_once<T>(question: &Question<'_>, read: impl Fn(&[u8]) -> Option<T>) -> io::Result<Option<Vec<T>>> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, question.protocol)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE))?;
    let fd = socket.as_raw_fd();
    send(fd, &message(question), MsgFlags::empty())?;
    let mut room = vec![0; LONGEST];
    let mut answers = Vec::new();
    let mut whole = true;
    loop {
        let length = recv(fd, &mut room, MsgFlags::empty())?;
        let mut end = None;
        for (kind, flags, body) in messages(&room[..length]) {
            whole &= flags & INTERRUPTED == 0;
            match kind {
                DONE | ERROR => end = Some(outcome(body)),
                _ => answers.extend(read(body)),
            }
        }
        room[..length].fill(0);
        std::hint::black_box(&room);
        if let Some(end) = end {
            end?;
            return Ok(whole.then_some(answers));
        }
    }
}

fn message(question: &Question<'_>) -> Vec<u8> {
    let flags = REQUEST | if question.all { DUMP } else { ACKNOWLEDGE };
    let mut message = Vec::with_capacity(HEADER + question.body.len());
    message.extend(((HEADER + question.body.len()) as u32).to_ne_bytes());
    message.extend(question.kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(question.body);
    message
}

/// Type, flags and body of each message in what was received.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = number32(bytes, 0)? as usize;
        let (kind, flags) = (number16(bytes, 4)?, number16(bytes, 6)?);
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some((kind, flags, body))
    })
}

/// A negative error number, or 0, at the beginning of the last message.
fn outcome(body: &[u8]) -> io::Result<()> {
    match number32(body, 0).map(u32::cast_signed) {
        Some(code) if code < 0 => Err(Errno::from_raw(code.saturating_neg()).into()),
        _ => Ok(()),
    }
}

/// Type and value of each attribute.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(number16(bytes, 0)?);
        let kind = number16(bytes, 2)? & TYPE;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of this type.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// An attribute as it is written.
pub fn written(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len();
    let mut bytes = Vec::with_capacity(aligned(length));
    bytes.extend((length as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(aligned(length), 0);
    bytes
}

/// Everything begins at a multiple of four bytes.
fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// A number of 16 bits at this place.
pub fn number16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|two| u16::from_ne_bytes(*two))
}

/// A number of 32 bits at this place.
pub fn number32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|four| u32::from_ne_bytes(*four))
}

/// An address of either version, by its length.
pub fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.first_chunk::<4>().map(|four| Ipv4Addr::from(*four).into()),
        16 => bytes.first_chunk::<16>().map(|all| Ipv6Addr::from(*all).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_and_attributes_are_found_behind_their_padding() {
        let body = [written(3, b"abc"), written(0x8005, &7_u32.to_ne_bytes())].concat();
        let question = Question { protocol: SockProtocol::NetlinkRoute, kind: 18, body: &body, all: true };
        let twice = [message(&question), message(&question)].concat();
        let read: Vec<_> = messages(&twice).collect();
        assert_eq!(read, [(18, 0x301, body.as_slice()), (18, 0x301, body.as_slice())]);
        assert_eq!(attribute(&body, 3), Some(&b"abc"[..]));
        assert_eq!(attribute(&body, 5).and_then(|value| number32(value, 0)), Some(7));
        assert_eq!(attribute(&body, 4), None);
    }

    #[test]
    fn a_refusal_is_told_with_its_reason() {
        assert_eq!(outcome(&(-1_i32).to_ne_bytes()).unwrap_err().raw_os_error(), Some(1));
        assert!(outcome(&0_i32.to_ne_bytes()).is_ok() && outcome(&[]).is_ok());
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for (_, _, body) in messages(&bytes) {
                attributes(body).for_each(|(_, value)| _ = address(value));
                let _ = outcome(body);
            }
        }
    }
}
