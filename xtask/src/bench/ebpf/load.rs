//! Loads of known events, each in a process of its own: `xtask bench-load`, which only the benches call.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use kld_core::error::Trying;
use kld_core::ui::Ui;
use kld_core::{Error, Result};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};

/// What a load does again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Load {
    /// Opens a file and closes it.
    Open,
    /// Runs a program that does nothing, and waits for its end.
    Exec,
    /// Connects over the loopback, is sent one byte, and closes.
    Connect,
    /// Wakes another process on the same processor and is woken by it: two switches.
    Switch,
    /// Reads a block of 4 KiB from a disk, past the page cache.
    Read,
}

/// The name that the load's process has.
const COMM: &std::ffi::CStr = c"kld-load";
/// The file that is opened, and the program that is run.
const OPENED: &str = "opened-by-load";
const RUN: &str = "run-by-load";
const BLOCK: u64 = 4096;
const BLOCKS: u64 = 16384;

/// Do the same thing again and again, for a bench
#[derive(clap::Args)]
pub struct Args {
    #[arg(value_enum)]
    load: Load,
    /// How often; for ever with --pace
    count: u64,
    /// A folder on a disk for the load's own files
    folder: std::path::PathBuf,
    /// The port that is connected to
    port: u16,
    /// How long to wait after each, in milliseconds
    #[arg(long)]
    pace: Option<u64>,
}

/// Runs a load and prints what each of it took, in nanoseconds.
pub fn run(args: &Args) -> Result<()> {
    nix::sys::prctl::set_name(COMM).trying(|| "cannot name this process".to_string())?;
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
        .trying(|| "cannot end with the bench".to_string())?;
    let mut deed = args.load.deed(&args.folder, args.port)?;
    for _ in 0..warming(args.count) {
        deed()?;
    }
    if let Some(pace) = args.pace {
        loop {
            deed()?;
            std::thread::sleep(Duration::from_millis(pace));
        }
    }
    let began = Instant::now();
    for _ in 0..args.count {
        deed()?;
    }
    Ui::default().line(began.elapsed().as_nanos() as f64 / args.count as f64)
}

/// So many come before those that are measured.
fn warming(count: u64) -> u64 {
    count / 50 + 1
}

type Deed = Box<dyn FnMut() -> Result<()>>;

impl Load {
    /// How often a part of the load does it.
    pub fn count(self) -> u64 {
        match self {
            Load::Open => 20_000,
            Load::Exec => 500,
            Load::Connect => 5_000,
            Load::Switch => 10_000,
            Load::Read => 1_000,
        }
    }

    /// How many parts a sample consists of, of which the fastest counts: what takes a few microseconds is easily
    /// disturbed.
    pub const PARTS: u64 = 10;

    /// How many a sample makes in all, with those before it is measured.
    pub fn made(self) -> u64 {
        Self::PARTS * (self.count() + warming(self.count()))
    }

    /// What one of it is called.
    pub fn one(self) -> &'static str {
        match self {
            Load::Open => "an open",
            Load::Exec => "an exec",
            Load::Connect => "a connection",
            Load::Switch => "two switches",
            Load::Read => "a read",
        }
    }

    /// By what a tool's lines of this load are known.
    pub fn mark(self, port: u16) -> String {
        match self {
            Load::Open => OPENED.to_string(),
            Load::Exec => RUN.to_string(),
            Load::Connect => port.to_string(),
            Load::Switch | Load::Read => COMM.to_string_lossy().into_owned(),
        }
    }

    fn deed(self, folder: &Path, port: u16) -> Result<Deed> {
        match self {
            Load::Open => open(&folder.join(OPENED)),
            Load::Exec => exec(&folder.join(RUN)),
            Load::Connect => connect(port),
            Load::Switch => switch(),
            Load::Read => read(&folder.join("blocks")),
        }
    }
}

fn open(path: &Path) -> Result<Deed> {
    // Made under another name, so that it is opened under this one by what is counted only.
    let new = path.with_file_name("new");
    let made = File::create(&new).and_then(|_| std::fs::rename(&new, path));
    made.trying(|| format!("cannot make {}", path.display()))?;
    let path = path.to_path_buf();
    Ok(Box::new(move || File::open(&path).map(drop).trying(|| "cannot open the file".to_string())))
}

#[allow(
    clippy::disallowed_types,
    reason = "what kld_core::exec does beside starting a program would be measured"
)]
fn exec(path: &Path) -> Result<Deed> {
    let what = || format!("cannot make {}", path.display());
    std::fs::copy("/bin/true", path).trying(what)?;
    let mut command = std::process::Command::new(path);
    Ok(Box::new(move || command.status().map(drop).trying(|| "cannot run the program".to_string())))
}

/// The server says a byte, so that never more than one connection waits for it; the client's end is a reset, which
/// leaves no port in use.
fn connect(port: u16) -> Result<Deed> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).trying(|| "cannot listen".to_string())?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b".");
            let _ = stream.read(&mut [0]);
        }
    });
    Ok(Box::new(move || {
        let what = || "cannot connect".to_string();
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).trying(what)?;
        stream.read_exact(&mut [0]).trying(what)?;
        let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(&stream, sockopt::Linger, &at_once).trying(what)
    }))
}

fn switch() -> Result<Deed> {
    let what = || "cannot make two processes".to_string();
    let mut cpu = nix::sched::CpuSet::new();
    cpu.set(0)
        .and_then(|()| nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &cpu))
        .trying(what)?;
    let (mut hear, mut ask) = std::io::pipe().trying(what)?;
    let (mut answer, mut reply) = std::io::pipe().trying(what)?;
    // SAFETY: this process has one thread, and the child makes system calls only.
    if unsafe { nix::unistd::fork() }.trying(what)?.is_child() {
        drop((ask, answer));
        while hear.read_exact(&mut [0]).is_ok() && reply.write_all(b".").is_ok() {}
        // SAFETY: nothing of the parent's is to be flushed or dropped.
        unsafe { libc::_exit(0) }
    }
    drop((hear, reply));
    Ok(Box::new(move || {
        ask.write_all(b".").and_then(|()| answer.read_exact(&mut [0])).trying(|| "nobody answers".to_string())
    }))
}

fn read(path: &Path) -> Result<Deed> {
    let what = || format!("cannot write {}", path.display());
    if path.metadata().map_or(0, |meta| meta.len()) != BLOCK * BLOCKS {
        std::fs::write(path, vec![0x6b; (BLOCK * BLOCKS) as usize]).trying(what)?;
        File::open(path).and_then(|file| file.sync_all()).trying(what)?;
    }
    let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).trying(what)?;
    // Direct reads want a buffer at the start of a page.
    let mut buffer = vec![0_u8; 2 * BLOCK as usize];
    let start = buffer.as_ptr().align_offset(BLOCK as usize);
    let mut place: u64 = 1;
    Ok(Box::new(move || {
        place = place.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let page = &mut buffer[start..start + BLOCK as usize];
        match file.read_at(page, (place >> 33) % BLOCKS * BLOCK) {
            Ok(length) if length == BLOCK as usize => Ok(()),
            Ok(_) => Err(Error::message("a read was short")),
            Err(cause) => Err(Error::failed("cannot read past the page cache", cause)),
        }
    }))
}
