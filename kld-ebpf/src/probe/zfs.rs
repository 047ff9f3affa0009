//! What is done with files on ZFS, and how long it takes.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use kld_ebpf_events::histogram::Histogram;
use kld_ebpf_events::zfs::{Did, EACH};
use kld_ebpf_events::{Plain, Task};

use super::{FILE, FUNCTION, Hook, Known, Probe};
use crate::table::Summary;

const OBJECT: &[u8] = include_bytes!("../../objects/zfs.o");
const HOOKS: &[Hook] = &[
    Hook::entry("moves", "zpl_iter_read"),
    Hook::end("has_read", "zpl_iter_read"),
    Hook::entry("moves", "zpl_iter_write"),
    Hook::end("has_written", "zpl_iter_write"),
    Hook::entry("opens", "zpl_open"),
    Hook::end("has_opened", "zpl_open"),
    Hook::entry("syncs", "zpl_fsync"),
    Hook::end("has_synced", "zpl_fsync"),
];
const KNOWN: &[&[Known]] = &[
    FILE,
    FUNCTION,
    &[Known::field("IO_FILE", &["kiocb.ki_filp"]), Known::field("IO_PLACE", &["kiocb.ki_pos"])],
];
const MODULES: &[&str] = &["zfs"];

/// Something that was done with a file on ZFS, and took long, has ended.
#[derive(Debug, Clone)]
pub struct ZfsSlower {
    /// Who, and when it ended.
    pub task: Task,
    /// How long it took.
    pub taken: Duration,
    /// What was done: one of the constants in [`zfs`](kld_ebpf_events::zfs).
    pub operation: u64,
    /// How many bytes, of reads and writes; or the error's number.
    pub result: Result<u64, i32>,
    /// Where in the file it began, of reads and writes.
    pub place: u64,
    /// The file's number within its file system.
    pub inode: u64,
    /// The number of the file system, as the kernel has it: the major one shifted by 20 bits, and the minor one.
    pub device: u32,
    /// The file's name, without its folder's.
    pub name: OsString,
}

impl ZfsSlower {
    /// How many microseconds a deed takes at least that is told, in [`Filter::numbers`](crate::Filter). It must be given.
    pub const SHORTEST: &'static str = "SHORTEST";
}

impl Probe for ZfsSlower {
    type Event = ZfsSlower;
    const NAME: &'static str = "zfsslower";
    const OBJECT: &'static [u8] = OBJECT;
    const HOOKS: &'static [Hook] = HOOKS;
    const KNOWN: &'static [&'static [Known]] = KNOWN;
    const MODULES: &'static [&'static str] = MODULES;
    const SWITCHES: u32 = EACH;

    fn decode(bytes: &[u8]) -> Option<ZfsSlower> {
        let (did, name) = Did::split(bytes)?;
        let error = |_| i32::try_from(-did.result).unwrap_or(i32::MAX);
        Some(ZfsSlower {
            task: did.task,
            taken: Duration::from_nanos(did.taken),
            operation: did.operation.into(),
            result: u64::try_from(did.result).map_err(error),
            place: did.place,
            inode: did.inode,
            device: did.device,
            name: OsString::from_vec(name.to_vec()),
        })
    }
}

/// How long reads, writes, opens and syncs of files on ZFS take, as distributions; the key is one of the constants in
/// [`zfs`](kld_ebpf_events::zfs).
#[derive(Debug, Clone, Copy)]
pub struct ZfsDist;

impl Summary for ZfsDist {
    type Key = u64;
    type Value = Histogram;
    const NAME: &'static str = "zfsdist";
    const OBJECT: &'static [u8] = OBJECT;
    const HOOKS: &'static [Hook] = HOOKS;
    const KNOWN: &'static [&'static [Known]] = KNOWN;
    const MODULES: &'static [&'static str] = MODULES;
    const KEYS: u32 = 4;
}
