//! opensnoop: every open(2) and its relatives, at the end of the call.
#![no_std]
#![no_main]

use aya_ebpf::helpers::bpf_probe_read_user;
use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use kld_ebpf_events::process::Open;
use kld_ebpf_programs::current::{switches, task, wanted};
use kld_ebpf_programs::read::{Known, known};
use kld_ebpf_programs::syscall::{Ended, is};
use kld_ebpf_programs::text::send_with_text;

#[unsafe(no_mangle)]
static SYS_OPEN: Known = known();
#[unsafe(no_mangle)]
static SYS_CREAT: Known = known();
#[unsafe(no_mangle)]
static SYS_OPENAT: Known = known();
#[unsafe(no_mangle)]
static SYS_OPENAT2: Known = known();

/// The switch for failed opens only.
const FAILED: u32 = 1;
/// O_CREAT | O_WRONLY | O_TRUNC, which is what creat(2) means.
const CREAT: u64 = 0o1101;

#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn ended(ctx: RawTracePointContext) -> i32 {
    let call = Ended::of(&ctx);
    let number = call.number;
    let (at_path, at_flags) = if is(number, &SYS_OPENAT) || is(number, &SYS_OPENAT2) {
        (call.arg1(), call.arg2())
    } else if is(number, &SYS_OPEN) {
        (call.arg0(), call.arg1())
    } else if is(number, &SYS_CREAT) {
        (call.arg0(), CREAT)
    } else {
        return 0;
    };
    if !call.is_native() || !wanted() || switches() & FAILED != 0 && call.result >= 0 {
        return 0;
    }
    let (flags, mode) = if is(number, &SYS_OPENAT2) {
        // struct open_how: flags, mode, resolve, of 64 bits each. Where it cannot be read the call has failed.
        // SAFETY: the helper checks the address.
        unsafe { bpf_probe_read_user(at_flags as *const [u64; 2]) }.map_or((0, 0), |how| (how[0], how[1]))
    } else if is(number, &SYS_OPENAT) {
        (at_flags, call.arg3())
    } else if is(number, &SYS_OPEN) {
        (at_flags, call.arg2())
    } else {
        (at_flags, call.arg1())
    };
    let event = Open { task: task(), flags, mode: mode as u32, result: call.result as i32 };
    send_with_text(event, at_path);
    0
}
