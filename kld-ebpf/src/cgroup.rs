//! The root of the control groups of the second version, on which programs are hung.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use libc::{c_long, syscall};

use crate::names;

/// The root's folder: where it is mounted or, where it is not, by a mount that nobody else sees and that ends with the
/// descriptor (fsmount(2); it needs CAP_SYS_ADMIN).
pub fn root() -> io::Result<OwnedFd> {
    match names::cgroup_root() {
        Some(folder) => File::open(folder).map(OwnedFd::from),
        None => private(),
    }
}

fn private() -> io::Result<OwnedFd> {
    /// linux/mount.h: FSOPEN_CLOEXEC and FSMOUNT_CLOEXEC.
    const CLOEXEC: u32 = 1;
    /// FSCONFIG_CMD_CREATE.
    const CREATE: u32 = 6;
    const TYPE: &CStr = c"cgroup2";
    let nothing = std::ptr::null::<u8>();
    // SAFETY: the name is a string that ends, and each call gets what its manual page asks for.
    unsafe {
        let context = descriptor(syscall(libc::SYS_fsopen, TYPE.as_ptr(), CLOEXEC))?;
        let fd = context.as_raw_fd();
        if syscall(libc::SYS_fsconfig, fd, CREATE, nothing, nothing, 0) < 0 {
            return Err(io::Error::last_os_error());
        }
        descriptor(syscall(libc::SYS_fsmount, fd, CLOEXEC, 0))
    }
}

/// SAFETY (of the callers): what is no error is a new descriptor.
unsafe fn descriptor(outcome: c_long) -> io::Result<OwnedFd> {
    match i32::try_from(outcome) {
        // SAFETY: the caller says so.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privilege;

    #[test]
    fn where_nothing_is_mounted_the_same_root_is_reached() {
        if privilege::check().is_err() {
            return;
        }
        let own = private().unwrap();
        let folder = std::path::PathBuf::from(format!("/proc/self/fd/{}", own.as_raw_fd()));
        assert!(folder.join("cgroup.procs").is_file());
        if let Some(mounted) = names::cgroup_root() {
            use std::os::unix::fs::MetadataExt;
            let number = |path| std::fs::metadata(path).unwrap().ino();
            assert_eq!(number(folder), number(mounted));
        }
    }
}
