//! The agent in the guest: it runs commands that the host asks for on virtio-serial ports named `kld.N`, one command a
//! port at a time, and hands on their streams and exit codes.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

#[path = "../src/appliance/wire.rs"]
#[allow(dead_code)]
mod wire;

#[repr(C)]
struct PollFd {
    fd: i32,
    events: i16,
    revents: i16,
}

/// How often a port without a host is looked at. Each look costs a guest whose processor is translated a thousandth of
/// its time or more.
const NO_HOST: Duration = Duration::from_millis(100);

const POLLIN: i16 = 1;
const SIGKILL: i32 = 9;
const P_PID: i32 = 1;
const WEXITED: i32 = 4;
const WNOWAIT: i32 = 0x0100_0000;

unsafe extern "C" {
    fn poll(fds: *mut PollFd, count: std::ffi::c_ulong, timeout: i32) -> i32;
    fn kill(pid: i32, signal: i32) -> i32;
    fn waitid(kind: i32, id: u32, info: *mut std::ffi::c_void, options: i32) -> i32;
}

/// Waits for a child's end and leaves it a zombie, so that its number stays its own.
fn await_end(child: &Child) {
    // SAFETY: the kernel tells nothing where it is given no place to tell it.
    while unsafe { waitid(P_PID, child.id(), std::ptr::null_mut(), WEXITED | WNOWAIT) } != 0 {
        if std::io::Error::last_os_error().kind() != std::io::ErrorKind::Interrupted {
            return;
        }
    }
}

/// True where there is something to read, the end of the file included; waits for it if told.
fn readable(file: &File, wait: bool) -> bool {
    let mut fd = PollFd { fd: file.as_raw_fd(), events: POLLIN, revents: 0 };
    // SAFETY: `fd` is one valid pollfd, and it outlives the call.
    unsafe { poll(&mut fd, 1, if wait { -1 } else { 0 }) > 0 }
}

fn main() {
    let mut served: Vec<String> = Vec::new();
    // Ports come one by one while the guest boots.
    loop {
        for entry in std::fs::read_dir("/sys/class/virtio-ports").into_iter().flatten().flatten() {
            let Ok(device) = entry.file_name().into_string() else { continue };
            let name = std::fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            if !name.starts_with("kld.") || served.contains(&device) {
                continue;
            }
            if let Ok(file) = File::options().read(true).write(true).open(format!("/dev/{device}")) {
                thread::spawn(move || Port::new(file).serve());
                served.push(device);
            }
        }
        thread::sleep(Duration::from_millis(if served.is_empty() { 20 } else { 2000 }));
    }
}

/// A port's writing half, which the threads of a command share.
struct Port {
    file: File,
    writing: Mutex<()>,
    /// Counts the commands and the hosts: what belongs to an earlier one is no longer sent.
    turn: AtomicU64,
}

/// A command that runs.
struct Job {
    pid: i32,
    stdin: Option<Sender<Vec<u8>>>,
    over: Arc<Mutex<bool>>,
}

impl Job {
    fn end(&self) {
        let over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        if !*over {
            // SAFETY: the process was not waited for yet, so its group still bears its number.
            unsafe { kill(-self.pid, SIGKILL) };
        }
    }
}

impl Port {
    fn new(file: File) -> Arc<Port> {
        Arc::new(Port { file, writing: Mutex::new(()), turn: AtomicU64::new(0) })
    }

