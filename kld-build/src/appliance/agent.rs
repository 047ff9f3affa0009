//! The host's side of the agent: commands in a guest, from any process that may open the guest's sockets.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kld_core::error::Trying;
use kld_core::{Error, Result};
use nix::fcntl::{Flock, FlockArg};

use super::wire;

/// How many commands can run at once.
pub(super) const PORTS: usize = 4;

/// A guest's agent. Any number of these may speak to one guest, from several processes.
#[derive(Debug, Clone)]
pub struct Agent {
    folder: PathBuf,
    limit: Option<Duration>,
}

/// How long the agent may take to answer; all its ports may be in use.
const CONNECT: Duration = Duration::from_secs(30);

/// How a command ended, and what it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// Its exit code, 128 more than the signal where one ended it.
    pub code: i32,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

/// What a command gets and where it speaks to.
pub struct Pipes<'a> {
    /// What it reads. It is read on a thread of its own, which may outlive the command where no more comes.
    pub stdin: Box<dyn Read + Send>,
    /// Gets its standard output as it comes.
    pub stdout: &'a mut dyn Write,
    /// Gets its standard error as it comes.
    pub stderr: &'a mut dyn Write,
}

impl Agent {
    /// The agent of the guest whose appliance has this folder.
    pub fn at(folder: impl Into<PathBuf>) -> Agent {
        Agent { folder: folder.into(), limit: None }
    }

    /// The same agent, which gives up a command that takes longer.
    #[must_use]
    pub fn limited(self, limit: Duration) -> Agent {
        Agent { limit: Some(limit), ..self }
    }

    /// The socket of a port.
    pub(super) fn socket(folder: &Path, port: usize) -> PathBuf {
        folder.join(format!("agent-{port}"))
    }

    /// Waits at most `patience` until the agent answers.
    pub fn wait(&self, patience: Duration) -> Result<()> {
        self.connect(Instant::now() + patience).map(drop)
    }

