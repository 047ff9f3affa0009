//! Where tasks wait, by their stacks.

use std::time::Duration;

use kld_ebpf_events::stack::{self, Ids, Of, Wakeup};
use kld_ebpf_events::table::Total;

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
