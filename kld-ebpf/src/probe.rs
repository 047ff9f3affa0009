//! What is asked of the kernel: a program, where it hangs, what must be looked up for it, and what it tells.
//!
//! The probes of kld's tools are here. Bring your own by implementing [`Probe`] for a type of yours: the loader is
//! the same.

mod block;
mod capable;
mod count;
mod drop;
mod exec;
mod exit;
mod files;
mod flow;
mod function;
mod guest;
mod irq;
mod kill;
mod mount;
mod oom;
mod open;
mod reclaim;
mod retransmit;
mod rtt;
mod sched;
mod slab;
mod socket;
mod stack;
mod stat;
mod syscall;
mod tcp;
mod thread;
mod traffic;
mod user;
mod vfs;
mod zfs;

pub use block::{BioLatency, BioPattern, BioSnoop, BioTop, BiteSize, PASSED_ON, only_disk};
pub use capable::Capable;
pub use count::SysCount;
pub use drop::{DropReasons, TcpDrop};
pub use exec::Exec;
pub use exit::{Ended, Exit};
pub use files::{FILE, FileSlower, FileTop};
pub use flow::{Flow, Gate, Protocol};
pub use function::FUNCTION;
pub use guest::KvmExit;
pub use irq::{HardIrqDist, HardIrqs, SoftIrqDist, SoftIrqs, hard_name, soft_name};
pub use kill::Kill;
pub use mount::{Mount, MountCall};
pub use oom::{OomKill, Victim};
pub use open::Open;
pub use reclaim::Reclaim;
pub use retransmit::TcpRetransmit;
pub use rtt::TcpRtt;
pub use sched::{CpuDist, RunqLat, RunqLen, RunqSlower, TASKS};
pub use slab::SlabRate;
pub use socket::{Bind, CALLED_ON, DESCRIPTOR, Listen, OWNED, TcpAccept};
pub use stack::{LockWait, OffCpu, Profile, Stacked, WakeupTime, times};
pub use stat::Stat;
pub use syscall::{PARENTS, REGISTERS};
pub use tcp::{SOCKET, TcpConnect, TcpLatency, TcpLife, TcpState};
pub use thread::Thread;
pub use traffic::TcpTop;
pub use user::{HostLookup, LineRead};
pub use vfs::{CacheStat, VfsStat};
pub use zfs::{ZfsDist, ZfsSlower};

/// A program and the events that it sends.
pub trait Probe {
    /// What it tells.
    type Event;
    /// Its name, in a word.
    const NAME: &'static str;
    /// The compiled program, an ELF object.
    const OBJECT: &'static [u8];
    /// Where its functions hang.
    const HOOKS: &'static [Hook];
    /// The numbers that it must know of the running kernel, in any number of lists. Those that its object has no
    /// variable for are passed over.
    const KNOWN: &'static [&'static [Known]];
    /// How many bytes of events wait for a reader who is late, a power of two; what comes beyond is counted as lost.
    const ROOM: u32 = 2 << 20;

    /// The kernel's modules that it is about: they describe types of their own, and may not be loaded.
    const MODULES: &'static [&'static str] = &[];

    /// Switches that are always on.
    const SWITCHES: u32 = 0;

    /// An event out of its bytes; `None` where they are none.
    fn decode(bytes: &[u8]) -> Option<Self::Event>;
}

/// Where a function hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// On a tracepoint, as in `/sys/kernel/tracing/events`, with its bare arguments.
    Tracepoint(&'static str),
    /// On the root of the control groups of the second version, so on every process's doings. It needs CAP_NET_ADMIN.
    Cgroup(Cgroup),
    /// On the clock of each processor, [so many times a second](crate::Filter::frequency).
    Sample,
    /// At the beginning of one of the kernel's functions, or of a module's (kprobe).
    Entry(&'static str),
    /// At its end (kretprobe).
    Return(&'static str),
    /// At the beginning of a function of each of the files that the [filter](crate::Filter::files) names and that has it
    /// (uprobe).
    UserEntry(&'static str),
    /// At its end (uretprobe).
    UserReturn(&'static str),
}

impl std::fmt::Display for Point {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Point::Tracepoint(name) => f.write_str(name),
            Point::Cgroup(what) => write!(f, "the control groups' {}", what.name()),
            Point::Sample => f.write_str("the processors' clocks"),
            Point::Entry(name) | Point::UserEntry(name) => write!(f, "{name}()"),
            Point::Return(name) | Point::UserReturn(name) => write!(f, "the end of {name}()"),
        }
    }
}

/// What control groups let programs look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cgroup {
    /// Packets that leave, of sockets, at the end of their way through IP.
    Egress,
    /// connect(2) of an IPv4 socket.
    Connect4,
    /// connect(2) of an IPv6 socket.
    Connect6,
    /// sendto(2) and sendmsg(2) of an unconnected IPv4 UDP socket.
    Sendmsg4,
    /// sendto(2) and sendmsg(2) of an unconnected IPv6 UDP socket.
    Sendmsg6,
}

impl Cgroup {
    /// Its name in the sections of objects.
    pub const fn name(self) -> &'static str {
        match self {
            Cgroup::Egress => "egress",
            Cgroup::Connect4 => "connect4",
            Cgroup::Connect6 => "connect6",
            Cgroup::Sendmsg4 => "sendmsg4",
            Cgroup::Sendmsg6 => "sendmsg6",
        }
    }
}

