//! Reads and writes, by file.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use kld_ebpf_events::io::{self, ALL, Accesses, Of};
use kld_ebpf_events::{Plain, Task};

use super::{DESCRIPTOR, Hook, Known, Probe, REGISTERS};
use crate::table::Summary;

const OBJECT: &[u8] = include_bytes!("../../objects/files.o");
const KNOWN: &[&[Known]] = &[REGISTERS, DESCRIPTOR, CALLS, FILE];
const CALLS: &[Known] = &[
    Known::call("SYS_READ", libc::SYS_read),
    Known::call("SYS_PREAD", libc::SYS_pread64),
    Known::call("SYS_READV", libc::SYS_readv),
    Known::call("SYS_PREADV", libc::SYS_preadv),
    Known::call("SYS_PREADV2", libc::SYS_preadv2),
    Known::call("SYS_WRITE", libc::SYS_write),
    Known::call("SYS_PWRITE", libc::SYS_pwrite64),
    Known::call("SYS_WRITEV", libc::SYS_writev),
    Known::call("SYS_PWRITEV", libc::SYS_pwritev),
    Known::call("SYS_PWRITEV2", libc::SYS_pwritev2),
    Known::field("TASK_PID", &["task_struct.pid"]),
];

/// What a program must know to tell which file it is.
pub const FILE: &[Known] = &[
    Known::field("FILE_INODE", &["file.f_inode"]),
    Known::field("FILE_ENTRY", &["file.f_path.dentry"]),
    Known::field("ENTRY_NAME", &["dentry.d_name.name"]),
    Known::field("INODE_MODE", &["inode.i_mode"]),
    Known::field("INODE_NUMBER", &["inode.i_ino"]),
    Known::field("INODE_SYSTEM", &["inode.i_sb"]),
    Known::field("SYSTEM_DEVICE", &["super_block.s_dev"]),
];

/// How often and how much each thread reads and writes of each file.
#[derive(Debug, Clone, Copy)]
pub struct FileTop;

impl FileTop {
    /// The switch for files of every kind, where else only regular ones are looked at, in
    /// [`Filter::switches`](crate::Filter).
    pub const ALL: u32 = ALL;
}

impl Summary for FileTop {
    type Key = Of;
    type Value = Accesses;
    const NAME: &'static str = "filetop";
    const OBJECT: &'static [u8] = OBJECT;
    const HOOKS: &'static [Hook] = &[Hook::new("counted", "sys_exit")];
    const KNOWN: &'static [&'static [Known]] = KNOWN;
    const KEYS: u32 = 16384;
}

/// A read or a write that took long has ended.
#[derive(Debug, Clone)]
pub struct FileSlower {
    /// Who, and when it ended.
    pub task: Task,
    /// How long it took.
    pub taken: Duration,
    /// Whether it writes.
    pub writes: bool,
    /// How many bytes, or the error's number.
    pub result: Result<u64, i32>,
    /// The file's number within its file system.
    pub inode: u64,
    /// The number of the file system, as the kernel has it: the major one shifted by 20 bits, and the minor one.
    pub device: u32,
    /// What the file is: `S_IFMT` of its mode (inode(7)).
    pub kind: u32,
    /// The file's name, without its folder's.
    pub name: OsString,
}

impl FileSlower {
    /// The switch for files of every kind, where else only regular ones are looked at, in
    /// [`Filter::switches`](crate::Filter).
    pub const ALL: u32 = ALL;
    /// How many microseconds a read or write takes at least that is told, in [`Filter::numbers`](crate::Filter). It must
    /// be given.
    pub const SHORTEST: &'static str = "SHORTEST";
}

impl Probe for FileSlower {
    type Event = FileSlower;
    const NAME: &'static str = "fileslower";
    const OBJECT: &'static [u8] = OBJECT;
    const HOOKS: &'static [Hook] = &[
        Hook::new("begun", "sys_enter"),
        Hook::new("told", "sys_exit"),
        Hook::new("gone", "sched_process_free"),
    ];
    const KNOWN: &'static [&'static [Known]] = KNOWN;

    fn decode(bytes: &[u8]) -> Option<FileSlower> {
        let (head, name) = io::Io::split(bytes)?;
        let error = |_| i32::try_from(-head.result).unwrap_or(i32::MAX);
        Some(FileSlower {
            task: head.task,
            taken: Duration::from_nanos(head.taken),
            writes: head.writes != 0,
            result: u64::try_from(head.result).map_err(error),
            inode: head.inode,
            device: head.device,
            kind: head.kind,
            name: OsString::from_vec(name.to_vec()),
        })
    }
}
