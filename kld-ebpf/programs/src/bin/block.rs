//! biosnoop, biolatency, biotop, biopattern and bitesize: requests to block devices, from their beginning to their end.
//!
//! A disk either takes requests, or passes on what it gets (struct bio) without making any, as ZFS volumes do. The kernel
//! tells the end of each in one way only, so that nothing is counted twice for one disk.
#![no_std]
#![no_main]

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::LruHashMap;
use aya_ebpf::programs::RawTracePointContext;
use kld_ebpf_events::Task;
use kld_ebpf_events::block::{
    BY_DISK, BY_FLAGS, Block, DISK, FLUSH, Kind, LATENCY, OPERATION, Of, PATTERN, PREFLUSH, QUEUED, SIZE, WHO, WRITES,
};
use kld_ebpf_events::histogram::Histogram;
use kld_ebpf_events::table::Total;
use kld_ebpf_programs::current::{now, switches, task, wanted};
use kld_ebpf_programs::output::send;
use kld_ebpf_programs::read::{Known, field, known, present};
use kld_ebpf_programs::table::{Table, add_time, add_total, add_value};

#[unsafe(no_mangle)]
static REQUEST_SECTOR: Known = known();
#[unsafe(no_mangle)]
static REQUEST_LENGTH: Known = known();
#[unsafe(no_mangle)]
static REQUEST_FLAGS: Known = known();
#[unsafe(no_mangle)]
static REQUEST_QUEUE: Known = known();
#[unsafe(no_mangle)]
static QUEUE_DISK: Known = known();
/// Kernels before 5.17 have the disk in the request.
#[unsafe(no_mangle)]
static REQUEST_DISK: Known = known();
#[unsafe(no_mangle)]
static DISK_NAME: Known = known();
#[unsafe(no_mangle)]
static DISK_MAJOR: Known = known();
#[unsafe(no_mangle)]
static DISK_MINOR: Known = known();
#[unsafe(no_mangle)]
static DISK_CALLS: Known = known();
/// A disk that passes on has such a function; kernels before 5.9 do not say.
#[unsafe(no_mangle)]
static CALLS_SUBMIT: Known = known();
#[unsafe(no_mangle)]
static BIO_SECTOR: Known = known();
#[unsafe(no_mangle)]
static BIO_BYTES: Known = known();
#[unsafe(no_mangle)]
static BIO_FLAGS: Known = known();
#[unsafe(no_mangle)]
static BIO_DEVICE: Known = known();
#[unsafe(no_mangle)]
static DEVICE_DISK: Known = known();
/// Kernels before 5.12 have the disk in the bio.
#[unsafe(no_mangle)]
static BIO_DISK: Known = known();
/// Whether the kernel has block_io_start, so that a request that is not known by now is not wanted.
#[unsafe(no_mangle)]
static IO_START: Known = known();
/// The number of the only disk whose requests are wanted.
#[unsafe(no_mangle)]
static ONLY_DISK: Known = known();

/// What is remembered of a request, or of what is passed on.
#[derive(Clone, Copy)]
#[repr(C)]
struct Memory {
    task: Task,
    issued: u64,
    sector: u64,
    disk: u64,
    bytes: u32,
    flags: u32,
}

/// What is under way, by its address. One that is merged into another never ends, and is the oldest one day.
#[map]
static REQUESTS: LruHashMap<u64, Memory> = LruHashMap::with_max_entries(16384, 0);

/// Where the last request of each disk ended.
#[map]
static ENDS: LruHashMap<u32, u64> = LruHashMap::with_max_entries(1024, 0);

#[map]
static TABLE: Table<Kind, Histogram> = Table::with_max_entries(1, 0);

#[map]
static TOTALS: Table<Of, Total> = Table::with_max_entries(1, 0);

/// block_io_start(request), since 6.5: who makes the request runs now.
#[raw_tracepoint(tracepoint = "block_io_start")]
pub fn made(ctx: RawTracePointContext) -> i32 {
    make(ctx.arg(0))
}

