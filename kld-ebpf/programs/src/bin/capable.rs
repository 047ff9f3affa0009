//! capable: capabilities that the kernel looks for, on cap_capable(credentials, namespace, the capable namespace,
//! capability, result).
#![no_std]
#![no_main]

use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::LruHashMap;
use aya_ebpf::programs::RawTracePointContext;
use kld_ebpf_events::process::Capable;
use kld_ebpf_programs::current::{switches, task, wanted};
use kld_ebpf_programs::output::send;
use kld_ebpf_programs::read::{Known, field, known};

#[unsafe(no_mangle)]
static USER_NUMBER: Known = known();

/// The switch for what was refused only.
const FAILED: u32 = 1;
/// The switch for each process's capabilities once only.
const ONCE: u32 = 2;

/// What was told already: a process's capability and whether it had it.
#[map]
static TOLD: LruHashMap<u64, u8> = LruHashMap::with_max_entries(16384, 0);

#[raw_tracepoint(tracepoint = "cap_capable")]
pub fn looked_for(ctx: RawTracePointContext) -> i32 {
    let (capability, result): (u32, i32) = (ctx.arg(3), ctx.arg(4));
    if switches() & FAILED != 0 && result >= 0 || !wanted() {
        return 0;
    }
    let task = task();
    if switches() & ONCE != 0 {
        let key = u64::from(task.pid) << 32 | u64::from(capability) << 1 | u64::from(result < 0);
        // It is told by whoever is first to note it.
        const NO_EXIST: u64 = 1;
        if TOLD.insert(key, &1, NO_EXIST).is_err() {
            return 0;
        }
    }
    let namespace = field(ctx.arg(1), &USER_NUMBER);
    // SAFETY: the ring gives room for the event.
    send(|event: *mut Capable| unsafe {
        event.write(Capable { task, capability, namespace, result, pad: 0 });
    });
    0
}
