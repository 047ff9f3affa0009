//! Capabilities that the kernel looks for.

use kld_ebpf_events::{Plain, Task, process};

use super::{Hook, Known, Probe};

/// The kernel has looked whether a task has a capability.
#[derive(Debug, Clone)]
pub struct Capable {
    /// Who.
    pub task: Task,
    /// The capability, as in linux/capability.h.
    pub capability: u32,
    /// The number of the user namespace that it is needed in.
    pub namespace: u32,
    /// Whether the task has it.
    pub granted: bool,
}

impl Capable {
    /// The switch for what was refused only, in [`Filter::switches`](crate::Filter).
    pub const FAILED: u32 = 1;
    /// The switch for each process's capabilities once only.
    pub const ONCE: u32 = 2;

    /// The capability's name, such as `CAP_SYS_ADMIN`; `?` where it is newer than this table.
    pub fn name(&self) -> &'static str {
        NAMES.get(self.capability as usize).unwrap_or(&"?")
    }
}

impl Probe for Capable {
    type Event = Capable;
    const NAME: &'static str = "capable";
    const OBJECT: &'static [u8] = include_bytes!("../../objects/capable.o");
    const HOOKS: &'static [Hook] = &[Hook::new("looked_for", "cap_capable").since("6.14")];
    const KNOWN: &'static [&'static [Known]] = &[&[Known::field("USER_NUMBER", &["user_namespace.ns.inum"])]];

    fn decode(bytes: &[u8]) -> Option<Capable> {
        let (head, _) = process::Capable::split(bytes)?;
        let (capability, namespace) = (head.capability, head.namespace);
        Some(Capable { task: head.task, capability, namespace, granted: head.result >= 0 })
    }
}

/// The capabilities by their numbers (linux/capability.h).
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];
