//! gethostlatency: how long programs look up hosts' names, on the functions of their C library.
#![no_std]
#![no_main]

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::macros::{map, uprobe, uretprobe};
use aya_ebpf::maps::LruHashMap;
use aya_ebpf::programs::{ProbeContext, RetProbeContext};
use kld_ebpf_events::user::{GETADDRINFO, GETHOSTBYNAME, GETHOSTBYNAME2, Lookup};
use kld_ebpf_programs::current::{now, task, wanted};
use kld_ebpf_programs::function::{arg0, result};
use kld_ebpf_programs::text::send_with_text;

/// What is remembered of a lookup.
#[derive(Clone, Copy)]
#[repr(C)]
struct Asked {
    since: u64,
    name: u64,
}

/// The lookup that each thread is in. A thread that ends in one is the oldest one day.
#[map]
static LOOKUPS: LruHashMap<u32, Asked> = LruHashMap::with_max_entries(16384, 0);

/// getaddrinfo(name, ...), gethostbyname(name), gethostbyname2(name, family)
#[uprobe]
pub fn asks(ctx: ProbeContext) -> i32 {
    if wanted() {
        let asked = Asked { since: now(), name: arg0(&ctx) };
        let _ = LOOKUPS.insert(&ctx.pid(), &asked, u64::from(BPF_ANY));
    }
    0
}

#[uretprobe]
pub fn getaddrinfo(ctx: RetProbeContext) -> i32 {
    let outcome: i32 = result(&ctx);
    end(&ctx, GETADDRINFO, outcome)
}

#[uretprobe]
pub fn gethostbyname(ctx: RetProbeContext) -> i32 {
    let found: u64 = result(&ctx);
    end(&ctx, GETHOSTBYNAME, i32::from(found == 0))
}

#[uretprobe]
pub fn gethostbyname2(ctx: RetProbeContext) -> i32 {
    let found: u64 = result(&ctx);
    end(&ctx, GETHOSTBYNAME2, i32::from(found == 0))
}

#[inline(always)]
fn end(ctx: &RetProbeContext, call: u32, result: i32) -> i32 {
    let thread = ctx.pid();
    // SAFETY: the value is copied at once.
    let Some(asked) = (unsafe { LOOKUPS.get(&thread) }).copied() else { return 0 };
    let _ = LOOKUPS.remove(&thread);
    let taken = now().saturating_sub(asked.since);
    send_with_text(Lookup { task: task(), taken, call, result }, asked.name);
    0
}