/// block_rq_insert(request): before that, requests that wait for their turn are first seen here.
#[raw_tracepoint(tracepoint = "block_rq_insert")]
pub fn queued(ctx: RawTracePointContext) -> i32 {
    make(ctx.arg(0))
}

/// block_rq_insert(queue, request), before 5.11.
#[raw_tracepoint(tracepoint = "block_rq_insert")]
pub fn queued_in(ctx: RawTracePointContext) -> i32 {
    make(ctx.arg(1))
}

/// block_rq_issue(request)
#[raw_tracepoint(tracepoint = "block_rq_issue")]
pub fn issued(ctx: RawTracePointContext) -> i32 {
    issue(ctx.arg(0))
}

/// block_rq_issue(queue, request), before 5.11.
#[raw_tracepoint(tracepoint = "block_rq_issue")]
pub fn issued_from(ctx: RawTracePointContext) -> i32 {
    issue(ctx.arg(1))
}

#[inline(always)]
fn make(request: *const u8) -> i32 {
    if wanted() && is_wanted(disk(request)) {
        let memory = Memory { task: task(), issued: 0, sector: 0, disk: 0, bytes: 0, flags: 0 };
        let _ = REQUESTS.insert(&(request as u64), &memory, u64::from(BPF_ANY));
    } else {
        // Its room may have been a wanted one's, that was merged.
        let _ = REQUESTS.remove(&(request as u64));
    }
    0
}

#[inline(always)]
fn is_wanted(disk: *const u8) -> bool {
    !present(&ONLY_DISK) || number(disk) == ONLY_DISK.load()
}

#[inline(always)]
fn issue(request: *const u8) -> i32 {
    let key = request as u64;
    if REQUESTS.get_ptr(&key).is_none() && !present(&IO_START) {
        make(request);
    }
    let Some(memory) = REQUESTS.get_ptr_mut(&key) else { return 0 };
    // SAFETY: a request is issued by one processor at a time.
    unsafe {
        (*memory).issued = now();
        (*memory).sector = field(request, &REQUEST_SECTOR);
        (*memory).bytes = field(request, &REQUEST_LENGTH);
    }
    0
}

/// block_rq_complete(request, error, bytes)
#[raw_tracepoint(tracepoint = "block_rq_complete")]
pub fn ended(ctx: RawTracePointContext) -> i32 {
    let request: *const u8 = ctx.arg(0);
    // Of a part, more is to come.
    if ctx.arg::<u32>(2) < field::<u32>(request, &REQUEST_LENGTH) {
        return 0;
    }
    let key = request as u64;
    // SAFETY: the value is copied at once.
    let Some(memory) = (unsafe { REQUESTS.get(&key) }).copied() else { return 0 };
    let _ = REQUESTS.remove(&key);
    // What is not issued, as an empty flush, is over when it is made.
    let issued = if memory.issued == 0 { memory.task.time } else { memory.issued };
    tell(&Memory { issued, disk: disk(request) as u64, flags: field(request, &REQUEST_FLAGS), ..memory });
    0
}

/// block_bio_queue(bio): who hands something to a disk runs now.
#[raw_tracepoint(tracepoint = "block_bio_queue")]
pub fn handed(ctx: RawTracePointContext) -> i32 {
    hand(ctx.arg(0))
}

/// block_bio_queue(queue, bio), before 5.11.
#[raw_tracepoint(tracepoint = "block_bio_queue")]
pub fn handed_to(ctx: RawTracePointContext) -> i32 {
    hand(ctx.arg(1))
}

#[inline(always)]
fn hand(bio: *const u8) -> i32 {
    let disk = disk_of_bio(bio);
    if passes_on(disk) && wanted() && is_wanted(disk) {
        let (task, bytes, flags) = (task(), field(bio, &BIO_BYTES), field::<u32>(bio, &BIO_FLAGS));
        // A write of nothing that flushes what was written before: as a request it is a flush.
        let flags = if bytes == 0 && flags & PREFLUSH != 0 { flags & !OPERATION | FLUSH } else { flags };
        let sector = field(bio, &BIO_SECTOR);
        let memory = Memory { issued: task.time, task, sector, disk: disk as u64, bytes, flags };
        let _ = REQUESTS.insert(&(bio as u64), &memory, u64::from(BPF_ANY));
    } else {
        let _ = REQUESTS.remove(&(bio as u64));
    }
    0
}

