//! What the kernel has of BPF: what it lists, and what of it a process holds.

use std::collections::BTreeSet;

/// A kind of thing that the kernel numbers and lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Program,
    Map,
    Link,
}

use Kind::{Link, Map, Program};

/// A program, map or link by its number, which no other gets for a long time.
pub type Held = BTreeSet<(Kind, u32)>;

impl Kind {
    const ALL: [Kind; 3] = [Program, Map, Link];

    /// The command of bpf(2) that tells which comes next: `BPF_PROG_GET_NEXT_ID` and its like in linux/bpf.h.
    const fn next(self) -> i32 {
        match self {
            Program => 11,
            Map => 12,
            Link => 31,
        }
    }

    /// Where a descriptor of one tells its number, in /proc/PID/fdinfo.
    const fn field(self) -> &'static str {
        match self {
            Program => "prog_id:",
            Map => "map_id:",
            Link => "link_id:",
        }
    }
}

/// All that the kernel has.
pub fn listed() -> Held {
    Kind::ALL.into_iter().flat_map(|kind| ids(kind).map(move |id| (kind, id))).collect()
}

/// The numbers of a kind, in their order.
fn ids(kind: Kind) -> impl Iterator<Item = u32> {
    let after = move |id: &u32| {
        // The number before it, room for its own, and no flags.
        let mut arguments = [*id, 0, 0];
        // SAFETY: the arguments are alive and as long as they say.
        let outcome = unsafe { libc::syscall(libc::SYS_bpf, kind.next(), arguments.as_mut_ptr(), 12) };
        let end = std::io::Error::last_os_error().raw_os_error() == Some(libc::ENOENT);
        assert!(outcome == 0 || end, "{kind:?}: {}", std::io::Error::last_os_error());
        (outcome == 0).then_some(arguments[1])
    };
    std::iter::successors(after(&0), after)
}

/// What of it a process holds by a descriptor.
pub fn held(pid: u32) -> Held {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
    let infos = entries.filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
    infos
        .flat_map(|info| Kind::ALL.into_iter().filter_map(move |kind| Some((kind, id(&info, kind)?))))
        .collect()
}

fn id(info: &str, kind: Kind) -> Option<u32> {
    info.lines().find_map(|line| line.strip_prefix(kind.field())?.trim().parse().ok())
}
