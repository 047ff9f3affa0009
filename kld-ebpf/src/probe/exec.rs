//! Programs that are started, or are not.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use kld_ebpf_events::{Plain, Task, process};

use super::{Hook, Known, Probe, REGISTERS};

/// An execve(2) or execveat(2) that has ended.
#[derive(Debug, Clone)]
pub struct Exec {
    /// Who, by its new name where it was started.
    pub task: Task,
    /// The parent process.
    pub parent: u32,
    /// The arguments, the program's own name first; where it was not started, its path alone.
    pub args: Vec<OsString>,
    /// Whether there were more arguments than are told.
    pub cut: bool,
    /// The error's number, where it was not started.
    pub result: Result<(), i32>,
}

impl Exec {
    /// The switch for those too that were not started, in [`Filter::switches`](crate::Filter).
    pub const FAILED: u32 = 1;
}

impl Probe for Exec {
    type Event = Exec;
    const NAME: &'static str = "execsnoop";
    const OBJECT: &'static [u8] = include_bytes!("../../objects/execsnoop.o");
    const HOOKS: &'static [Hook] =
        &[Hook::new("started", "sched_process_exec"), Hook::new("failed", "sys_exit").when(Self::FAILED)];
    const KNOWN: &'static [&'static [Known]] = &[
        REGISTERS,
        super::PARENTS,
        &[
            Known::call("SYS_EXECVE", libc::SYS_execve),
            Known::call("SYS_EXECVEAT", libc::SYS_execveat),
            Known::field("TASK_MM", &["task_struct.mm"]),
            Known::field("MM_ARG_START", &["mm_struct.arg_start"]),
            Known::field("MM_ARG_END", &["mm_struct.arg_end"]),
        ],
    ];

    fn decode(bytes: &[u8]) -> Option<Exec> {
        let (head, args) = process::Exec::split(bytes)?;
        // The NUL after the last argument separates nothing.
        let text = args.strip_suffix(&[0]).unwrap_or(args);
        let args: Vec<_> =
            text.split(|byte| *byte == 0).map(|arg| OsString::from_vec(arg.to_vec())).collect();
        let told = bytes.len() - size_of::<process::Exec>();
        Some(Exec {
            task: head.task,
            parent: head.parent,
            args,
            cut: head.length > told as u64,
            result: if head.result < 0 { Err(-head.result) } else { Ok(()) },
        })
    }
}
