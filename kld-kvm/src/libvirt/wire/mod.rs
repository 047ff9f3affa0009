//! The few calls that read, define and forget domains, made directly over the local daemon's socket.
//!
//! libvirt.so.0 brings more than fifty libraries; loading them takes longer than all that a clone asks of
//! libvirt. What is spoken here is the protocol between that library and its daemon, which is libvirt's own
//! affair: it promises it to nobody else, but keeps numbers and layouts, so that old and new speak. Therefore
//! this way is an opportunity, never a must: whatever is not exactly as expected (another URI, no socket, no
//! rights, authentication, an answer that makes no sense) is asked again through the library, which also finds
//! the words for it.
//!
//! What changes something is not asked again once its request has gone out, since it may have been carried out.
//! That goes for definitions as well: the same definition a second time would do no harm by itself, but in
//! between somebody else may have changed or deleted the machine, and one without a UUID would be refused as a
//! namesake of its own first copy.

mod calls;
mod client;
mod domains;
mod xdr;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kld_core::hypervisor::DomainRecord;
use kld_core::{Change, Error, Result};
use uuid::Uuid;

use super::tell;
use client::{Client, Trouble};
use domains::Done;

/// Where the daemon that serves all drivers listens, and where the one for QEMU alone does. libvirt prefers the
/// former.
const SOCKETS: [&str; 2] = ["/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock"];

/// How long the daemon is waited for when the connection is closed.
const CLOSING: Duration = Duration::from_secs(1);

/// How long a daemon that did not take a connection in time is given the next time.
const MOMENT: Duration = Duration::from_millis(10);

/// The direct connection, opened by the first call that can use it and kept.
#[derive(Debug)]
pub(super) struct Direct {
    uri: String,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Closed,
    Open(Client),
    /// The daemon still owes an answer, or has not even taken the connection.
    Silent(Option<Client>),
    /// Not in this way.
    Never,
}

impl State {
    /// What comes of a connection on which the time was up. One that owes nothing would not be heard again.
    fn silent(client: Client) -> Self {
        State::Silent(Some(client).filter(Client::owes))
    }
}

impl Direct {
    pub(super) fn new(uri: &str) -> Self {
        Direct { uri: uri.to_string(), state: Mutex::new(State::Closed) }
    }

    /// Asks nothing from now on.
    pub(super) fn never(&self) {
        *self.state() = State::Never;
    }

    /// Every domain. `None`, here and below: it is to be asked through the library.
    pub(super) fn domains(&self, limit: Duration) -> Option<Result<Vec<DomainRecord>>> {
        self.ask(limit, domains::all)
    }

    pub(super) fn domain(&self, name: &str, limit: Duration) -> Option<Result<Option<DomainRecord>>> {
        self.ask(limit, |client| domains::by_name(client, name))
    }

    pub(super) fn domain_by_uuid(&self, uuid: Uuid, limit: Duration) -> Option<Result<Option<DomainRecord>>> {
        self.ask(limit, |client| domains::by_uuid(client, uuid))
    }

    pub(super) fn define(&self, definitions: &[&str], limit: Duration) -> Option<Result<Vec<Uuid>>> {
        self.carry_out(limit, "cannot define the machine", |client| domains::define(client, definitions))
    }

    pub(super) fn undefine(&self, uuid: Uuid, limit: Duration) -> Option<Result<Change<()>>> {
        let what = format!("cannot forget the machine {uuid}");
        self.carry_out(limit, &what, |client| domains::undefine(client, uuid))
    }

    /// What may be asked twice.
    fn ask<T>(&self, limit: Duration, question: impl FnOnce(&mut Client) -> Done<T>) -> Option<Result<T>> {
        self.run(limit, |client| question(client).map_err(Trouble::harmless)).unwrap_or_else(|_| None)
    }

