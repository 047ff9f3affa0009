//! Files that are opened, or are not.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use kld_ebpf_events::{Plain, Task, process};

use super::syscall::old;
use super::{Hook, Known, Probe, REGISTERS};

/// An open(2), openat(2), openat2(2) or creat(2) that has ended.
#[derive(Debug, Clone)]
pub struct Open {
    /// Who.
    pub task: Task,
    /// The path, as the program gave it.
    pub path: OsString,
    /// The flags, as in open(2).
    pub flags: u64,
    /// The mode, where a file may be made.
    pub mode: u32,
    /// The descriptor, or the error's number.
    pub result: Result<u32, i32>,
}

impl Open {
    /// The switch for failed opens only, in [`Filter::switches`](crate::Filter).
    pub const FAILED: u32 = 1;
}

impl Probe for Open {
    type Event = Open;
    const NAME: &'static str = "opensnoop";
    const OBJECT: &'static [u8] = include_bytes!("../../objects/opensnoop.o");
    const HOOKS: &'static [Hook] = &[Hook::new("ended", "sys_exit")];
    const KNOWN: &'static [&'static [Known]] = &[
        REGISTERS,
        &[
            Known::call("SYS_OPENAT", libc::SYS_openat),
            Known::call("SYS_OPENAT2", libc::SYS_openat2),
            Known::old_call("SYS_OPEN", old::OPEN),
            Known::old_call("SYS_CREAT", old::CREAT),
        ],
    ];

    fn decode(bytes: &[u8]) -> Option<Open> {
        let (head, path) = process::Open::split(bytes)?;
        let makes = head.flags & (libc::O_CREAT as u64) != 0
            || head.flags & libc::O_TMPFILE as u64 == libc::O_TMPFILE as u64;
        Some(Open {
            task: head.task,
            path: OsString::from_vec(path.to_vec()),
            flags: head.flags,
            mode: if makes { head.mode } else { 0 },
            result: u32::try_from(head.result).map_err(|_| -head.result),
        })
    }
}