    /// Runs a command to its end and keeps what it says.
    pub fn run<S: AsRef<str>>(&self, command: &[S]) -> Result<Ran> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let pipes = Pipes { stdin: Box::new(std::io::empty()), stdout: &mut stdout, stderr: &mut stderr };
        let code = self.stream(command, pipes)?;
        Ok(Ran { code, stdout, stderr })
    }

    /// Runs a command that must succeed, and gives its standard output.
    pub fn ask<S: AsRef<str>>(&self, command: &[S]) -> Result<String> {
        let ran = self.run(command)?;
        let name = command.first().map_or("a command", AsRef::as_ref);
        if ran.code != 0 {
            let said = String::from_utf8_lossy(&ran.stderr);
            let last = said.lines().rev().find(|line| !line.trim().is_empty());
            let code = format!("exit code {}", ran.code);
            return Err(Error::failed(format!("{name} failed in the guest"), last.unwrap_or(&code)));
        }
        Ok(String::from_utf8_lossy(&ran.stdout).into_owned())
    }

    /// Runs a command with its streams connected, and gives its exit code: 128 more than the signal where one ended
    /// it. A command whose caller goes away is killed.
    pub fn stream<S: AsRef<str>>(&self, command: &[S], pipes: Pipes<'_>) -> Result<i32> {
        let name = command.first().map_or("nothing", AsRef::as_ref);
        if command.iter().any(|argument| argument.as_ref().contains('\0')) {
            return Err(Error::usage(format!("cannot run {name}: an argument holds a zero byte")));
        }
        let arguments: Vec<u8> =
            command.iter().flat_map(|argument| argument.as_ref().bytes().chain([0])).collect();
        if arguments.len() > wire::CHUNK {
            return Err(Error::usage(format!("cannot run {name}: its arguments are too long"))
                .with_hint("hand long input over on standard input"));
        }
        let deadline = self.limit.map(|limit| Instant::now() + limit);
        let patience = self.limit.map_or(CONNECT, |limit| limit.min(CONNECT));
        let mut session = self.connect(Instant::now() + patience)?;
        session.send(wire::RUN, &arguments)?;
        session.feed(pipes.stdin)?;
        loop {
            let Some((kind, payload)) = session.next(deadline)? else {
                let limit = self.limit.unwrap_or_default().as_secs();
                let cause = format!("it was not done within {limit} s");
                return Err(Error::failed(format!("{name} failed in the guest"), cause));
            };
            let write = |out: &mut dyn Write| match out.write_all(&payload).and_then(|()| out.flush()) {
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Error::ClosedPipe),
                written => written.trying(|| format!("cannot hand on what {name} says")),
            };
            match kind {
                wire::STDOUT => write(pipes.stdout)?,
                wire::STDERR => write(pipes.stderr)?,
                wire::TAKEN => session.window.open(number(&payload) as usize),
                wire::EXIT => return Ok(number(&payload) as i32),
                wire::REFUSED => {
                    let why = String::from_utf8_lossy(&payload);
                    let why = why.split(" (os error").next().unwrap_or_default();
                    return Err(Error::failed(format!("cannot run {name} in the guest"), why));
                }
                _ => {}
            }
        }
    }

    fn connect(&self, deadline: Instant) -> Result<Session> {
        let late = |cause: &str| Error::failed("cannot reach the guest", cause);
        let mut pause = Duration::from_millis(2);
        loop {
            for port in 0..PORTS {
                if let Some(session) = Session::open(&self.folder, port)? {
                    return session.greet(deadline);
                }
            }
            if !Agent::socket(&self.folder, 0).exists() {
                return Err(late("it is not running"));
            }
            if Instant::now() > deadline {
                return Err(late(&format!("{PORTS} commands are running there already")));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
}

fn number(payload: &[u8]) -> u32 {
    payload.try_into().map(u32::from_le_bytes).unwrap_or_default()
}

/// One port, held by this process.
struct Session {
    stream: UnixStream,
    writer: Arc<Mutex<UnixStream>>,
    window: Arc<Window>,
    decoder: wire::Decoder,
    frames: VecDeque<(u8, Vec<u8>)>,
    /// Released after the stream is closed, so that the next holder is alone on the port.
    _lock: Flock<File>,
}

impl Session {
    /// The port, unless somebody else holds it or it is not there.
    fn open(folder: &Path, port: usize) -> Result<Option<Session>> {
        let path = folder.join(format!("agent-{port}.lock"));
        let Ok(file) = File::create(&path) else { return Ok(None) };
        let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else { return Ok(None) };
        let Ok(stream) = UnixStream::connect(Agent::socket(folder, port)) else { return Ok(None) };
        let writer = stream.try_clone().trying(|| "cannot reach the guest".to_string())?;
        Ok(Some(Session {
            stream,
            writer: Arc::new(Mutex::new(writer)),
            window: Arc::default(),
            decoder: wire::Decoder::default(),
            frames: VecDeque::new(),
            _lock: lock,
        }))
    }

    /// What comes before the agent's answer belongs to somebody earlier.
    fn greet(mut self, deadline: Instant) -> Result<Session> {
        let nonce = std::process::id().to_le_bytes().into_iter().chain(since_1970());
        let nonce: Vec<u8> = nonce.collect();
        let hello = [&[0], &wire::encode(wire::HELLO, &nonce)[..]].concat();
        write(&self.writer, &hello)?;
        loop {
            match self.next(Some(deadline))? {
                Some((wire::HELLO, payload)) if payload == nonce => return Ok(self),
                Some(_) => {}
                None => return Err(Error::failed("cannot reach the guest", "its agent does not answer")),
            }
        }
    }

    fn send(&self, kind: u8, payload: &[u8]) -> Result<()> {
        write(&self.writer, &wire::encode(kind, payload))
    }

    /// The next frame; `None` where none came in time.
    fn next(&mut self, deadline: Option<Instant>) -> Result<Option<(u8, Vec<u8>)>> {
        let mut buffer = vec![0; 2 * wire::CHUNK];
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return Ok(Some(frame));
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(None);
            }
            let read = self.stream.set_read_timeout(left).and_then(|()| self.stream.read(&mut buffer));
            match read {
                Ok(0) => return Err(gone()),
                Ok(count) => self.frames.extend(self.decoder.feed(&buffer[..count])),
                Err(error) if deadline.is_some() && error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return Err(gone()),
            }
        }
    }

    /// Sends what `input` gives, on a thread of its own.
    fn feed(&self, mut input: Box<dyn Read + Send>) -> Result<()> {
        let (writer, window) = (self.writer.clone(), self.window.clone());
        let pump = move || {
            let mut buffer = vec![0; wire::CHUNK];
            loop {
                let count = match input.read(&mut buffer) {
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                    other => other.unwrap_or(0),
                };
                if !window.take(count)
                    || write(&writer, &wire::encode(wire::STDIN, &buffer[..count])).is_err()
                {
                    return;
                }
                if count == 0 {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("stdin".to_string()).spawn(pump);
        thread.map(drop).trying(|| "cannot hand on standard input".to_string())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.window.close();
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

fn write(writer: &Mutex<UnixStream>, bytes: &[u8]) -> Result<()> {
    let mut stream = writer.lock().unwrap_or_else(PoisonError::into_inner);
    stream.write_all(bytes).map_err(|_| gone())
}

fn gone() -> Error {
    Error::failed("lost the guest", "it ended, or was ended")
}

/// A number that no earlier session had.
fn since_1970() -> [u8; 16] {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap_or_default().as_nanos().to_le_bytes()
}

/// How many bytes of standard input may still be sent.
struct Window {
    /// `None` when the session is over.
    room: Mutex<Option<usize>>,
    changed: Condvar,
}

impl Default for Window {
    fn default() -> Self {
        Window { room: Mutex::new(Some(wire::WINDOW)), changed: Condvar::new() }
    }
}

impl Window {
    fn lock(&self) -> MutexGuard<'_, Option<usize>> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room; false when the session is over.
    fn take(&self, count: usize) -> bool {
        let mut room = self.lock();
        while let Some(left) = *room {
            if left >= count {
                *room = Some(left - count);
                return true;
            }
            room = self.changed.wait(room).unwrap_or_else(PoisonError::into_inner);
        }
        false
    }

    fn open(&self, count: usize) {
        let mut room = self.lock();
        *room = room.map(|left| left + count);
        self.changed.notify_all();
    }

    fn close(&self) {
        *self.lock() = None;
        self.changed.notify_all();
    }
}
