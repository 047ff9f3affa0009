//! slabratetop: how often the kernel takes objects out of its caches, by cache.
#![no_std]
#![no_main]

use aya_ebpf::helpers::bpf_probe_read_kernel_str_bytes;
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::programs::RawTracePointContext;
use kld_ebpf_events::memory::{CACHE, Cache};
use kld_ebpf_events::table::Total;
use kld_ebpf_programs::current::wanted;
use kld_ebpf_programs::read::{Known, field, known};
use kld_ebpf_programs::table::{Table, add_total};

#[unsafe(no_mangle)]
static CACHE_NAME: Known = known();
#[unsafe(no_mangle)]
static CACHE_SIZE: Known = known();

#[map]
static TABLE: Table<Cache, Total> = Table::with_max_entries(1, 0);

/// kmem_cache_alloc(caller, object, cache, ...), where object is null if there was no memory.
#[raw_tracepoint(tracepoint = "kmem_cache_alloc")]
pub fn taken(ctx: RawTracePointContext) -> i32 {
    let (object, cache): (u64, *const u8) = (ctx.arg(1), ctx.arg(2));
    if object == 0 || !wanted() {
        return 0;
    }
    let mut key = Cache { name: [0; CACHE] };
    // SAFETY: the helper checks the address. Without a name it is the one without a name.
    let _ = unsafe { bpf_probe_read_kernel_str_bytes(field(cache, &CACHE_NAME), &mut key.name) };
    add_total(&TABLE, key, field::<u32>(cache, &CACHE_SIZE).into(), 0);
    0
}
