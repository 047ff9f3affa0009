//! Generators of known events, and whether this host lets them be traced.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use kld_ebpf::events::Counts;
use kld_ebpf::{Filter, Probe, Tracer, privilege};
use nix::sys::wait::waitpid;
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
}

impl Generator {
    /// `deed` runs in a forked child: system calls only, no allocation.
    pub fn new(deed: impl FnOnce()) -> Generator {
        let (word, mut heard) = UnixStream::pair().unwrap();
        // SAFETY: the child makes system calls only, and ends without returning.
        match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => Generator { pid: child.as_raw() as u32, word },
            ForkResult::Child => {
                // A test that fails leaves no child behind.
                let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
                if heard.read_exact(&mut [0]).is_ok() {
                    deed();
                }
                // SAFETY: nothing of the parent's is to be flushed or dropped.
                unsafe { libc::_exit(0) }
            }
        }
    }

    /// Gives the word, and waits until all is done.
    pub fn go(mut self) {
        self.word.write_all(b"!").unwrap();
        waitpid(Pid::from_raw(self.pid as i32), None).unwrap();
    }
}

/// Starts a probe, and says so for `cargo xtask kernels`: on a kernel that lacks what it needs, its test fails, and there
/// that is no fault.
pub fn start<P: Probe>(filter: &Filter) -> Tracer<P> {
    println!("probe: {}", P::NAME);
    Tracer::start(filter).unwrap_or_else(|error| {
        let advice = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
        if error.to_string().contains("this kernel has no ") {
            println!("lacks: {error}{advice}");
        }
        panic!("{error}{advice}")
    })
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
