//! Generators of known events, and whether this host lets them be traced.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use kld_ebpf::events::Counts;
use kld_ebpf::{Filter, Probe, Summary, Table, Tracer, privilege};
use nix::sys::wait::{Id, WaitPidFlag, waitid, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

/// Says why nothing can be traced here, and whether that is so: without root there is nothing to test. As root
/// tracing must work. The generators are told by their numbers.
pub fn cannot_trace() -> bool {
    let able = privilege::check().and_then(|()| privilege::check_pid_namespace());
    if let Err(error) = &able {
        eprintln!("not tested: {error}");
    }
    able.is_err()
}

/// A process of ours that waits for a word, does something, and ends.
pub struct Generator {
    pub pid: u32,
    word: UnixStream,
    held: Option<UnixStream>,
}

impl Generator {
    /// `deed` runs in a forked child: system calls only, no allocation.
    pub fn new(deed: impl FnOnce()) -> Generator {
        Self::with(-1, deed)
    }

    /// The same, with a descriptor of the test's own. It has no others: else it would be the last to close the sockets
    /// of tests that run beside this one.
    pub fn with(own: i32, deed: impl FnOnce()) -> Generator {
        Self::keeping(&[own], deed)
    }

    /// The same, with several descriptors of the test's own.
    pub fn keeping(own: &[i32], deed: impl FnOnce()) -> Generator {
        let (word, mut heard) = UnixStream::pair().unwrap();
        // SAFETY: the child makes system calls only, and ends without returning.
        match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => Generator { pid: child.as_raw() as u32, word, held: None },
            ForkResult::Child => {
                // A test that fails leaves no child behind.
                let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
                let _ = nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0));
                close_all_but(own, heard.as_raw_fd());
                if heard.read_exact(&mut [0]).is_ok() {
                    deed();
                }
                // SAFETY: nothing of the parent's is to be flushed or dropped.
                unsafe { libc::_exit(0) }
            }
        }
    }

    /// The same, of a process that waits again when it has done it, so that it can be looked at with all that it has
    /// mapped: see [`go_and_hold`](Self::go_and_hold).
    pub fn held(deed: impl FnOnce()) -> Generator {
        let (own, mut other) = UnixStream::pair().unwrap();
        let descriptor = other.as_raw_fd();
        let generator = Generator::with(descriptor, move || {
            deed();
            let _ = other.write_all(b".");
            let _ = other.read(&mut [0]);
        });
        Generator { held: Some(own), ..generator }
    }

    /// Gives the word, waits until all is done, and looks at the process, which lives on until then.
    pub fn go_and_hold<T>(mut self, look: impl FnOnce(u32) -> T) -> T {
        self.word.write_all(b"!").unwrap();
        let mut held = self.held.take().unwrap();
        held.read_exact(&mut [0]).unwrap();
        let seen = look(self.pid);
        drop(held);
        waitpid(Pid::from_raw(self.pid as i32), None).unwrap();
        seen
    }

    /// Gives the word, and waits until all is done.
    pub fn go(self) {
        self.go_and_look(|_| ());
    }

    /// Gives the word, and lets it go on until what is returned is dropped. Then it is killed, with what it has forked.
    pub fn release(mut self) -> Released {
        self.word.write_all(b"!").unwrap();
        Released(Pid::from_raw(self.pid as i32))
    }

    /// The same, with a last look at the process before it is gone.
    pub fn go_and_look<T>(mut self, look: impl FnOnce(u32) -> T) -> T {
        self.word.write_all(b"!").unwrap();
        let pid = Pid::from_raw(self.pid as i32);
        waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).unwrap();
        let seen = look(self.pid);
        waitpid(pid, None).unwrap();
        seen
    }
}

/// A generator that goes on until this is dropped.
pub struct Released(Pid);

impl Drop for Released {
    fn drop(&mut self) {
        // Its group has its number.
        let _ = nix::sys::signal::killpg(self.0, nix::sys::signal::Signal::SIGKILL);
        let _ = waitpid(self.0, None);
    }
}

