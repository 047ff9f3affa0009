//! What the kernel keeps of a task.

use aya_ebpf::helpers::generated::bpf_get_current_task;

use crate::read::{Known, field, known};

#[unsafe(no_mangle)]
static TASK_PARENT: Known = known();
#[unsafe(no_mangle)]
static TASK_GROUP: Known = known();

/// The task that runs.
#[inline(always)]
pub fn current() -> *const u8 {
    // SAFETY: the helper takes nothing.
    unsafe { bpf_get_current_task() as *const u8 }
}

/// A task's process.
#[inline(always)]
pub fn process(task: *const u8) -> u32 {
    field(task, &TASK_GROUP)
}

/// The process that a task's process is a child of.
#[inline(always)]
pub fn parent(task: *const u8) -> u32 {
    process(field(task, &TASK_PARENT))
}