    /// Sends a frame, unless its turn is over.
    fn send(&self, turn: u64, kind: u8, payload: &[u8]) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.turn.load(Ordering::SeqCst) == turn {
            let _ = (&self.file).write_all(&wire::encode(kind, payload));
        }
    }

    fn next_turn(&self) -> u64 {
        self.turn.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn serve(self: &Arc<Port>) {
        let mut decoder = wire::Decoder::default();
        let mut job: Option<Job> = None;
        let mut buffer = vec![0; 2 * wire::CHUNK];
        loop {
            match (&self.file).read(&mut buffer) {
                // No host is there, and the kernel has no call that waits for one.
                Ok(0) | Err(_) => {
                    if let Some(job) = job.take() {
                        job.end();
                    }
                    self.next_turn();
                    decoder = wire::Decoder::default();
                    thread::sleep(NO_HOST);
                }
                Ok(count) => {
                    for (kind, payload) in decoder.feed(&buffer[..count]) {
                        self.obey(kind, payload, &mut job);
                    }
                }
            }
        }
    }

    fn obey(self: &Arc<Port>, kind: u8, payload: Vec<u8>, job: &mut Option<Job>) {
        match kind {
            wire::HELLO | wire::RUN => {
                if let Some(job) = job.take() {
                    job.end();
                }
                let turn = self.next_turn();
                if kind == wire::HELLO {
                    return self.send(turn, wire::HELLO, &payload);
                }
                match self.run(turn, &payload) {
                    Ok(started) => *job = Some(started),
                    Err(why) => self.send(turn, wire::REFUSED, why.to_string().as_bytes()),
                }
            }
            wire::STDIN => {
                if let Some(job) = job {
                    if payload.is_empty() {
                        job.stdin = None;
                    } else if let Some(stdin) = &job.stdin {
                        let _ = stdin.send(payload);
                    }
                }
            }
            _ => {}
        }
    }

    fn run(self: &Arc<Port>, turn: u64, arguments: &[u8]) -> std::io::Result<Job> {
        let arguments = arguments.strip_suffix(&[0]).unwrap_or(arguments);
        let mut arguments =
            arguments.split(|byte| *byte == 0).map(|it| std::ffi::OsString::from_vec(it.to_vec()));
        let mut child = Command::new(arguments.next().unwrap_or_default())
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .envs([("HOME", "/root"), ("TERM", "dumb"), ("LC_ALL", "C.UTF-8"), ("USER", "root")])
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (stdin, bytes) = mpsc::channel();
        let input = child.stdin.take();
        let port = self.clone();
        thread::spawn(move || port.feed(turn, input, &bytes));
        let outputs = [
            (wire::STDOUT, child.stdout.take().map(|pipe| File::from(std::os::fd::OwnedFd::from(pipe)))),
            (wire::STDERR, child.stderr.take().map(|pipe| File::from(std::os::fd::OwnedFd::from(pipe)))),
        ];
        let outputs = outputs.into_iter().filter_map(|(kind, pipe)| {
            let output = Arc::new(Output { kind, pipe: pipe?, busy: Mutex::new(false) });
            let (port, hand) = (self.clone(), output.clone());
            thread::spawn(move || hand.pump(&port, turn));
            Some(output)
        });
        let outputs: Vec<_> = outputs.collect();
        let job = Job { pid: child.id() as i32, stdin: Some(stdin), over: Arc::default() };
        let (port, over) = (self.clone(), job.over.clone());
        thread::spawn(move || port.report(turn, child, &outputs, &over));
        Ok(job)
    }

    /// Hands the host's bytes to the command, and says what it took: the host sends no more than the window.
    fn feed(&self, turn: u64, mut input: Option<ChildStdin>, bytes: &Receiver<Vec<u8>>) {
        for chunk in bytes {
            // A command that has closed its input takes all and reads none.
            if input.as_mut().is_some_and(|input| input.write_all(&chunk).is_err()) {
                input = None;
            }
            self.send(turn, wire::TAKEN, &(chunk.len() as u32).to_le_bytes());
        }
    }

    /// Waits for the command's end, and for what it has written until then.
    fn report(&self, turn: u64, mut child: Child, outputs: &[Arc<Output>], over: &Mutex<bool>) {
        await_end(&child);
        let status = {
            let mut over = over.lock().unwrap_or_else(PoisonError::into_inner);
            *over = true;
            child.wait()
        };
        for output in outputs {
            output.drained();
        }
        let code =
            status.map_or(255, |status| status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)));
        self.send(turn, wire::EXIT, &code.to_le_bytes());
        // What daemons that it left behind write goes nowhere.
        let _ = self.turn.compare_exchange(turn, turn + 1, Ordering::SeqCst, Ordering::SeqCst);
    }
}

/// A command's standard output or error.
struct Output {
    kind: u8,
    pipe: File,
    /// Held from before a read until what was read is sent; true at the end.
    busy: Mutex<bool>,
}

impl Output {
    fn pump(&self, port: &Port, turn: u64) {
        let mut buffer = vec![0; wire::CHUNK];
        loop {
            readable(&self.pipe, true);
            let mut ended = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
            match (&self.pipe).read(&mut buffer) {
                Ok(0) | Err(_) => {
                    *ended = true;
                    return;
                }
                Ok(count) => port.send(turn, self.kind, &buffer[..count]),
            }
        }
    }

    /// Waits until nothing is left in the pipe. Its end may be far: a daemon may hold it.
    fn drained(&self) {
        loop {
            let ended = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
            if *ended || !readable(&self.pipe, false) {
                return;
            }
            drop(ended);
            thread::sleep(Duration::from_millis(1));
        }
    }
}
