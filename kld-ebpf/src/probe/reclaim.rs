//! Tasks that must free memory before they get some.

use std::time::Duration;

use kld_ebpf_events::{Plain, Task, memory};

use super::{Hook, Known, Probe};

/// A task had to free memory before it got some (direct reclaim).
#[derive(Debug, Clone)]
pub struct Reclaim {
    /// Who.
    pub task: Task,
    /// How long that took.
    pub lasted: Duration,
    /// How many pages were freed.
    pub pages: u64,
    /// It asked for two to the power of this many pages.
    pub order: u32,
    /// Whether it had reached the limit of a control group, not the host's.
    pub group: bool,
}

impl Reclaim {
    /// The switch for control groups' limits too, in [`Filter::switches`](crate::Filter).
    pub const GROUPS: u32 = memory::GROUPS;
}

impl Probe for Reclaim {
    type Event = Reclaim;
    const NAME: &'static str = "drsnoop";
    const OBJECT: &'static [u8] = include_bytes!("../../objects/drsnoop.o");
    const HOOKS: &'static [Hook] = &[
        Hook::new("host_begins", "mm_vmscan_direct_reclaim_begin"),
        Hook::new("host_ends", "mm_vmscan_direct_reclaim_end"),
        Hook::new("group_begins", "mm_vmscan_memcg_reclaim_begin").when(Self::GROUPS),
        Hook::new("group_ends", "mm_vmscan_memcg_reclaim_end").when(Self::GROUPS),
    ];
    const KNOWN: &'static [&'static [Known]] = &[];

    fn decode(bytes: &[u8]) -> Option<Reclaim> {
        let (head, _) = memory::Reclaim::split(bytes)?;
        Some(Reclaim {
            task: head.task,
            lasted: Duration::from_nanos(head.lasted),
            pages: head.pages,
            order: head.order,
            group: head.group != 0,
        })
    }
}
