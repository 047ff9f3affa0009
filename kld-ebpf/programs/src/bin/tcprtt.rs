//! tcprtt: how long packets go there and back, as each connection knows it, on tcp_probe(socket, packet), which every
//! packet of an established connection passes.
#![no_std]
#![no_main]

use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::programs::RawTracePointContext;
use kld_ebpf_events::histogram::Histogram;
use kld_ebpf_events::tcp::{Address, BY_LOCAL, BY_REMOTE};
use kld_ebpf_programs::current::switches;
use kld_ebpf_programs::read::{Known, field, known, present};
use kld_ebpf_programs::table::{Table, add_time};
use kld_ebpf_programs::tcp::flow;

#[unsafe(no_mangle)]
static TCP_RTT: Known = known();
/// The only local port that is wanted.
#[unsafe(no_mangle)]
static ONLY_LOCAL: Known = known();
/// The only remote port that is wanted.
#[unsafe(no_mangle)]
static ONLY_REMOTE: Known = known();

#[map]
static TABLE: Table<Address, Histogram> = Table::with_max_entries(1, 0);

#[raw_tracepoint(tracepoint = "tcp_probe")]
pub fn received(ctx: RawTracePointContext) -> i32 {
    let socket: *const u8 = ctx.arg(0);
    let flow = flow(socket);
    if present(&ONLY_LOCAL) && u32::from(flow.local_port) != ONLY_LOCAL.load()
        || present(&ONLY_REMOTE) && u32::from(flow.remote_port) != ONLY_REMOTE.load()
    {
        return 0;
    }
    // Eight times the smoothed time, in microseconds; 0 where none was measured yet.
    let smoothed: u32 = field(socket, &TCP_RTT);
    if smoothed == 0 {
        return 0;
    }
    let family = flow.family.into();
    let key = match switches() & (BY_LOCAL | BY_REMOTE) {
        0 => Address { family: 0, bytes: [0; 16] },
        BY_LOCAL => Address { family, bytes: flow.local },
        _ => Address { family, bytes: flow.remote },
    };
    add_time(&TABLE, key, u64::from(smoothed >> 3) * 1000);
    0
}
