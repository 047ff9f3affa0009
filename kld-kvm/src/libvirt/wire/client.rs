//! One connection to libvirt's daemon: calls go out, answers come back, each before the deadline.
//!
//! A message is a length that counts itself, a header of six words, and what the procedure takes or gives
//! (libvirt's src/rpc/virnetprotocol.x).

use std::io::{ErrorKind, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr};
use virt::error::ErrorNumber;
use virt_sys as sys;

use super::xdr::{Decoder, Encoder, Malformed};
use crate::libvirt::tell::Told;

const REMOTE_PROGRAM: u32 = 0x2000_8086;
const KEEPALIVE_PROGRAM: u32 = 0x6b65_6570;
/// Of both programs.
const VERSION: u32 = 1;
const PING: i32 = 1;
const PONG: i32 = 2;

const TYPE_CALL: u32 = 0;
const TYPE_REPLY: u32 = 1;
const TYPE_MESSAGE: u32 = 2;

const STATUS_OK: u32 = 0;
const STATUS_ERROR: u32 = 1;

const LENGTH: usize = 4;
const HEADER: usize = 24;
/// The longest message, without its length.
const LONGEST: usize = 32 << 20;
/// The longest string.
pub(super) const STRING: usize = 4 << 20;
/// How much room is made for a message before it is there: a length is only a claim.
const STEP: usize = 256 << 10;

/// Calls that may be under way at one time. libvirtd works on five for a client and leaves what follows unread:
/// so no write waits for a daemon that itself waits to be read.
const WINDOW: usize = 5;

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// None came in time.
    Silent,
    /// The daemon cannot be asked in this way, and has carried out nothing.
    Unsent,
    /// The call went out, and what became of it is not known; why, in words.
    Lost(String),
}

impl Trouble {
    /// The same where no harm is done by asking once more.
    pub(super) fn harmless(self) -> Self {
        match self {
            Trouble::Lost(_) => Trouble::Unsent,
            other => other,
        }
    }
}

impl From<Malformed> for Trouble {
    fn from(_: Malformed) -> Self {
        surprise("its answer makes no sense")
    }
}

fn surprise(what: &str) -> Trouble {
    Trouble::Lost(what.to_string())
}

/// libvirt's own no to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    code: u32,
    message: String,
}

impl Told for Refusal {
    fn code(&self) -> ErrorNumber {
        ErrorNumber::from_raw(self.code)
    }

    fn message(&self) -> &str {
        &self.message
    }
}

impl Refusal {
    fn decode(payload: &[u8]) -> Result<Self, Malformed> {
        let decoder = &mut Decoder::new(payload);
        let (code, domain) = (decoder.word()?, decoder.word()?);
        let message = decoder.optional(|decoder| decoder.string(STRING))?.unwrap_or_default();
        // What follows says nothing that is told to anybody.
        let message = String::from_utf8_lossy(message).into_owned();
        let transport = domain == sys::VIR_FROM_REMOTE || domain == sys::VIR_FROM_RPC;
        let unknown = transport && code == sys::VIR_ERR_RPC && message.starts_with("unknown procedure");
        Ok(Refusal { code: if unknown { sys::VIR_ERR_NO_SUPPORT } else { code }, message })
    }
}

/// What a call gave: the procedure's values, or a refusal.
pub(super) type Answer = Result<Vec<u8>, Refusal>;

/// A call to be made.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) procedure: i32,
    pub(super) arguments: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Header {
    program: u32,
    version: u32,
    procedure: i32,
    kind: u32,
    serial: u32,
    status: u32,
}

impl Header {
    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, Malformed> {
        Ok(Header {
            program: decoder.word()?,
            version: decoder.word()?,
            procedure: decoder.int()?,
            kind: decoder.word()?,
            serial: decoder.word()?,
            status: decoder.word()?,
        })
    }

    /// The message that begins with this header.
    fn message(self, payload: &[u8]) -> Result<Vec<u8>, Malformed> {
        let length = HEADER + payload.len();
        if length > LONGEST {
            return Err(Malformed);
        }
        let length = u32::try_from(LENGTH + length).map_err(|_| Malformed)?;
        let head = Encoder::default().word(length).word(self.program).word(self.version).int(self.procedure);
        let mut message = head.word(self.kind).word(self.serial).word(self.status).finish();
        message.extend(payload);
        Ok(message)
    }
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Client {
    stream: UnixStream,
    /// Of the last call.
    serial: u32,
    /// Calls that went out and have no answer yet.
    owed: usize,
    deadline: Instant,
}

impl Client {
    /// Connects to the daemon at `path`.
    pub(super) fn connect(path: &Path, deadline: Instant) -> Result<Self, Trouble> {
        let unsent = |_: Errno| Trouble::Unsent;
        let socket: OwnedFd =
            socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
                .map_err(unsent)?;
        let client = Client { stream: UnixStream::from(socket), serial: 0, owed: 0, deadline };
        let address = UnixAddr::new(path).map_err(unsent)?;
        loop {
            // It limits the wait for a place in the daemon's queue, too.
            client.stream.set_write_timeout(Some(client.remaining()?)).map_err(|_| Trouble::Unsent)?;
            match socket::connect(client.stream.as_raw_fd(), &address) {
                Ok(()) => return Ok(client),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Err(Trouble::Silent),
                Err(_) => return Err(Trouble::Unsent),
            }
        }
    }

