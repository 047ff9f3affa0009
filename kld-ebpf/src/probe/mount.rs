//! File systems that are mounted and unmounted.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use kld_ebpf_events::file::{self, NONE, PATH};
use kld_ebpf_events::{Plain, Task};

use super::{Hook, Known, Probe, REGISTERS};

/// A system call that mounts or unmounts, or takes part in it, has ended.
#[derive(Debug, Clone)]
pub struct Mount {
    /// Who.
    pub task: Task,
    /// The number of the mount namespace.
    pub namespace: u32,
    /// The call.
    pub call: MountCall,
    /// What it returned, or the error's number.
    pub result: Result<u64, i32>,
}

impl Mount {
    /// The switch for failures only, in [`Filter::switches`](crate::Filter).
    pub const FAILED: u32 = 1;
}

/// A call with its arguments; a text is `None` where a null pointer was given.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the arguments have the names of their manual pages")]
pub enum MountCall {
    /// mount(2)
    Mount {
        source: Option<OsString>,
        target: Option<OsString>,
        kind: Option<OsString>,
        flags: u64,
        data: Option<OsString>,
    },
    /// umount2(2)
    Umount { target: Option<OsString>, flags: u64 },
    /// fsopen(2)
    Fsopen { kind: Option<OsString>, flags: u64 },
    /// fsconfig(2); a value that is no text is `None`.
    Fsconfig { fd: i32, command: u32, key: Option<OsString>, value: Option<OsString>, aux: i32 },
    /// fsmount(2)
    Fsmount { fd: i32, flags: u64, attributes: u64 },
    /// open_tree(2)
    OpenTree { folder: i32, path: Option<OsString>, flags: u64 },
    /// move_mount(2)
    MoveMount { from_folder: i32, from: Option<OsString>, to_folder: i32, to: Option<OsString>, flags: u64 },
    /// mount_setattr(2)
    SetAttributes { folder: i32, path: Option<OsString>, flags: u64 },
}

impl Probe for Mount {
    type Event = Mount;
    const NAME: &'static str = "mountsnoop";
    const OBJECT: &'static [u8] = include_bytes!("../../objects/mountsnoop.o");
    const HOOKS: &'static [Hook] = &[Hook::new("ended", "sys_exit")];
    const KNOWN: &'static [&'static [Known]] = &[
        REGISTERS,
        &[
            Known::call("SYS_MOUNT", libc::SYS_mount),
            Known::call("SYS_UMOUNT2", libc::SYS_umount2),
            Known::call("SYS_FSOPEN", libc::SYS_fsopen),
            Known::call("SYS_FSCONFIG", libc::SYS_fsconfig),
            Known::call("SYS_FSMOUNT", libc::SYS_fsmount),
            Known::call("SYS_OPEN_TREE", libc::SYS_open_tree),
            Known::call("SYS_MOVE_MOUNT", libc::SYS_move_mount),
            Known::call("SYS_MOUNT_SETATTR", libc::SYS_mount_setattr),
            Known::field("TASK_NAMESPACES", &["task_struct.nsproxy"]),
            Known::field("NAMESPACES_MOUNT", &["nsproxy.mnt_ns"]),
            Known::field("MOUNT_NUMBER", &["mnt_namespace.ns.inum"]),
        ],
    ];

    fn decode(bytes: &[u8]) -> Option<Mount> {
        let (head, texts) = file::Mount::split(bytes)?;
        let text = |index: usize| {
            let length = head.lengths[index];
            let all = (length != NONE).then(|| texts.get(index * PATH..(index + 1) * PATH))??;
            Some(OsString::from_vec(all.get(..length as usize)?.to_vec()))
        };
        let [first, second, third] = head.numbers;
        let call = match head.call {
            file::MOUNT => MountCall::Mount {
                source: text(0),
                target: text(1),
                kind: text(2),
                flags: first,
                data: text(3),
            },
            file::UMOUNT => MountCall::Umount { target: text(0), flags: first },
            file::FSOPEN => MountCall::Fsopen { kind: text(0), flags: first },
            file::FSCONFIG => MountCall::Fsconfig {
                fd: first as i32,
                command: second as u32,
                key: text(0),
                value: text(1),
                aux: third as i32,
            },
            file::FSMOUNT => MountCall::Fsmount { fd: first as i32, flags: second, attributes: third },
            file::OPEN_TREE => MountCall::OpenTree { folder: first as i32, path: text(0), flags: second },
            file::MOVE_MOUNT => MountCall::MoveMount {
                from_folder: first as i32,
                from: text(0),
                to_folder: second as i32,
                to: text(1),
                flags: third,
            },
            file::MOUNT_SETATTR => {
                MountCall::SetAttributes { folder: first as i32, path: text(0), flags: second }
            }
            _ => return None,
        };
        let result = u64::try_from(head.result).map_err(|_| -head.result as i32);
        Some(Mount { task: head.task, namespace: head.namespace, call, result })
    }
}
