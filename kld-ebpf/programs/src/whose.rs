//! Whether the events of a task that does not run itself are wanted, as one that is woken.

use kld_ebpf_events::filter::{BY_CGROUP, BY_COMM, BY_PID, BY_UID};

use crate::cgroup::{above, of};
use crate::current::{filter, same, wanted_pid};
use crate::read::{Known, field, known};
use crate::task::process;

#[unsafe(no_mangle)]
static TASK_CRED: Known = known();
#[unsafe(no_mangle)]
static CRED_UID: Known = known();
#[unsafe(no_mangle)]
static TASK_COMM: Known = known();
/// Whether a task's events are wanted.
#[inline(always)]
pub fn wanted_task(task: *const u8) -> bool {
    let filter = filter();
    if filter.by & BY_PID != 0 && !wanted_pid(process(task)) {
        return false;
    }
    if filter.by & BY_UID != 0 && field::<u32>(field(task, &TASK_CRED), &CRED_UID) != filter.uid {
        return false;
    }
    if filter.by & BY_COMM != 0 && !same(&name(task), &filter.comm) {
        return false;
    }
    filter.by & BY_CGROUP == 0 || above(of(task), filter.level) == filter.cgroup
}

/// A task's name.
#[inline(always)]
pub fn name(task: *const u8) -> [u8; 16] {
    field(task, &TASK_COMM)
}