    /// Answers are waited for until then.
    pub(super) fn set_deadline(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// Whether answers are outstanding.
    pub(super) fn owes(&self) -> bool {
        self.owed > 0
    }

    /// Whether something can be read: a message, or that the other side is gone. `Err` is the latter.
    pub(super) fn heard(&self) -> Result<bool, Errno> {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        match socket::recv(self.stream.as_raw_fd(), &mut [0], flags) {
            Ok(0) => Err(Errno::ECONNRESET),
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes calls, several of them at one time, and gives their answers in the same order. The daemon may take
    /// them in any order.
    pub(super) fn exchange(&mut self, calls: &[Call]) -> Result<Vec<Answer>, Trouble> {
        let first = self.serial.wrapping_add(1);
        let mut answers: Vec<Option<Answer>> = Vec::new();
        let mut sent = 0;
        while sent < calls.len() || self.owes() {
            while let Some(call) = calls.get(sent).filter(|_| self.owed < WINDOW) {
                self.serial = self.serial.wrapping_add(1);
                let serial = self.serial;
                let header = Header {
                    program: REMOTE_PROGRAM,
                    version: VERSION,
                    procedure: call.procedure,
                    kind: TYPE_CALL,
                    serial,
                    status: STATUS_OK,
                };
                let written = header.message(&call.arguments).map_err(|_| Trouble::Unsent);
                written.and_then(|message| self.write(&message)).map_err(|trouble| match trouble {
                    Trouble::Unsent if sent > 0 => surprise("the connection broke"),
                    other => other,
                })?;
                answers.push(None);
                sent += 1;
                self.owed += 1;
            }
            let (header, payload) = self.reply()?;
            let index = header.serial.wrapping_sub(first) as usize;
            let slot = answers.get_mut(index).filter(|slot| slot.is_none());
            let (Some(slot), Some(call)) = (slot, calls.get(index)) else {
                return Err(surprise("it answered what it was not asked"));
            };
            if header.procedure != call.procedure {
                return Err(surprise("it answered another call"));
            }
            *slot = Some(match header.status {
                STATUS_OK => Ok(payload),
                STATUS_ERROR => Err(Refusal::decode(&payload)?),
                _ => return Err(surprise("its answer has a status of its own")),
            });
            self.owed -= 1;
        }
        Ok(answers.into_iter().flatten().collect())
    }

    /// The next reply; what comes in between is passed over.
    fn reply(&mut self) -> Result<(Header, Vec<u8>), Trouble> {
        loop {
            let (header, payload) = self.message()?;
            match (header.program, header.kind) {
                _ if header.version != VERSION => return Err(surprise("it speaks another version")),
                (REMOTE_PROGRAM, TYPE_REPLY) => return Ok((header, payload)),
                (KEEPALIVE_PROGRAM, TYPE_MESSAGE) if header.procedure == PING => {
                    let pong = Header { procedure: PONG, ..header }.message(&[])?;
                    self.write(&pong).map_err(|trouble| match trouble {
                        Trouble::Unsent => surprise("the connection broke"),
                        other => other,
                    })?;
                }
                (_, TYPE_MESSAGE) => {}
                _ => return Err(surprise("it sent what is no answer")),
            }
        }
    }

    fn message(&mut self) -> Result<(Header, Vec<u8>), Trouble> {
        let mut head = [0; LENGTH + HEADER];
        self.read(&mut head)?;
        let mut decoder = Decoder::new(&head);
        let length = decoder.length(LENGTH + LONGEST).map_err(|_| surprise("its answer is too long"))?;
        let header = Header::decode(&mut decoder)?;
        let rest = length.checked_sub(head.len()).ok_or(Malformed)?;
        let mut payload = Vec::new();
        while payload.len() < rest {
            let at = payload.len();
            payload.resize(rest.min(at + STEP), 0);
            self.read(&mut payload[at..])?;
        }
        Ok((header, payload))
    }

    /// The time that is left; never zero, which the kernel takes for no limit.
    fn remaining(&self) -> Result<Duration, Trouble> {
        let remaining = self.deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() { Err(Trouble::Silent) } else { Ok(remaining.max(Duration::from_micros(1))) }
    }

    /// Fills `buffer`.
    fn read(&mut self, mut buffer: &mut [u8]) -> Result<(), Trouble> {
        while !buffer.is_empty() {
            let limit = self.remaining()?;
            self.stream.set_read_timeout(Some(limit)).map_err(|error| surprise(&error.to_string()))?;
            match self.stream.read(buffer) {
                Ok(0) => return Err(surprise("it closed the connection")),
                Ok(count) => buffer = &mut buffer[count..],
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => return Err(Trouble::Silent),
                    _ => return Err(surprise(&error.to_string())),
                },
            }
        }
        Ok(())
    }

    /// Writes a message. One that did not go out whole is never carried out.
    fn write(&mut self, mut message: &[u8]) -> Result<(), Trouble> {
        while !message.is_empty() {
            let limit = self.remaining()?;
            self.stream.set_write_timeout(Some(limit)).map_err(|_| Trouble::Unsent)?;
            // Without the flag, a daemon that is gone would end a program that does not ignore SIGPIPE.
            match socket::send(self.stream.as_raw_fd(), message, MsgFlags::MSG_NOSIGNAL) {
                Ok(count) => message = &message[count..],
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Err(Trouble::Silent),
                Err(_) => return Err(Trouble::Unsent),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