/// Whether nothing else runs on this host, as in the guests of `cargo xtask kernels`.
pub fn is_alone() -> bool {
    std::env::var_os("KLD_ALONE").is_some()
}

/// How far a duration may be from what the kernel says: the part of it that this is one of. The kernel reads its clock at
/// another moment than the programs, and where instructions are translated a program's run lies between the two.
pub fn part() -> u64 {
    if std::env::var_os("KLD_TRANSLATED").is_some() { 3 } else { 10 }
}

/// Starts a probe, and says so for `cargo xtask kernels`: on a kernel that lacks what it needs, its test fails, and there
/// that is no fault.
pub fn start<P: Probe>(filter: &Filter) -> Tracer<P> {
    println!("probe: {}", P::NAME);
    Tracer::start(filter).unwrap_or_else(|error| lacks(&error))
}

/// The same of a probe that keeps a table.
pub fn start_table<S: Summary>(filter: &Filter) -> Table<S> {
    println!("probe: {}", S::NAME);
    Table::start(filter).unwrap_or_else(|error| lacks(&error))
}

/// Tells why a probe does not start, and fails.
fn lacks(error: &kld_core::Error) -> ! {
    let advice = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
    if error.to_string().contains("this kernel has no ") {
        println!("lacks: {error}{advice}");
    }
    panic!("{error}{advice}")
}

/// Closes every descriptor but these and the three that every process has.
fn close_all_but(own: &[i32], other: i32) {
    // In their order, without a list: nothing is allocated here.
    let next = |after: i32| own.iter().copied().chain([other]).filter(|fd| *fd > after).min();
    let mut after = 2;
    loop {
        let kept = next(after);
        let (first, last) = (after as u32 + 1, kept.map_or(u32::MAX, |kept| kept as u32 - 1));
        if first <= last {
            // SAFETY: nobody in this process uses what is closed.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
        match kept {
            Some(kept) => after = kept,
            None => return,
        }
    }
}

/// Everything that a probe tells of what a generator does, and what it counted.
pub fn trace<P: Probe>(generator: Generator, filter: &Filter) -> (Vec<P::Event>, Counts) {
    let mut tracer = start::<P>(filter);
    generator.go();
    tracer.stopper().stop();
    let events = tracer.by_ref().collect();
    let counts = tracer.counts().unwrap();
    assert_eq!(counts.seen, tracer.events_read() + counts.lost, "what was seen was read, or is told as lost");
    (events, counts)
}

/// A socket's descriptor; system calls only.
pub fn socket(family: i32, kind: i32) -> i32 {
    // SAFETY: the call takes numbers.
    unsafe { libc::socket(family, kind, 0) }
}

/// Sets a socket's option that is a number.
pub fn set(fd: i32, level: i32, option: i32, value: i32) {
    // SAFETY: the value is alive and as long as it says.
    unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), 4) };
}

/// An address as the system calls take it, and its length.
pub fn address_of(address: SocketAddr) -> (libc::sockaddr_in6, u32) {
    // SAFETY: zeros are an address.
    let mut room: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
    match address {
        SocketAddr::V4(v4) => {
            let four = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: the room is longer, and aligned as strictly.
            unsafe { (&raw mut room).cast::<libc::sockaddr_in>().write(four) };
            (room, size_of::<libc::sockaddr_in>() as u32)
        }
        SocketAddr::V6(v6) => {
            room.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            room.sin6_port = v6.port().to_be();
            room.sin6_addr.s6_addr = v6.ip().octets();
            (room, size_of::<libc::sockaddr_in6>() as u32)
        }
    }
}

/// A port that nobody has, of both versions.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap().local_addr().unwrap().port()
}

/// All that a probe counts of what a generator does, and a last look at that. Nothing may be lost.
pub fn tally<S: Summary, T>(
    generator: Generator,
    filter: &Filter,
    look: impl FnOnce(u32) -> T,
) -> (BTreeMap<S::Key, S::Value>, T) {
    let mut table = start_table::<S>(filter);
    let seen = generator.go_and_look(look);
    table.detach();
    let rows = table.take().unwrap();
    assert_eq!(table.counts().unwrap().lost, 0);
    (rows, seen)
}
