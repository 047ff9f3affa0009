//! Processes and threads that end.

use std::time::Duration;

use kld_ebpf_events::{Plain, Task, process};

use super::{Hook, Known, Probe};

/// A process or a thread that has ended.
#[derive(Debug, Clone)]
pub struct Exit {
    /// Who.
    pub task: Task,
    /// The parent process.
    pub parent: u32,
    /// How long it has lived.
    pub age: Duration,
    /// How it ended.
    pub how: Ended,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this exit code.
    Code(u8),
    /// By this signal; the flag tells of a core dump.
    Signal(u8, bool),
}

impl Ended {
    /// Out of a status as wait(2) has it.
    pub fn of(status: u32) -> Ended {
        match status & 0x7f {
            0 => Ended::Code((status >> 8) as u8),
            signal => Ended::Signal(signal as u8, status & 0x80 != 0),
        }
    }
}

impl Exit {
    /// The switch for threads too, in [`Filter::switches`](crate::Filter).
    pub const THREADS: u32 = 1;
    /// The switch for those only that have not ended with code 0.
    pub const FAILED: u32 = 2;
}

impl Probe for Exit {
    type Event = Exit;
    const NAME: &'static str = "exitsnoop";
    const OBJECT: &'static [u8] = include_bytes!("../../objects/exitsnoop.o");
    const HOOKS: &'static [Hook] = &[Hook::new("ended", "sched_process_exit")];
    const KNOWN: &'static [&'static [Known]] = &[
        super::PARENTS,
        &[
            Known::field("TASK_EXIT_CODE", &["task_struct.exit_code"]),
            Known::field("TASK_START_TIME", &["task_struct.start_time"]),
        ],
    ];

    fn decode(bytes: &[u8]) -> Option<Exit> {
        let (head, _) = process::Exit::split(bytes)?;
        Some(Exit {
            task: head.task,
            parent: head.parent,
            age: Duration::from_nanos(head.task.time.saturating_sub(head.began)),
            how: Ended::of(head.status),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_a_code_or_a_signal() {
        let all = [0, 3 << 8, 9, 0x80 | 11].map(Ended::of);
        assert_eq!(all, [Ended::Code(0), Ended::Code(3), Ended::Signal(9, false), Ended::Signal(11, true)]);
    }
}
