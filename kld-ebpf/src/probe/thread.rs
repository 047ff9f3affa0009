//! Threads that are made.

use kld_ebpf_events::{Plain, Task, process};

use super::{Hook, Known, Probe};

/// A thread was made.
#[derive(Debug, Clone)]
pub struct Thread {
    /// By whom.
    pub task: Task,
    /// The new thread.
    pub tid: u32,
}

impl Probe for Thread {
    type Event = Thread;
    const NAME: &'static str = "threadsnoop";
    const OBJECT: &'static [u8] = include_bytes!("../../objects/threadsnoop.o");
    const HOOKS: &'static [Hook] = &[Hook::new("made", "task_newtask")];
    const KNOWN: &'static [&'static [Known]] = &[&[Known::field("TASK_TID", &["task_struct.pid"])]];

    fn decode(bytes: &[u8]) -> Option<Thread> {
        let (head, _) = process::Thread::split(bytes)?;
        Some(Thread { task: head.task, tid: head.tid })
    }
}
