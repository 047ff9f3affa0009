//! Where tasks wait, by their stacks.

use std::time::Duration;

use kld_ebpf_events::stack::{self, Contention, Ids, Of, Wakeup};
use kld_ebpf_events::table::{Spell, Total};

use super::{Hook, Known, TASKS};
use crate::table::Summary;

/// A probe that counts by stacks.
pub trait Stacked: Summary {
    /// The switch for no calls of the program itself, in [`Filter::switches`](crate::Filter).
    const NO_USER: u32 = stack::NO_USER;
    /// The switch for no calls in the kernel.
    const NO_KERNEL: u32 = stack::NO_KERNEL;
    /// The switch for no threads of the kernel.
    const ONLY_USER_THREADS: u32 = stack::ONLY_USER_THREADS;
    /// The switch for threads of the kernel only.
    const ONLY_KERNEL_THREADS: u32 = stack::ONLY_KERNEL_THREADS;

    /// The stacks that a key means, and the process whose they are.
    fn stacks(key: &Self::Key) -> (Ids, u32);
}

/// The numbers, for [`Filter::numbers`](crate::Filter), of a probe that leaves out what is shorter or longer.
pub fn times(shortest: Option<Duration>, longest: Option<Duration>) -> Vec<(&'static str, u32)> {
    // The greatest number stands for none.
    let microseconds = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX).min(u32::MAX - 1);
    let bounds = [("SHORTEST_TIME", shortest), ("LONGEST_TIME", longest)];
    bounds.into_iter().filter_map(|(variable, time)| Some((variable, microseconds(time?)))).collect()
}

/// So many keys there may be.
const KEYS: u32 = 16384;
/// So many different stacks.
const STACKS: u32 = 16384;

/// What a program must know to tell threads of the kernel.
const THREADS: &[Known] = &[Known::field("TASK_FLAGS", &["task_struct.flags"])];

/// How long tasks are away from the processor - asleep, or waiting for it - by the stacks with which they left it.
#[derive(Debug, Clone, Copy)]
pub struct OffCpu;

impl OffCpu {
    /// Only tasks that have left in this state, as in the lowest eight bits of linux/sched.h's, in
    /// [`Filter::numbers`](crate::Filter); 0: that could have gone on.
    pub const ONLY_STATE: &'static str = "ONLY_STATE";
}

impl Summary for OffCpu {
    type Key = Of;
    type Value = Total;
    const NAME: &'static str = "offcputime";
    const OBJECT: &'static [u8] = include_bytes!("../../objects/offcputime.o");
    const HOOKS: &'static [Hook] =
        &[Hook::new("switched", "sched_switch"), Hook::new("gone", "sched_process_free")];
    const KNOWN: &'static [&'static [Known]] = &[TASKS, THREADS];
    const KEYS: u32 = KEYS;
    const STACKS: u32 = STACKS;
}

impl Stacked for OffCpu {
    fn stacks(key: &Of) -> (Ids, u32) {
        (key.stack, key.pid)
    }
}

/// How long tasks sleep, by who wakes them, and the stacks with which they do it.
#[derive(Debug, Clone, Copy)]
pub struct WakeupTime;

impl Summary for WakeupTime {
    type Key = Wakeup;
    type Value = Total;
    const NAME: &'static str = "wakeuptime";
    const OBJECT: &'static [u8] = include_bytes!("../../objects/wakeuptime.o");
    const HOOKS: &'static [Hook] = &[
        Hook::new("switched", "sched_switch"),
        Hook::new("waking", "sched_waking"),
        Hook::new("gone", "sched_process_free"),
    ];
    const KNOWN: &'static [&'static [Known]] = &[TASKS, THREADS];
    const KEYS: u32 = KEYS;
    const STACKS: u32 = STACKS;
}

impl Stacked for WakeupTime {
    fn stacks(key: &Wakeup) -> (Ids, u32) {
        (key.stack, key.waker)
    }
}

