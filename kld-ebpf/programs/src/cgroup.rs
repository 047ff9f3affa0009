//! Control groups of the second hierarchy.

use crate::read::{Known, field, known, present};

#[unsafe(no_mangle)]
static TASK_CGROUPS: Known = known();
#[unsafe(no_mangle)]
static CSS_SET_DFL_CGRP: Known = known();
#[unsafe(no_mangle)]
static CGROUP_NODE: Known = known();
#[unsafe(no_mangle)]
static NODE_ID: Known = known();
#[unsafe(no_mangle)]
static CGROUP_LEVEL: Known = known();
/// The groups above, by their addresses: since 6.1.
#[unsafe(no_mangle)]
static CGROUP_ANCESTORS: Known = known();
/// By their ids: before.
#[unsafe(no_mangle)]
static CGROUP_ANCESTOR_IDS: Known = known();

/// A task's group.
#[inline(always)]
pub fn of(task: *const u8) -> *const u8 {
    field(field(task, &TASK_CGROUPS), &CSS_SET_DFL_CGRP)
}

/// Whether this kernel keeps the ids of the groups above at hand.
#[inline(always)]
pub fn keeps_ids() -> bool {
    present(&CGROUP_ANCESTOR_IDS)
}

/// Its id.
#[inline(always)]
pub fn id(cgroup: *const u8) -> u64 {
    field(field(cgroup, &CGROUP_NODE), &NODE_ID)
}

/// The id of the group at a level of those that a group lies in; 0 where it does not lie so deep.
#[inline(always)]
pub fn above(cgroup: *const u8, level: u32) -> u64 {
    if field::<u32>(cgroup, &CGROUP_LEVEL) < level {
        return 0;
    }
    let further = (level as usize).wrapping_mul(8);
    let cgroup = cgroup.wrapping_add(further);
    if keeps_ids() { field(cgroup, &CGROUP_ANCESTOR_IDS) } else { id(field(cgroup, &CGROUP_ANCESTORS)) }
}
