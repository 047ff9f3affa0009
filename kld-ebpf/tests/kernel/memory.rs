//! Memory that runs short: in a control group of the test's own, never on the host.

use std::time::{Duration, Instant};

use kld_ebpf::Filter;
use kld_ebpf::probe::{OomKill, Reclaim, Victim};

use crate::common::{Generator, cannot_trace, trace};
use crate::group::Group;

const LIMIT: u64 = 16 << 20;

#[test]
fn a_task_at_its_group_s_limit_is_told_with_what_it_had_to_free() {
    if cannot_trace() {
        return;
    }
    let Some(group) = Group::new("memory", "reclaim").filter(|group| group.limit_memory(LIMIT)) else {
        return;
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    if nix::sys::statfs::fstatfs(file.as_file()).unwrap().filesystem_type() == nix::sys::statfs::TMPFS_MAGIC {
        eprintln!("not tested: files in memory are not given up");
        return;
    }
    file.as_file().set_len(8 * LIMIT).unwrap();
    let path = std::ffi::CString::new(file.path().to_str().unwrap()).unwrap();
    let read_all = move || {
        let mut room = [0_u8; 64 << 10];
        // SAFETY: the path and the room are alive.
        unsafe {
            let fd = libc::open(path.as_ptr(), libc::O_RDONLY);
            while libc::read(fd, room.as_mut_ptr().cast(), room.len()) > 0 {}
        }
    };
    for (switches, is_told) in [(Reclaim::GROUPS, true), (0, false)] {
        let generator = Generator::new(read_all.clone());
        let (pid, began) = (generator.pid, Instant::now());
        group.take(pid);
        let filter = Filter { switches, ..Filter::pid(pid) };
        let (events, counts) = trace::<Reclaim>(generator, &filter);
        let (of_group, of_host): (Vec<&Reclaim>, Vec<&Reclaim>) =
            events.iter().partition(|event| event.group);
        assert_eq!((of_group.is_empty(), counts.lost), (!is_told, 0), "{of_host:?}");
        for event in &of_group {
            assert_eq!((event.task.pid, event.task.tid), (pid, pid));
            assert!(event.lasted > Duration::ZERO && event.lasted < began.elapsed());
        }
        let freed: u64 = of_group.iter().map(|event| event.pages).sum();
        assert!(!is_told || freed * 4096 > LIMIT, "{freed} pages were freed");
    }
}

#[test]
fn a_process_that_is_killed_for_want_of_memory_is_told() {
    if cannot_trace() {
        return;
    }
    let Some(group) = Group::new("memory", "oom").filter(|group| group.limit_memory(LIMIT)) else { return };
    let generator = Generator::new(|| {
        let length = 4 * LIMIT as usize;
        // SAFETY: new memory of this length, of which each page is written to.
        unsafe {
            libc::setuid(4808);
            let (kind, access) =
                (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, libc::PROT_READ | libc::PROT_WRITE);
            let new = libc::mmap(std::ptr::null_mut(), length, access, kind, -1, 0).cast::<u8>();
            (0..length).step_by(4096).for_each(|at| new.add(at).write_volatile(1));
        }
    });
    let pid = generator.pid;
    group.take(pid);
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().trim_end().to_string();
    let (events, counts) = trace::<OomKill>(generator, &Filter::pid(pid));
    assert_eq!((events.len(), counts.lost), (1, 0));
    assert_eq!((events[0].pid, events[0].task.pid), (pid, pid), "it asked, and was killed");
    let Some(victim) = &events[0].victim else { return eprintln!("this kernel tells the number alone") };
    let Victim { pages, cgroup, .. } = *victim;
    assert!(pages * 4096 > 4 * LIMIT, "its memory has {pages} pages");
    assert_eq!(cgroup, events[0].task.cgroup);
    assert_eq!(*victim, Victim { comm, uid: 4808, cgroup, pages, adjusted: victim.adjusted });
    let adjusted = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    assert_eq!(victim.adjusted.to_string(), adjusted.trim_end(), "it has inherited ours");
}
