//! Requests to block devices: each, how long they take, how large they are, whose, and in which order.

use std::time::Duration;

use kld_core::{Error, Result};
use kld_ebpf_events::block::{self, DISK, Kind, Of};
use kld_ebpf_events::histogram::Histogram;
use kld_ebpf_events::table::Total;
use kld_ebpf_events::{Plain, Task};

use super::{Hook, Known, Probe};
use crate::table::Summary;

const OBJECT: &[u8] = include_bytes!("../../objects/block.o");

const HOOKS: &[Hook] = &[
    Hook::new("made", "block_io_start").optional(),
    Hook::new("queued", "block_rq_insert").with_arguments(1).replaced_by("block_io_start"),
    Hook::new("queued_in", "block_rq_insert").with_arguments(2).replaced_by("block_io_start"),
    Hook::new("issued", "block_rq_issue").with_arguments(1),
    Hook::new("issued_from", "block_rq_issue").with_arguments(2),
    Hook::new("ended", "block_rq_complete"),
    Hook::new("handed", "block_bio_queue").with_arguments(1).when(block::PASSED_ON),
    Hook::new("handed_to", "block_bio_queue").with_arguments(2).when(block::PASSED_ON),
    Hook::new("finished", "block_bio_complete").when(block::PASSED_ON),
];

/// The switch, in [`Filter::switches`](crate::Filter) of [`BioSnoop`], [`BioLatency`] and [`BioTop`], for disks that pass
/// on what they get, as ZFS volumes, RAID and the device mapper do, besides those that take requests. What is handed to
/// them counts as a request that the device gets when it is made.
pub const PASSED_ON: u32 = block::PASSED_ON;

const REQUEST: &[Known] = &[
    Known::field("REQUEST_SECTOR", &["request.__sector"]),
    Known::field("REQUEST_LENGTH", &["request.__data_len"]),
    Known::field("REQUEST_FLAGS", &["request.cmd_flags"]),
    Known::field("REQUEST_QUEUE", &["request.q"]),
    Known::optional("QUEUE_DISK", &["request_queue.disk"]),
    Known::optional("REQUEST_DISK", &["request.rq_disk"]),
    Known::field("DISK_NAME", &["gendisk.disk_name"]),
    Known::field("DISK_MAJOR", &["gendisk.major"]),
    Known::field("DISK_MINOR", &["gendisk.first_minor"]),
    Known::tracepoint("IO_START", "block_io_start"),
    Known::field("DISK_CALLS", &["gendisk.fops"]),
    Known::optional("CALLS_SUBMIT", &["block_device_operations.submit_bio"]),
    Known::field("BIO_SECTOR", &["bio.bi_iter.bi_sector"]),
    Known::field("BIO_BYTES", &["bio.bi_iter.bi_size"]),
    Known::field("BIO_FLAGS", &["bio.bi_opf"]),
    Known::optional("BIO_DEVICE", &["bio.bi_bdev"]),
    Known::field("DEVICE_DISK", &["block_device.bd_disk"]),
    Known::optional("BIO_DISK", &["bio.bi_disk"]),
];

/// So many disks, kinds of requests or names have their distributions in an interval.
const MOST: u32 = 256;
/// So many totals there are in an interval.
const TOTALS: u32 = 8192;

/// A filter's number for the requests of one disk only, by its name, such as `sda`; a partition is no disk.
pub fn only_disk(name: &str) -> Result<(&'static str, u32)> {
    let none = || {
        Error::usage(format!("there is no disk '{}'", name.escape_debug()))
            .with_hint("the disks are in /sys/block; a partition is not one")
    };
    if name.is_empty() || name.starts_with('.') || name.contains('/') {
        return Err(none());
    }
    // The kernel writes a '/' of a disk's name as '!'.
    let path = format!("/sys/block/{name}/dev");
    let text = std::fs::read_to_string(path).map_err(|_| none())?;
    device(&text).map(|number| ("ONLY_DISK", number)).ok_or_else(none)
}

/// A disk's number as the kernel has it, out of `major:minor`.
fn device(text: &str) -> Option<u32> {
    let (major, minor) = text.trim().split_once(':')?;
    Some(major.parse::<u32>().ok()? << 20 | minor.parse::<u32>().ok()?)
}

