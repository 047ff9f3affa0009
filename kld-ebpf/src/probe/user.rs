//! What happens within programs: names that are looked up, lines that are read.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use kld_ebpf_events::{Plain, Task, user};

use super::{FUNCTION, Hook, Known, Probe};

/// A host's name was looked up.
#[derive(Debug, Clone)]
pub struct HostLookup {
    /// Who, and when it ended.
    pub task: Task,
    /// How long it took.
    pub taken: Duration,
    /// The function of the C library.
    pub call: &'static str,
    /// The name.
    pub host: OsString,
    /// What getaddrinfo(3) returned where it has failed; 1 of the other functions.
    pub result: Result<(), i32>,
}

/// The functions by their numbers in [`user::Lookup::call`].
const CALLS: [&str; 3] = ["getaddrinfo", "gethostbyname", "gethostbyname2"];

impl Probe for HostLookup {
    type Event = HostLookup;
    const NAME: &'static str = "gethostlatency";
    const OBJECT: &'static [u8] = include_bytes!("../../objects/gethostlatency.o");
    const HOOKS: &'static [Hook] = &[
        Hook::user_entry("asks", CALLS[0]),
        Hook::user_end("getaddrinfo", CALLS[0]),
        Hook::user_entry("asks", CALLS[1]).optional(),
        Hook::user_end("gethostbyname", CALLS[1]).optional(),
        Hook::user_entry("asks", CALLS[2]).optional(),
        Hook::user_end("gethostbyname2", CALLS[2]).optional(),
    ];
    const KNOWN: &'static [&'static [Known]] = &[FUNCTION];

    fn decode(bytes: &[u8]) -> Option<HostLookup> {
        let (head, host) = user::Lookup::split(bytes)?;
        Some(HostLookup {
            task: head.task,
            taken: Duration::from_nanos(head.taken),
            call: CALLS.get(head.call as usize)?,
            host: OsString::from_vec(host.to_vec()),
            result: if head.result == 0 { Ok(()) } else { Err(head.result) },
        })
    }
}

/// A line was read by readline(3), as bash reads what people type.
#[derive(Debug, Clone)]
pub struct LineRead {
    /// Who, and when.
    pub task: Task,
    /// The line.
    pub line: OsString,
}

impl Probe for LineRead {
    type Event = LineRead;
    const NAME: &'static str = "bashreadline";
    const OBJECT: &'static [u8] = include_bytes!("../../objects/bashreadline.o");
    const HOOKS: &'static [Hook] = &[Hook::user_end("has_read", "readline")];
    const KNOWN: &'static [&'static [Known]] = &[FUNCTION];

    fn decode(bytes: &[u8]) -> Option<LineRead> {
        let (task, line) = Task::split(bytes)?;
        Some(LineRead { task, line: OsString::from_vec(line.to_vec()) })
    }
}
