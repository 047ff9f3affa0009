//! vfsstat: what the kernel does for files, counted on its own functions; where it has no probes on functions, on the
//! system calls that lead there.
#![no_std]
#![no_main]

use aya_ebpf::macros::{kprobe, map, raw_tracepoint};
use aya_ebpf::programs::{ProbeContext, RawTracePointContext};
use kld_ebpf_events::io::work::{CREATE, FSYNC, MKDIR, OPEN, READ, RMDIR, UNLINK, WRITE};
use kld_ebpf_events::table::Total;
use kld_ebpf_programs::current::wanted;
use kld_ebpf_programs::read::{Known, known};
use kld_ebpf_programs::syscall::{Ended, is};
use kld_ebpf_programs::table::{Table, add_total};

#[unsafe(no_mangle)]
static SYS_READ: Known = known();
#[unsafe(no_mangle)]
static SYS_PREAD: Known = known();
#[unsafe(no_mangle)]
static SYS_WRITE: Known = known();
#[unsafe(no_mangle)]
static SYS_PWRITE: Known = known();
#[unsafe(no_mangle)]
static SYS_FSYNC: Known = known();
#[unsafe(no_mangle)]
static SYS_FDATASYNC: Known = known();
#[unsafe(no_mangle)]
static SYS_OPEN: Known = known();
#[unsafe(no_mangle)]
static SYS_CREAT: Known = known();
#[unsafe(no_mangle)]
static SYS_OPENAT: Known = known();
#[unsafe(no_mangle)]
static SYS_OPENAT2: Known = known();
#[unsafe(no_mangle)]
static SYS_MKNOD: Known = known();
#[unsafe(no_mangle)]
static SYS_MKNODAT: Known = known();
#[unsafe(no_mangle)]
static SYS_UNLINK: Known = known();
#[unsafe(no_mangle)]
static SYS_UNLINKAT: Known = known();
#[unsafe(no_mangle)]
static SYS_MKDIR: Known = known();
#[unsafe(no_mangle)]
static SYS_MKDIRAT: Known = known();
#[unsafe(no_mangle)]
static SYS_RMDIR: Known = known();

/// Of unlinkat(2): a folder is meant (linux/fcntl.h).
const AT_REMOVEDIR: u64 = 0x200;
/// Of mknod(2): the kinds of file that are no regular ones (inode(7)).
const KIND: u64 = 0o170_000;
const REGULAR: u64 = 0o100_000;

#[map]
static TABLE: Table<u64, Total> = Table::with_max_entries(1, 0);

#[inline(always)]
fn count(what: u64) -> i32 {
    if wanted() {
        add_total(&TABLE, what, 0, 0);
    }
    0
}

#[kprobe]
pub fn reads(_: ProbeContext) -> i32 {
    count(READ)
}

#[kprobe]
pub fn writes(_: ProbeContext) -> i32 {
    count(WRITE)
}

#[kprobe]
pub fn syncs(_: ProbeContext) -> i32 {
    count(FSYNC)
}

#[kprobe]
pub fn opens(_: ProbeContext) -> i32 {
    count(OPEN)
}

#[kprobe]
pub fn creates(_: ProbeContext) -> i32 {
    count(CREATE)
}

#[kprobe]
pub fn unlinks(_: ProbeContext) -> i32 {
    count(UNLINK)
}

#[kprobe]
pub fn makes(_: ProbeContext) -> i32 {
    count(MKDIR)
}

#[kprobe]
pub fn removes(_: ProbeContext) -> i32 {
    count(RMDIR)
}

#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn ended(ctx: RawTracePointContext) -> i32 {
    let call = Ended::of(&ctx);
    let number = call.number;
    let one_of = |some: &[&Known; 2]| is(number, some[0]) || is(number, some[1]);
    let what = if one_of(&[&SYS_READ, &SYS_PREAD]) {
        READ
    } else if one_of(&[&SYS_WRITE, &SYS_PWRITE]) {
        WRITE
    } else if one_of(&[&SYS_FSYNC, &SYS_FDATASYNC]) {
        FSYNC
    } else if one_of(&[&SYS_OPEN, &SYS_CREAT]) || one_of(&[&SYS_OPENAT, &SYS_OPENAT2]) {
        OPEN
    } else if is(number, &SYS_MKNOD) {
        made(call.arg1())
    } else if is(number, &SYS_MKNODAT) {
        made(call.arg2())
    } else if is(number, &SYS_UNLINK) {
        UNLINK
    } else if is(number, &SYS_UNLINKAT) {
        if call.arg2() & AT_REMOVEDIR != 0 { RMDIR } else { UNLINK }
    } else if one_of(&[&SYS_MKDIR, &SYS_MKDIRAT]) {
        MKDIR
    } else if is(number, &SYS_RMDIR) {
        RMDIR
    } else {
        return 0;
    };
    if what == NOTHING || !call.is_native() || call.result < 0 {
        return 0;
    }
    count(what)
}

/// No key of the table.
const NOTHING: u64 = u64::MAX;

/// mknod(2) makes regular files too, as the kernel's function does that is counted elsewhere.
#[inline(always)]
fn made(mode: u64) -> u64 {
    if mode & KIND == 0 || mode & KIND == REGULAR { CREATE } else { NOTHING }
}
