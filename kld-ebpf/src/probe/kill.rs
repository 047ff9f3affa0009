//! Signals that are sent.

use kld_ebpf_events::{Plain, Task, process};

use super::{Hook, Known, Probe, REGISTERS};

/// A kill(2), tkill(2) or tgkill(2) that has ended.
#[derive(Debug, Clone)]
pub struct Kill {
    /// Who sent it.
    pub task: Task,
    /// To whom, as the call has it: 0 and negative numbers are groups.
    pub target: i32,
    /// The signal; 0 only asks whether one could be sent.
    pub signal: i32,
    /// The error's number, where it was not sent.
    pub result: Result<(), i32>,
}

impl Kill {
    /// The switch for failures only, in [`Filter::switches`](crate::Filter).
    pub const FAILED: u32 = 1;
}

impl Probe for Kill {
    type Event = Kill;
    const NAME: &'static str = "killsnoop";
    const OBJECT: &'static [u8] = include_bytes!("../../objects/killsnoop.o");
    const HOOKS: &'static [Hook] = &[Hook::new("ended", "sys_exit")];
    const KNOWN: &'static [&'static [Known]] = &[
        REGISTERS,
        &[
            Known::call("SYS_KILL", libc::SYS_kill),
            Known::call("SYS_TKILL", libc::SYS_tkill),
            Known::call("SYS_TGKILL", libc::SYS_tgkill),
        ],
    ];

    fn decode(bytes: &[u8]) -> Option<Kill> {
        let (head, _) = process::Kill::split(bytes)?;
        Some(Kill {
            task: head.task,
            target: head.target,
            signal: head.signal,
            result: if head.result < 0 { Err(-head.result) } else { Ok(()) },
        })
    }
}