/// A request has ended.
#[derive(Debug, Clone)]
pub struct BioSnoop {
    /// Who made it, and when.
    pub task: Task,
    /// The disk's name, up to its first NUL.
    pub disk: [u8; DISK],
    /// What it does, as in linux/blk_types.h.
    pub flags: u32,
    /// The first sector, of 512 bytes.
    pub sector: u64,
    /// How many bytes.
    pub bytes: u32,
    /// From when it was made to when the device got it.
    pub queued: Duration,
    /// From then to its end.
    pub taken: Duration,
    /// When it ended, by the monotonic clock.
    pub ended: u64,
}

impl Probe for BioSnoop {
    type Event = BioSnoop;
    const NAME: &'static str = "biosnoop";
    const OBJECT: &'static [u8] = OBJECT;
    const HOOKS: &'static [Hook] = HOOKS;
    const KNOWN: &'static [&'static [Known]] = &[REQUEST];

    fn decode(bytes: &[u8]) -> Option<BioSnoop> {
        let (told, _) = block::Block::split(bytes)?;
        Some(BioSnoop {
            task: told.task,
            disk: told.disk,
            flags: told.flags,
            sector: told.sector,
            bytes: told.bytes,
            queued: Duration::from_nanos(told.issued.saturating_sub(told.task.time)),
            taken: Duration::from_nanos(told.ended.saturating_sub(told.issued)),
            ended: told.ended,
        })
    }
}

/// How long requests take, as distributions.
#[derive(Debug, Clone, Copy)]
pub struct BioLatency;

impl BioLatency {
    /// The switch for a distribution for each disk, in [`Filter::switches`](crate::Filter).
    pub const BY_DISK: u32 = block::BY_DISK;
    /// The switch for a distribution for each kind of request.
    pub const BY_FLAGS: u32 = block::BY_FLAGS;
    /// The switch for times that begin when the request is made, not when the device gets it.
    pub const QUEUED: u32 = block::QUEUED;
}

impl Summary for BioLatency {
    type Key = Kind;
    type Value = Histogram;
    const NAME: &'static str = "biolatency";
    const OBJECT: &'static [u8] = OBJECT;
    const HOOKS: &'static [Hook] = HOOKS;
    const KNOWN: &'static [&'static [Known]] = &[REQUEST];
    const SWITCHES: u32 = block::LATENCY;
    const KEYS: u32 = MOST;
    const KEYED: Option<u32> = Some(block::BY_DISK | block::BY_FLAGS);
}

/// How large requests are, in KiB, as a distribution for each name of who made them.
#[derive(Debug, Clone, Copy)]
pub struct BiteSize;

impl Summary for BiteSize {
    type Key = Kind;
    type Value = Histogram;
    const NAME: &'static str = "bitesize";
    const OBJECT: &'static [u8] = OBJECT;
    const HOOKS: &'static [Hook] = HOOKS;
    const KNOWN: &'static [&'static [Known]] = &[REQUEST];
    const SWITCHES: u32 = block::SIZE;
    const KEYS: u32 = MOST;
}

/// Whose requests there are, on which disk, reading or writing; the amount is in bytes.
#[derive(Debug, Clone, Copy)]
pub struct BioTop;

impl Summary for BioTop {
    type Key = Of;
    type Value = Total;
    const NAME: &'static str = "biotop";
    const OBJECT: &'static [u8] = OBJECT;
    const HOOKS: &'static [Hook] = HOOKS;
    const KNOWN: &'static [&'static [Known]] = &[REQUEST];
    const SWITCHES: u32 = block::WHO;
    const TABLE: &'static str = "TOTALS";
    const KEYS: u32 = TOTALS;
}

/// How many requests begin where the last one of their disk ended, and how many do not; the amount is in bytes.
#[derive(Debug, Clone, Copy)]
pub struct BioPattern;

impl Summary for BioPattern {
    type Key = Of;
    type Value = Total;
    const NAME: &'static str = "biopattern";
    const OBJECT: &'static [u8] = OBJECT;
    const HOOKS: &'static [Hook] = HOOKS;
    const KNOWN: &'static [&'static [Known]] = &[REQUEST];
    const SWITCHES: u32 = block::PATTERN;
    const TABLE: &'static str = "TOTALS";
    const KEYS: u32 = TOTALS;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_known_by_its_number() {
        assert_eq!((device("254:3\n"), device("8"), device("a:b")), (Some(254 << 20 | 3), None, None));
        for name in ["", "no-such-disk", "..", "../block/vda"] {
            let error = only_disk(name).unwrap_err();
            assert_eq!(error.to_string(), format!("there is no disk '{name}'"));
        }
    }
}
