//! Stacks of calls, and which threads are wanted where they are told.

use aya_ebpf::bindings::BPF_F_USER_STACK;
use aya_ebpf::maps::StackTrace;
use aya_ebpf::programs::tracing::StackIdContext;
use kld_ebpf_events::stack::{
    Ids, NO_KERNEL, NO_USER, NONE, ONLY_KERNEL_THREADS, ONLY_USER_THREADS, SECOND, TAKEN,
};

use crate::current::switches;
use crate::read::{Known, field, known, present};

#[unsafe(no_mangle)]
static TASK_FLAGS: Known = known();
/// What is shorter than so many microseconds is left out.
#[unsafe(no_mangle)]
static SHORTEST_TIME: Known = known();
/// What is longer.
#[unsafe(no_mangle)]
static LONGEST_TIME: Known = known();

/// PF_KTHREAD of linux/sched.h.
const KERNEL_THREAD: u32 = 0x0020_0000;

/// Where a program keeps stacks. It names the maps `STACKS` and `SECOND_STACKS`; the loader sets their sizes.
#[derive(Clone, Copy)]
pub struct Kept {
    pub first: &'static StackTrace,
    /// For those whose place in the first map another one has: each has one place only there.
    pub second: &'static StackTrace,
}

impl Kept {
    /// The numbers of those stacks of the task that runs which are wanted.
    #[inline(always)]
    pub fn ids(self, ctx: &impl StackIdContext) -> Ids {
        let switches = switches();
        let kernel = if switches & NO_KERNEL != 0 { NONE } else { self.id(ctx, 0) };
        let user = if switches & NO_USER != 0 { NONE } else { self.id(ctx, u64::from(BPF_F_USER_STACK)) };
        Ids { kernel, user }
    }

    #[inline(always)]
    fn id(self, ctx: &impl StackIdContext, flags: u64) -> i32 {
        match ctx.get_stackid(self.first, flags) {
            Ok(id) => id as i32,
            Err(TAKEN) => match ctx.get_stackid(self.second, flags) {
                Ok(id) => id as i32 | SECOND,
                Err(error) => error,
            },
            Err(error) => error,
        }
    }
}

/// Whether a task is of the wanted kind.
#[inline(always)]
pub fn wanted_kind(task: *const u8) -> bool {
    match switches() & (ONLY_USER_THREADS | ONLY_KERNEL_THREADS) {
        0 => true,
        kind => {
            let of_kernel = field::<u32>(task, &TASK_FLAGS) & KERNEL_THREAD != 0;
            of_kernel == (kind & ONLY_KERNEL_THREADS != 0)
        }
    }
}

/// Whether a time, in nanoseconds, is neither too short nor too long.
#[inline(always)]
pub fn wanted_time(time: u64) -> bool {
    let microseconds = time / 1000;
    (!present(&SHORTEST_TIME) || microseconds >= u64::from(SHORTEST_TIME.load()))
        && (!present(&LONGEST_TIME) || microseconds <= u64::from(LONGEST_TIME.load()))
}
