//! Files that are asked about.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use kld_ebpf_events::{Plain, Task, file};

use super::syscall::old;
use super::{Hook, Known, Probe, REGISTERS};

/// A stat(2), or one of its relatives, has ended.
#[derive(Debug, Clone)]
pub struct Stat {
    /// Who.
    pub task: Task,
    /// The system call, such as `statx`.
    pub call: &'static str,
    /// The path, as the program gave it; empty where it asks about a descriptor.
    pub path: OsString,
    /// The error's number, where it has failed.
    pub result: Result<(), i32>,
}

impl Stat {
    /// The switch for failures only, in [`Filter::switches`](crate::Filter).
    pub const FAILED: u32 = 1;
}

/// The calls by their numbers in [`file::Stat::call`].
const CALLS: [&str; 5] = ["statfs", "stat", "lstat", "newfstatat", "statx"];

impl Probe for Stat {
    type Event = Stat;
    const NAME: &'static str = "statsnoop";
    const OBJECT: &'static [u8] = include_bytes!("../../objects/statsnoop.o");
    const HOOKS: &'static [Hook] = &[Hook::new("ended", "sys_exit")];
    const KNOWN: &'static [&'static [Known]] = &[
        REGISTERS,
        &[
            Known::call("SYS_STATFS", libc::SYS_statfs),
            Known::old_call("SYS_STAT", old::STAT),
            Known::old_call("SYS_LSTAT", old::LSTAT),
            Known::call("SYS_NEWFSTATAT", libc::SYS_newfstatat),
            Known::call("SYS_STATX", libc::SYS_statx),
        ],
    ];

    fn decode(bytes: &[u8]) -> Option<Stat> {
        let (head, path) = file::Stat::split(bytes)?;
        Some(Stat {
            task: head.task,
            call: CALLS.get(head.call as usize)?,
            path: OsString::from_vec(path.to_vec()),
            result: if head.result < 0 { Err(-head.result) } else { Ok(()) },
        })
    }
}
