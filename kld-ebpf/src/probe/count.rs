//! System calls, counted.

use kld_ebpf_events::process::{CALLS_BY_PROCESS, CALLS_FAILED, CALLS_TIMED};
use kld_ebpf_events::table::Total;

use super::{Hook, Known, REGISTERS};
use crate::table::Summary;

/// System calls; the key is the call's number, greater by
/// [`CALL_32`](kld_ebpf_events::process::CALL_32) where a 32-bit program made it, or the process.
#[derive(Debug, Clone, Copy)]
pub struct SysCount;

impl SysCount {
    /// The switch for a total for each process, in [`Filter::switches`](crate::Filter).
    pub const BY_PROCESS: u32 = CALLS_BY_PROCESS;
    /// The switch for how long the calls take; those that never end are not counted.
    pub const TIMED: u32 = CALLS_TIMED;
    /// The switch for calls that have failed only.
    pub const FAILED: u32 = CALLS_FAILED;
    /// Only calls that have failed with this error, in [`Filter::numbers`](crate::Filter).
    pub const ONLY_ERROR: &'static str = "ONLY_ERROR";
    /// Only this call, by its number.
    pub const ONLY_CALL: &'static str = "ONLY_CALL";
}

impl Summary for SysCount {
    type Key = u64;
    type Value = Total;
    const NAME: &'static str = "syscount";
    const OBJECT: &'static [u8] = include_bytes!("../../objects/syscount.o");
    const HOOKS: &'static [Hook] = &[
        Hook::new("begun", "sys_enter").when(CALLS_TIMED),
        Hook::new("ended", "sys_exit"),
        Hook::new("gone", "sched_process_free").when(CALLS_TIMED),
    ];
    const KNOWN: &'static [&'static [Known]] =
        &[REGISTERS, &[Known::field("TASK_PID", &["task_struct.pid"])]];
    const KEYS: u32 = 8192;
}
