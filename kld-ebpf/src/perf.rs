//! Programs on functions, of the kernel and of programs: probes of perf_event_open(2), which end with their descriptors.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

/// A function to stop at, in the words of perf's two kinds of probe.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Whose functions: `kprobe` for the kernel's, `uprobe` for a file's.
    pub kind: &'static str,
    /// The kernel's function by its name, or a file's path.
    pub name: &'a CStr,
    /// Where in the file the function begins.
    pub offset: u64,
    /// At its end, not at its beginning.
    pub at_end: bool,
}

/// The beginning of `struct perf_event_attr` in linux/perf_event.h (PERF_ATTR_SIZE_VER1).
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup: u32,
    breakpoint: u32,
    name: u64,
    offset: u64,
}

const CLOSE_ON_EXEC: u64 = 8;
// _IO('$', 0) and _IOW('$', 8, __u32)
const ENABLE: u64 = 0x2400;
const SET_BPF: u64 = 0x4004_2408;

/// Where the kernel names the kinds of probe that it has, with the numbers that stand for them.
fn number(kind: &str) -> io::Result<u32> {
    let text = std::fs::read_to_string(format!("/sys/bus/event_source/devices/{kind}/type"))?;
    text.trim().parse().map_err(io::Error::other)
}

/// Whether this kernel has probes of a kind.
pub fn has(kind: &str) -> bool {
    Path::new("/sys/bus/event_source/devices").join(kind).exists()
}

/// Runs a program whenever any processor comes to a function, until the descriptor is closed.
pub fn attach(target: &Target<'_>, program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let attributes = Attributes {
        kind: number(target.kind)?,
        size: size_of::<Attributes>() as u32,
        // The only bit of a probe's configuration: whether it is at the end.
        config: target.at_end.into(),
        name: target.name.as_ptr() as u64,
        offset: target.offset,
        ..Attributes::default()
    };
    // SAFETY: the attributes are those of a probe, and the name is alive.
    let probe = unsafe { open(&attributes, 0) }?;
    run(&probe, program).map(|()| probe)
}

/// Makes an event of everybody's, seen from one processor; it stands still.
///
/// # Safety
/// What is given is a `struct perf_event_attr`, as long as it says, and what it points to is alive.
pub unsafe fn open<A>(attributes: &A, cpu: i32) -> io::Result<OwnedFd> {
    let (everybody, no_group) = (-1, -1);
    // SAFETY: as is promised; a descriptor is made.
    unsafe {
        let fd = libc::syscall(
            libc::SYS_perf_event_open,
            std::ptr::from_ref(attributes),
            everybody,
            cpu,
            no_group,
            CLOSE_ON_EXEC,
        );
        told(fd as i32).map(|fd| OwnedFd::from_raw_fd(fd))
    }
}

/// Runs a program at each occurrence of an event, from now on.
pub fn run(event: &OwnedFd, program: BorrowedFd<'_>) -> io::Result<()> {
    [(SET_BPF, program.as_raw_fd()), (ENABLE, 0)].into_iter().try_for_each(|(command, argument)| {
        // SAFETY: the commands take a descriptor, and nothing.
        told(unsafe { libc::ioctl(event.as_raw_fd(), command, argument) }).map(drop)
    })
}

fn told(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