/// A function of a program and where it hangs.
#[derive(Debug, Clone, Copy)]
pub struct Hook {
    /// The function.
    pub function: &'static str,
    /// Where it hangs.
    pub point: Point,
    /// Only where the tracepoint hands over so many arguments: it has changed between kernels.
    pub arguments: Option<usize>,
    /// Only where one of these switches is on; 0: always.
    pub when: u32,
    /// Only where the kernel lacks this point, which tells more or costs less.
    pub replaced_by: Option<Point>,
    /// Only where the kernel has this other point too.
    pub beside: Option<Point>,
    /// Whether the probe can do without.
    pub optional: bool,
    /// The first kernel that has it, to be told where it is absent.
    pub since: &'static str,
}

impl Hook {
    /// A tracepoint that every kernel with ring buffers (5.8) has.
    pub const fn new(function: &'static str, tracepoint: &'static str) -> Hook {
        Hook::at(function, Point::Tracepoint(tracepoint), "5.8")
    }

    /// The root of the control groups.
    pub const fn cgroup(function: &'static str, what: Cgroup) -> Hook {
        Hook::at(function, Point::Cgroup(what), "5.7")
    }

    /// The clock of each processor.
    pub const fn sample(function: &'static str) -> Hook {
        Hook::at(function, Point::Sample, "4.9")
    }

    /// The beginning of one of the kernel's functions.
    pub const fn entry(function: &'static str, name: &'static str) -> Hook {
        Hook::at(function, Point::Entry(name), "4.17")
    }

    /// The end of one of the kernel's functions.
    pub const fn end(function: &'static str, name: &'static str) -> Hook {
        Hook::at(function, Point::Return(name), "4.17")
    }

    /// The beginning of a function of the files that are named.
    pub const fn user_entry(function: &'static str, name: &'static str) -> Hook {
        Hook::at(function, Point::UserEntry(name), "4.17")
    }

    /// The end of a function of the files that are named.
    pub const fn user_end(function: &'static str, name: &'static str) -> Hook {
        Hook::at(function, Point::UserReturn(name), "4.17")
    }

    const fn at(function: &'static str, point: Point, since: &'static str) -> Hook {
        Hook {
            function,
            point,
            arguments: None,
            when: 0,
            replaced_by: None,
            beside: None,
            optional: false,
            since,
        }
    }

    /// For kernels where the tracepoint has so many arguments. Of several such hooks one is enough.
    pub const fn with_arguments(mut self, count: usize) -> Hook {
        self.arguments = Some(count);
        self
    }

    /// Only where one of these switches is on.
    pub const fn when(mut self, switches: u32) -> Hook {
        self.when = switches;
        self
    }

    /// Only where the kernel lacks this other tracepoint, which tells more or costs less.
    pub const fn replaced_by(mut self, better: &'static str) -> Hook {
        self.replaced_by = Some(Point::Tracepoint(better));
        self
    }

    /// Only where the kernel has no probes on its functions.
    pub const fn instead_of_functions(mut self) -> Hook {
        // Whether it has a function is found when a program is hung there.
        self.replaced_by = Some(Point::Entry(""));
        self
    }

    /// Only where the kernel has this other tracepoint too.
    pub const fn beside(mut self, other: &'static str) -> Hook {
        self.beside = Some(Point::Tracepoint(other));
        self
    }

    /// Only where the kernel has it.
    pub const fn optional(mut self) -> Hook {
        self.optional = true;
        self
    }

    /// The first kernel that has it.
    pub const fn since(mut self, version: &'static str) -> Hook {
        self.since = version;
        self
    }
}

/// A number that is looked up in the running kernel and written into the program's variable of this name.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// The program's variable.
    pub variable: &'static str,
    /// What it stands for.
    pub value: Value,
}

/// What a program must know.
#[derive(Debug, Clone, Copy)]
pub enum Value {
    /// The offset of the first of these fields that the kernel has; it must have one.
    Field(&'static [&'static str]),
    /// The same, but the program can do without.
    Optional(&'static [&'static str]),
    /// The place, counted in bits, of the first of these [bits](crate::Btf::bit) that the kernel has; the program can
    /// do without.
    Bit(&'static [&'static str]),
    /// 1 where the kernel has this tracepoint.
    Tracepoint(&'static str),
    /// A number that this program's compiler knows, such as a system call's; `None` where the processor has none.
    Number(Option<i64>),
}

impl Known {
    /// A field's offset.
    pub const fn field(variable: &'static str, names: &'static [&'static str]) -> Known {
        Known { variable, value: Value::Field(names) }
    }

    /// The offset of a field that may be absent.
    pub const fn optional(variable: &'static str, names: &'static [&'static str]) -> Known {
        Known { variable, value: Value::Optional(names) }
    }

    /// The place of a bit that may be absent.
    pub const fn bit(variable: &'static str, names: &'static [&'static str]) -> Known {
        Known { variable, value: Value::Bit(names) }
    }

    /// Whether the kernel has a tracepoint.
    pub const fn tracepoint(variable: &'static str, name: &'static str) -> Known {
        Known { variable, value: Value::Tracepoint(name) }
    }

    /// A system call that every processor has.
    pub const fn call(variable: &'static str, number: i64) -> Known {
        Known { variable, value: Value::Number(Some(number)) }
    }

    /// A system call that older processors have, and newer ones have not.
    pub const fn old_call(variable: &'static str, number: Option<i64>) -> Known {
        Known { variable, value: Value::Number(number) }
    }
}
