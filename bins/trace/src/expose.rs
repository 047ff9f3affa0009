//! `--listen`: the metrics over HTTP, for those who may see them: on the loopback, or inside a WireGuard tunnel.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kld_core::{Error, Result};
use kld_ebpf::network::{Interface, interfaces, wireguard};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::http::{self, Head, Status};

/// So many are served at once; who comes beyond waits.
const MOST: usize = 8;
/// So long a request may take, from its connection to the end of its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// What Prometheus's text format is called.
const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What is told to those who ask.
#[derive(Debug, Clone, Default)]
pub struct Exposed(Arc<Mutex<String>>);

impl Exposed {
    /// Listens, and serves from a thread of its own until the process ends. Returns where: the port may have been left
    /// to the kernel (0).
    pub fn listen(address: SocketAddr) -> Result<(Exposed, SocketAddr)> {
        permit(address.ip(), &interfaces::all()?)?;
        let failed = |cause: io::Error| {
            let hint = match cause.kind() {
                io::ErrorKind::AddrInUse => {
                    Some("another program listens there: choose another port, or 0 for a free one")
                }
                io::ErrorKind::PermissionDenied => Some("choose a port from 1024 on: those below are root's"),
                _ => None,
            };
            let error = Error::failed(format!("cannot listen on {address}"), cause);
            hint.into_iter().fold(error, Error::with_hint)
        };
        let listener = TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let own = listener.local_addr().map_err(failed)?;
        let exposed = Exposed::default();
        let told = exposed.clone();
        let thread = std::thread::Builder::new().name("metrics".into());
        thread.spawn(move || serve(&listener, &told)).map_err(failed)?;
        Ok((exposed, own))
    }

    /// From now on this is told.
    pub fn tell(&self, metrics: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = metrics;
    }

    fn answer(&self, head: Head) -> Option<Vec<u8>> {
        match head {
            Head::Partial => None,
            Head::Refused(status) => Some(http::refusal(status)),
            Head::Whole(request) if request.path == "/metrics" => {
                let metrics = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                Some(http::answer(Status::Ok, FORMAT, &metrics, request.head_only))
            }
            Head::Whole(_) => Some(http::refusal(Status::NotFound)),
        }
    }
}

/// Metrics tell what a host does: they are for itself, and for those inside its tunnels.
fn permit(address: IpAddr, all: &[Interface]) -> Result<()> {
    let tunnels = || all.iter().filter(|interface| interface.kind == wireguard::KIND);
    let address = address.to_canonical();
    if address.is_loopback() || tunnels().any(|tunnel| tunnel.addresses.contains(&address)) {
        return Ok(());
    }
    let named = |tunnel: &Interface| {
        tunnel.addresses.iter().map(|own| format!("{own} ({})", tunnel.name)).collect::<Vec<_>>()
    };
    let known: Vec<String> = tunnels().flat_map(named).collect();
    let hint = match known.is_empty() {
        true => {
            "listen on 127.0.0.1 or [::1]; there is no WireGuard interface with an address here".to_string()
        }
        false => format!("listen on 127.0.0.1, [::1] or {}", known.join(", ")),
    };
    let what =
        format!("no metrics are told on {address}: it is of neither the loopback nor a WireGuard interface");
    Err(Error::usage(what).with_hint(hint))
}

/// One who asks.
#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    until: Instant,
    heard: Vec<u8>,
    /// What is left of the answer, once there is one.
    answer: Option<Vec<u8>>,
    /// Whether all is said: what still comes is not heard, but read, so that the answer is not lost with it.
    is_said: bool,
}

impl Connection {
    fn new(stream: TcpStream) -> Connection {
        let until = Instant::now() + PATIENCE;
        Connection { stream, until, heard: Vec::new(), answer: None, is_said: false }
    }

    fn waits_for(&self) -> PollFlags {
        if self.answer.is_some() && !self.is_said { PollFlags::POLLOUT } else { PollFlags::POLLIN }
    }

    /// Goes on as far as it can without waiting; whether the connection is still wanted.
    fn go_on(&mut self, exposed: &Exposed) -> io::Result<bool> {
        let mut room = [0; 2048];
        if self.is_said {
            while self.stream.read(&mut room)? > 0 {}
            return Ok(false);
        }
        while self.answer.is_none() {
            match self.stream.read(&mut room)? {
                0 => return Ok(false),
                length => self.heard.extend_from_slice(&room[..length]),
            }
            self.answer = exposed.answer(http::head(&self.heard));
        }
        while let Some(rest) = self.answer.as_mut().filter(|rest| !rest.is_empty()) {
            let sent = self.stream.write(rest)?;
            rest.drain(..sent);
        }
        self.stream.shutdown(Shutdown::Write)?;
        self.is_said = true;
        Ok(true)
    }

    /// Who has asked nothing in time is told so, as far as there is room.
    fn give_up(&mut self) {
        if self.answer.is_none() {
            let _ = self.stream.write(&http::refusal(Status::TimedOut));
        }
    }
}

/// Serves until the process ends.
fn serve(listener: &TcpListener, exposed: &Exposed) {
    let mut all: Vec<Connection> = Vec::new();
    loop {
        wait(listener, &all);
        while all.len() < MOST
            && let Ok((stream, _)) = listener.accept()
        {
            if stream.set_nonblocking(true).is_ok() {
                all.push(Connection::new(stream));
            }
        }
        all.retain_mut(|connection| match connection.go_on(exposed) {
            Ok(is_wanted) => is_wanted,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => true,
            Err(error) => error.kind() == io::ErrorKind::Interrupted,
        });
        let now = Instant::now();
        all.retain_mut(|connection| {
            let goes_on = now < connection.until;
            if !goes_on {
                connection.give_up();
            }
            goes_on
        });
    }
}

/// Waits until somebody can go on, or has waited too long.
fn wait(listener: &TcpListener, all: &[Connection]) {
    let mut awaited: Vec<PollFd<'_>> =
        all.iter().map(|one| PollFd::new(one.stream.as_fd(), one.waits_for())).collect();
    if all.len() < MOST {
        awaited.push(PollFd::new(listener.as_fd(), PollFlags::POLLIN));
    }
    let left = all.iter().map(|one| one.until.saturating_duration_since(Instant::now())).min();
    let limit = left.and_then(|left| PollTimeout::try_from(left + Duration::from_millis(1)).ok());
    // A failure is seen again by who reads; a listener that fails for good must not keep a processor busy.
    if poll(&mut awaited, limit.unwrap_or(PollTimeout::NONE)).is_err() {
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests;
