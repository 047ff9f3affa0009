//! statsnoop: files that are asked about, at the end of the system call.
#![no_std]
#![no_main]

use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use kld_ebpf_events::file::Stat;
use kld_ebpf_programs::current::{switches, task, wanted};
use kld_ebpf_programs::read::{Known, known};
use kld_ebpf_programs::syscall::{Ended, is};
use kld_ebpf_programs::text::send_with_text;

#[unsafe(no_mangle)]
static SYS_STATFS: Known = known();
#[unsafe(no_mangle)]
static SYS_STAT: Known = known();
#[unsafe(no_mangle)]
static SYS_LSTAT: Known = known();
#[unsafe(no_mangle)]
static SYS_NEWFSTATAT: Known = known();
#[unsafe(no_mangle)]
static SYS_STATX: Known = known();

/// The switch for failures only.
const FAILED: u32 = 1;

#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn ended(ctx: RawTracePointContext) -> i32 {
    let ended = Ended::of(&ctx);
    let (call, path) = if is(ended.number, &SYS_STATFS) {
        (0, ended.arg0())
    } else if is(ended.number, &SYS_STAT) {
        (1, ended.arg0())
    } else if is(ended.number, &SYS_LSTAT) {
        (2, ended.arg0())
    } else if is(ended.number, &SYS_NEWFSTATAT) {
        (3, ended.arg1())
    } else if is(ended.number, &SYS_STATX) {
        (4, ended.arg1())
    } else {
        return 0;
    };
    if !ended.is_native() || !wanted() || switches() & FAILED != 0 && ended.result >= 0 {
        return 0;
    }
    send_with_text(Stat { task: task(), call, result: ended.result as i32 }, path);
    0
}
