//! Processes that are killed for want of memory.

use kld_ebpf_events::{Plain, Task, memory, text};

use super::{Hook, Known, Probe};

/// The kernel kills a process, since there is no memory for what another wants.
#[derive(Debug, Clone)]
pub struct OomKill {
    /// Who asked for memory.
    pub task: Task,
    /// Who is killed.
    pub pid: u32,
    /// What else is known of it; kernels before 6.8 tell its number alone.
    pub victim: Option<Victim>,
}

/// Who is killed for want of memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Victim {
    /// Its name.
    pub comm: String,
    /// Its user.
    pub uid: u32,
    /// Its control group in the second hierarchy.
    pub cgroup: u64,
    /// Its address space, in pages.
    pub pages: u64,
    /// What was added to its score, from -1000 to 1000.
    pub adjusted: i32,
}

impl Probe for OomKill {
    type Event = OomKill;
    const NAME: &'static str = "oomkill";
    const OBJECT: &'static [u8] = include_bytes!("../../objects/oomkill.o");
    const HOOKS: &'static [Hook] = &[
        Hook::new("marked", "mark_victim").with_arguments(2),
        Hook::new("marked_5_8", "mark_victim").with_arguments(1),
    ];
    const KNOWN: &'static [&'static [Known]] = &[
        super::PARENTS,
        super::OWNED,
        &[
            Known::field("TASK_COMM", &["task_struct.comm"]),
            Known::field("TASK_MM", &["task_struct.mm"]),
            Known::field("MM_TOTAL", &["mm_struct.total_vm"]),
            Known::field("TASK_SIGNAL", &["task_struct.signal"]),
            Known::field("SIGNAL_ADJUSTED", &["signal_struct.oom_score_adj"]),
        ],
    ];

    fn decode(bytes: &[u8]) -> Option<OomKill> {
        let (head, _) = memory::Oom::split(bytes)?;
        let victim = (head.told != 0).then(|| Victim {
            comm: text(&head.comm).to_string(),
            uid: head.uid,
            cgroup: head.cgroup,
            pages: head.pages,
            adjusted: head.adjusted,
        });
        Some(OomKill { task: head.task, pid: head.pid, victim })
    }
}