/// block_bio_complete(queue, bio): not of those that have become requests.
#[raw_tracepoint(tracepoint = "block_bio_complete")]
pub fn finished(ctx: RawTracePointContext) -> i32 {
    let bio: *const u8 = ctx.arg(1);
    let key = bio as u64;
    // SAFETY: the value is copied at once.
    let Some(memory) = (unsafe { REQUESTS.get(&key) }).copied() else { return 0 };
    let _ = REQUESTS.remove(&key);
    // One that its disk has given to another one as it is may have ended unseen: then this is not it.
    if memory.disk == disk_of_bio(bio) as u64 {
        tell(&memory);
    }
    0
}

#[inline(always)]
fn passes_on(disk: *const u8) -> bool {
    !present(&CALLS_SUBMIT) || field::<u64>(field(disk, &DISK_CALLS), &CALLS_SUBMIT) != 0
}

#[inline(always)]
fn disk_of_bio(bio: *const u8) -> *const u8 {
    if present(&BIO_DISK) { field(bio, &BIO_DISK) } else { field(field(bio, &BIO_DEVICE), &DEVICE_DISK) }
}

#[inline(always)]
fn tell(memory: &Memory) {
    let (ended, disk, flags) = (now(), memory.disk as *const u8, memory.flags);
    let switches = switches();
    let taken = ended.saturating_sub(memory.issued);
    if switches & LATENCY != 0 {
        let name = if switches & BY_DISK != 0 { field(disk, &DISK_NAME) } else { [0; DISK] };
        let flags = if switches & BY_FLAGS != 0 { flags.into() } else { 0 };
        let queued = ended.saturating_sub(memory.task.time);
        add_time(&TABLE, Kind { name, flags }, if switches & QUEUED != 0 { queued } else { taken });
    } else if switches & SIZE != 0 {
        let mut name = [0; DISK];
        name[..16].copy_from_slice(&memory.task.comm);
        add_value(&TABLE, Kind { name, flags: 0 }, (memory.bytes / 1024).into());
    } else if switches & (WHO | PATTERN) != 0 {
        let (name, device) = (field(disk, &DISK_NAME), number(disk));
        let key = if switches & WHO != 0 {
            let (which, comm) = ((flags & WRITES).into(), memory.task.comm);
            Of { disk: name, device, pid: memory.task.pid, which, comm }
        } else {
            let which = follows(device, memory).into();
            Of { disk: name, device, pid: 0, which, comm: [0; 16] }
        };
        add_total(&TOTALS, key, memory.bytes.into(), taken);
    } else {
        // SAFETY: the ring gives room for the event.
        send(|event: *mut Block| unsafe {
            (*event).task = memory.task;
            (*event).issued = memory.issued;
            (*event).ended = ended;
            (*event).sector = memory.sector;
            (*event).bytes = memory.bytes;
            (*event).flags = flags;
            (*event).disk = field(disk, &DISK_NAME);
        });
    }
}

/// Whether a request begins where the last one of its disk ended.
#[inline(always)]
fn follows(device: u32, memory: &Memory) -> bool {
    // SAFETY: the value is copied at once.
    let last = unsafe { ENDS.get(&device) }.copied();
    let end = memory.sector + u64::from(memory.bytes / 512);
    let _ = ENDS.insert(&device, &end, u64::from(BPF_ANY));
    last == Some(memory.sector)
}

#[inline(always)]
fn disk(request: *const u8) -> *const u8 {
    if present(&REQUEST_DISK) {
        field(request, &REQUEST_DISK)
    } else {
        field(field(request, &REQUEST_QUEUE), &QUEUE_DISK)
    }
}

/// A disk's number, as the kernel writes it (dev_t).
#[inline(always)]
fn number(disk: *const u8) -> u32 {
    field::<u32>(disk, &DISK_MAJOR) << 20 | field::<u32>(disk, &DISK_MINOR)
}