    /// What must not be done twice.
    fn carry_out<T>(
        &self,
        limit: Duration,
        what: &str,
        deed: impl FnOnce(&mut Client) -> Done<T>,
    ) -> Option<Result<T>> {
        self.run(limit, deed).unwrap_or_else(|cause| {
            let cause = format!("libvirt was asked, but its answer is not known ({cause})");
            Some(Err(Error::failed(what, cause).with_hint("see `kvm-list` for what became of it")))
        })
    }

    /// Runs a job on the connection. `Err` says how its answer was lost.
    fn run<T>(
        &self,
        limit: Duration,
        job: impl FnOnce(&mut Client) -> Done<T>,
    ) -> std::result::Result<Option<Result<T>>, String> {
        let deadline = Instant::now() + limit;
        let mut state = self.state();
        if matches!(*state, State::Never) {
            return Ok(None);
        }
        let silent = |cause| Ok(Some(Err(tell::silent(&self.uri, cause))));
        let before = std::mem::replace(&mut *state, State::Closed);
        let patience = match &before {
            State::Silent(Some(client)) if client.heard() == Ok(false) => {
                *state = before;
                return silent(tell::STILL_SILENT.to_string());
            }
            State::Silent(None) => deadline.min(Instant::now() + MOMENT),
            _ => deadline,
        };
        let mut client = match before {
            State::Open(client) if client.heard().is_ok() => client,
            _ => match self.connect(patience, deadline) {
                Ok(client) => client,
                Err(next) => {
                    *state = next;
                    return match *state {
                        State::Silent(_) => silent(tell::not_within(limit)),
                        _ => Ok(None),
                    };
                }
            },
        };
        client.set_deadline(deadline);
        match job(&mut client) {
            Ok(done) => {
                *state = State::Open(client);
                Ok(Some(done))
            }
            Err(Trouble::Silent) => {
                *state = State::silent(client);
                silent(tell::not_within(limit))
            }
            Err(Trouble::Unsent) => Ok(None),
            Err(Trouble::Lost(cause)) => Err(cause),
        }
    }

    /// A new connection, or the state in which there is none.
    fn connect(&self, patience: Instant, deadline: Instant) -> std::result::Result<Client, State> {
        let path = socket(&self.uri).ok_or(State::Never)?;
        let mut client = Client::connect(&path, patience).map_err(|trouble| match trouble {
            Trouble::Silent => State::Silent(None),
            _ => State::Closed,
        })?;
        client.set_deadline(deadline);
        match calls::open(&mut client) {
            Ok(()) => Ok(client),
            Err(Trouble::Silent) => Err(State::silent(client)),
            Err(Trouble::Unsent) => Err(State::Never),
            Err(Trouble::Lost(_)) => Err(State::Closed),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        if let State::Open(client) = &mut *self.state() {
            client.set_deadline(Instant::now() + CLOSING);
            let _ = calls::close(client);
        }
    }
}

/// The socket behind a URI of this host's QEMU driver. Any other URI, and any other parameter, is the library's.
fn socket(uri: &str) -> Option<PathBuf> {
    match uri.strip_prefix("qemu:///system")? {
        "" => SOCKETS.into_iter().map(PathBuf::from).find(|path| path.exists()),
        parameters => {
            let path = parameters.strip_prefix("?socket=")?;
            let plain = path.starts_with('/') && !path.contains(['&', ';', '%', '#', '+', '?']);
            plain.then(|| PathBuf::from(path))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_uris_of_this_hosts_qemu_driver_have_a_socket() {
        let path = |uri| socket(uri).map(|path| path.display().to_string());
        assert_eq!(path("qemu:///system?socket=/tmp/a b").as_deref(), Some("/tmp/a b"));
        for other in [
            "qemu:///session",
            "qemu:///system?socket=relative",
            "qemu:///system?socket=/a&mode=legacy",
            "qemu:///system?socket=/a%20b",
            "qemu:///system?mode=direct",
            "qemu:///systems",
            "qemu+ssh://host/system",
            "test:///default",
        ] {
            assert_eq!(path(other), None, "{other}");
        }
    }
}