/// What runs on each processor, looked at [so many times a second](crate::Filter::frequency), by its stacks.
#[derive(Debug, Clone, Copy)]
pub struct Profile;

impl Profile {
    /// The switch for processors that have nothing to do too, in [`Filter::switches`](crate::Filter).
    pub const IDLE: u32 = stack::IDLE;
}

impl Summary for Profile {
    type Key = Of;
    type Value = Total;
    const NAME: &'static str = "profile";
    const OBJECT: &'static [u8] = include_bytes!("../../objects/profile.o");
    const HOOKS: &'static [Hook] = &[Hook::sample("sampled")];
    const KNOWN: &'static [&'static [Known]] = &[TASKS, THREADS];
    const KEYS: u32 = KEYS;
    const STACKS: u32 = STACKS;
}

impl Stacked for Profile {
    fn stacks(key: &Of) -> (Ids, u32) {
        (key.stack, key.pid)
    }
}

/// How long the kernel's locks are waited for, by the stacks with which that begins. A lock that is free takes no time,
/// and is not counted.
#[derive(Debug, Clone, Copy)]
pub struct LockWait;

impl LockWait {
    /// The name of a kind of lock, as perf writes it (trace/events/lock.h tells the bits).
    pub fn kind(kind: u64) -> &'static str {
        const SPIN: u64 = 1;
        const READ: u64 = 2;
        const WRITE: u64 = 4;
        const RT: u64 = 8;
        const PERCPU: u64 = 16;
        const MUTEX: u64 = 32;
        match kind {
            0 => "semaphore",
            SPIN => "spinlock",
            _ if kind & MUTEX != 0 => "mutex",
            _ if kind & RT != 0 => "rt-mutex",
            _ if kind & PERCPU != 0 && kind & WRITE != 0 => "pcpu-sem:W",
            _ if kind & PERCPU != 0 => "pcpu-sem:R",
            _ if kind & SPIN != 0 && kind & READ != 0 => "rwlock:R",
            _ if kind & SPIN != 0 && kind & WRITE != 0 => "rwlock:W",
            _ if kind & READ != 0 => "rwsem:R",
            _ if kind & WRITE != 0 => "rwsem:W",
            _ => "unknown",
        }
    }
}

impl Summary for LockWait {
    type Key = Contention;
    type Value = Spell;
    const NAME: &'static str = "klockstat";
    const OBJECT: &'static [u8] = include_bytes!("../../objects/klockstat.o");
    const HOOKS: &'static [Hook] = &[
        Hook::new("begun", "contention_begin").since("5.19"),
        Hook::new("ended", "contention_end").since("5.19"),
    ];
    const KNOWN: &'static [&'static [Known]] = &[];
    // The program's own calls have nothing to do with the kernel's locks.
    const SWITCHES: u32 = stack::NO_USER;
    const KEYS: u32 = KEYS;
    const STACKS: u32 = STACKS;
}

impl Stacked for LockWait {
    fn stacks(key: &Contention) -> (Ids, u32) {
        (key.stack, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_locks_are_told_as_perf_tells_them() {
        let kinds = [0, 1, 3, 5, 2, 4, 8, 18, 20, 32, 33].map(LockWait::kind);
        let names = [
            "semaphore",
            "spinlock",
            "rwlock:R",
            "rwlock:W",
            "rwsem:R",
            "rwsem:W",
            "rt-mutex",
            "pcpu-sem:R",
            "pcpu-sem:W",
            "mutex",
            "mutex",
        ];
        assert_eq!(kinds, names);
    }

    #[test]
    fn a_bound_that_is_not_given_is_none_and_no_bound_stands_for_none() {
        assert_eq!(times(None, None), []);
        let all = times(Some(Duration::from_millis(1)), Some(Duration::MAX));
        assert_eq!(all, [("SHORTEST_TIME", 1000), ("LONGEST_TIME", u32::MAX - 1)]);
    }
}
