//! Objects that the kernel takes out of its caches.

use kld_ebpf_events::memory::Cache;
use kld_ebpf_events::table::Total;

use super::{Hook, Known};
use crate::table::Summary;

/// How many objects are taken out of the kernel's caches, by cache; the amount is in bytes.
#[derive(Debug, Clone, Copy)]
pub struct SlabRate;

impl Summary for SlabRate {
    type Key = Cache;
    type Value = Total;
    const NAME: &'static str = "slabratetop";
    const OBJECT: &'static [u8] = include_bytes!("../../objects/slabratetop.o");
    const HOOKS: &'static [Hook] = &[
        // Since 6.1. Before 5.19 it had as many arguments, and the cache was none of them; until 6.1 there was another
        // tracepoint beside it.
        Hook::new("taken", "kmem_cache_alloc")
            .with_arguments(5)
            .replaced_by("kmem_cache_alloc_node")
            .since("5.19"),
        Hook::new("taken", "kmem_cache_alloc").with_arguments(6).since("5.19"),
    ];
    const KNOWN: &'static [&'static [Known]] = &[&[
        Known::field("CACHE_NAME", &["kmem_cache.name"]),
        Known::field("CACHE_SIZE", &["kmem_cache.size"]),
    ]];
    const KEYS: u32 = 1024;
}
