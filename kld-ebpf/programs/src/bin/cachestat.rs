//! cachestat: pages of files that are wanted, are added to the cache of pages, and become dirty.
//!
//! Since 6.12 the kernel has tracepoints where a read or a fault asks the cache for pages. On kernels before, the function
//! is looked at that marks a page as used.
#![no_std]
#![no_main]

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::macros::{kprobe, map, raw_tracepoint};
use aya_ebpf::maps::LruHashMap;
use aya_ebpf::programs::{ProbeContext, RawTracePointContext};
use kld_ebpf_events::io::cache::{ADDED, BUFFER_DIRTIED, DIRTIED, WANTED};
use kld_ebpf_events::table::Total;
use kld_ebpf_programs::current::wanted;
use kld_ebpf_programs::read::{Known, bit, field, known, present};
use kld_ebpf_programs::table::{Table, add_total};

/// The place of the bit in a folio's flags that says that it is more than a page.
#[unsafe(no_mangle)]
static BIT_LARGE: Known = known();
/// How many pages a large folio is.
#[unsafe(no_mangle)]
static FOLIO_PAGES: Known = known();

#[map]
static TABLE: Table<u64, Total> = Table::with_max_entries(1, 0);

/// What each thread has read last.
#[map]
static READS: LruHashMap<u32, Read> = LruHashMap::with_max_entries(16384, 0);

/// A file's pages, by their numbers.
#[derive(Clone, Copy)]
#[repr(C)]
struct Read {
    mapping: u64,
    first: u64,
    last: u64,
}

/// mm_filemap_get_pages(mapping, first, last): a long read asks again and again, each time for all that is left of it.
#[raw_tracepoint(tracepoint = "mm_filemap_get_pages")]
pub fn read(ctx: RawTracePointContext) -> i32 {
    let asked = Read { mapping: ctx.arg(0), first: ctx.arg(1), last: ctx.arg(2) };
    let thread = ctx.pid();
    // SAFETY: the value is copied at once.
    let before = unsafe { READS.get(&thread) }.copied();
    let goes_on = before.is_some_and(|before| {
        before.mapping == asked.mapping && before.last == asked.last && before.first < asked.first
    });
    let _ = READS.insert(&thread, &asked, u64::from(BPF_ANY));
    if goes_on { 0 } else { add(WANTED, asked.last.saturating_sub(asked.first) + 1) }
}

/// mm_filemap_fault(mapping, number): the page is not mapped, and was not among those that mm_filemap_map_pages maps.
#[raw_tracepoint(tracepoint = "mm_filemap_fault")]
pub fn faults(_: RawTracePointContext) -> i32 {
    add(WANTED, 1)
}

/// folio_mark_accessed(folio), and mark_page_accessed(page) before 5.16
#[kprobe]
pub fn used(_: ProbeContext) -> i32 {
    add(WANTED, 1)
}

/// block_dirty_buffer(buffer): its page was marked as used too.
#[raw_tracepoint(tracepoint = "block_dirty_buffer")]
pub fn dirtied_buffer(_: RawTracePointContext) -> i32 {
    add(BUFFER_DIRTIED, 1)
}

/// mm_filemap_add_to_page_cache(folio)
#[raw_tracepoint(tracepoint = "mm_filemap_add_to_page_cache")]
pub fn added(ctx: RawTracePointContext) -> i32 {
    add(ADDED, pages(ctx.arg(0)))
}

/// writeback_dirty_folio(folio, mapping), and writeback_dirty_page(page, mapping) before 5.18
#[raw_tracepoint(tracepoint = "writeback_dirty_folio")]
pub fn dirtied(ctx: RawTracePointContext) -> i32 {
    add(DIRTIED, pages(ctx.arg(0)))
}

#[inline(always)]
fn add(what: u64, pages: u64) -> i32 {
    if wanted() {
        add_total(&TABLE, what, pages, 0);
    }
    0
}

#[inline(always)]
fn pages(folio: *const u8) -> u64 {
    if present(&FOLIO_PAGES) && bit(folio, &BIT_LARGE) { field::<u32>(folio, &FOLIO_PAGES).into() } else { 1 }
}
