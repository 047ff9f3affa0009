//! Hanging a program where it belongs.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::btf::Btf;
use crate::loader::Parts;
use crate::perf::{self, Target};
use crate::probe::Point;
use crate::{cgroup, elf, sample, sys};

/// Whether this kernel has a point to hang programs on. A function of the kernel's is only looked for when a program is
/// hung on it.
pub fn has(point: Point, btf: &Btf) -> bool {
    match point {
        Point::Tracepoint(name) => btf.tracepoint(name).is_some(),
        Point::Cgroup(_) | Point::Sample => true,
        Point::Entry(_) | Point::Return(_) => perf::has("kprobe"),
        Point::UserEntry(_) | Point::UserReturn(_) => perf::has("uprobe"),
    }
}

/// Hangs a program where it belongs, until the links are closed: one for each file of those whose functions it is for, or for each
/// processor's clock, else one.
pub(crate) fn hang(point: Point, program: BorrowedFd<'_>, parts: &Parts) -> io::Result<Vec<OwnedFd>> {
    let one = |link: io::Result<OwnedFd>| link.map(|link| vec![link]);
    match point {
        Point::Tracepoint(name) => one(sys::attach(&CString::new(name)?, program)),
        Point::Cgroup(_) => {
            let root = cgroup::root()?;
            one(sys::attach_to_cgroup(root.as_fd(), program, sys::Kind::of(point)))
        }
        Point::Sample => sample::attach(program, parts.frequency),
        Point::Entry(name) | Point::Return(name) => {
            let at_end = matches!(point, Point::Return(_));
            let target = Target { kind: "kprobe", name: &CString::new(name)?, offset: 0, at_end };
            one(perf::attach(&target, program))
        }
        Point::UserEntry(function) | Point::UserReturn(function) => {
            let at_end = matches!(point, Point::UserReturn(_));
            let in_file = |path: &PathBuf| {
                let Some(offset) = elf::function(path, function)? else { return Ok(None) };
                let name = CString::new(OsStr::as_bytes(path.as_os_str()))?;
                perf::attach(&Target { kind: "uprobe", name: &name, offset, at_end }, program).map(Some)
            };
            let links: io::Result<Vec<_>> =
                parts.files.iter().filter_map(|path| in_file(path).transpose()).collect();
            links.and_then(|links| match links.is_empty() {
                true => Err(io::ErrorKind::NotFound.into()),
                false => Ok(links),
            })
        }
    }
}
