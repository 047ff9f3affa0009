//! zfsslower and zfsdist: reads, writes, opens and syncs of files on ZFS, on the functions of its module that stand behind
//! the calls for files.
#![no_std]
#![no_main]

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::macros::{kprobe, kretprobe, map};
use aya_ebpf::maps::LruHashMap;
use aya_ebpf::programs::{ProbeContext, RetProbeContext};
use kld_ebpf_events::histogram::Histogram;
use kld_ebpf_events::zfs::{Did, EACH, FSYNC, OPEN, READ, WRITE};
use kld_ebpf_programs::current::{now, switches, task, wanted};
use kld_ebpf_programs::file::{inode, name};
use kld_ebpf_programs::function::{arg0, arg1, result};
use kld_ebpf_programs::read::{Known, field, known};
use kld_ebpf_programs::table::{Table, add_time};
use kld_ebpf_programs::text::send_with_name;

/// Of a read or write: its file, and where in it (struct kiocb).
#[unsafe(no_mangle)]
static IO_FILE: Known = known();
#[unsafe(no_mangle)]
static IO_PLACE: Known = known();
/// Of what is told one by one, what takes less than so many microseconds is left out.
#[unsafe(no_mangle)]
static SHORTEST: Known = known();

/// What a thread has begun.
#[derive(Clone, Copy)]
#[repr(C)]
struct Begun {
    since: u64,
    file: u64,
    place: u64,
}

#[map]
static TABLE: Table<u64, Histogram> = Table::with_max_entries(1, 0);

/// What each thread does. A thread that ends in it is the oldest one day.
#[map]
static BEGUN: LruHashMap<u32, Begun> = LruHashMap::with_max_entries(16384, 0);

/// zpl_iter_read(request, room) and zpl_iter_write(request, data)
#[kprobe]
pub fn moves(ctx: ProbeContext) -> i32 {
    let request: *const u8 = arg0(&ctx);
    begin(&ctx, field(request, &IO_FILE), field(request, &IO_PLACE))
}

/// zpl_fsync(file, ...)
#[kprobe]
pub fn syncs(ctx: ProbeContext) -> i32 {
    begin(&ctx, arg0(&ctx), 0)
}

/// zpl_open(inode, file)
#[kprobe]
pub fn opens(ctx: ProbeContext) -> i32 {
    begin(&ctx, arg1(&ctx), 0)
}

#[kretprobe]
pub fn has_read(ctx: RetProbeContext) -> i32 {
    end(&ctx, READ)
}

#[kretprobe]
pub fn has_written(ctx: RetProbeContext) -> i32 {
    end(&ctx, WRITE)
}

#[kretprobe]
pub fn has_synced(ctx: RetProbeContext) -> i32 {
    end(&ctx, FSYNC)
}

#[kretprobe]
pub fn has_opened(ctx: RetProbeContext) -> i32 {
    end(&ctx, OPEN)
}

#[inline(always)]
fn begin(ctx: &ProbeContext, file: u64, place: u64) -> i32 {
    if wanted() {
        let _ = BEGUN.insert(&ctx.pid(), &Begun { since: now(), file, place }, u64::from(BPF_ANY));
    }
    0
}

#[inline(always)]
fn end(ctx: &RetProbeContext, operation: u64) -> i32 {
    let thread = ctx.pid();
    // SAFETY: the value is copied at once.
    let Some(begun) = (unsafe { BEGUN.get(&thread) }).copied() else { return 0 };
    let _ = BEGUN.remove(&thread);
    let taken = now().saturating_sub(begun.since);
    if switches() & EACH == 0 {
        add_time(&TABLE, operation, taken);
        return 0;
    }
    if taken >= u64::from(SHORTEST.load()) * 1000 {
        let file = begun.file as *const u8;
        let inode = inode(file);
        let did = Did {
            task: task(),
            taken,
            // What these functions return is 64 bits wide, or the rest is not said.
            result: if operation == READ || operation == WRITE {
                result(ctx)
            } else {
                result::<i32>(ctx).into()
            },
            place: begun.place,
            inode: inode.number,
            device: inode.device,
            operation: operation as u32,
        };
        send_with_name(did, name(file));
    }
    0
}
