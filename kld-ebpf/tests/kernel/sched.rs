//! Tasks that wait for a processor, beside what the kernel itself keeps of them (/proc/PID/schedstat).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kld_ebpf::events::histogram::{Histogram, NANOSECONDS, row, slot};
use kld_ebpf::events::table::Tally;
use kld_ebpf::probe::{CpuDist, RunqLat, RunqLen, RunqSlower};
use kld_ebpf::{Filter, Summary};

use crate::common::{Generator, cannot_trace, part, start_table, tally, trace};

/// What the kernel keeps of a process's first thread.
#[derive(Clone, Copy, Debug)]
struct Kept {
    /// How long it has run, in nanoseconds.
    ran: u64,
    /// How long it has waited.
    waited: u64,
    /// How often it has come on a processor.
    came: u64,
}

impl Kept {
    fn of(pid: u32) -> Kept {
        let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
        let numbers: Vec<u64> = text.split_whitespace().map(|word| word.parse().unwrap()).collect();
        Kept { ran: numbers[0], waited: numbers[1], came: numbers[2] }
    }

    /// When it waits for its word, and not before. A task may be about to sleep, look like it, and yet wait for the
    /// processor once more: the file tells the call of one that has left it.
    fn of_sleeping(pid: u32) -> Kept {
        let call = || std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap();
        while call().starts_with("running") {
            std::thread::sleep(Duration::from_millis(1));
        }
        Kept::of(pid)
    }

    fn since(self, before: Kept) -> Kept {
        let (ran, waited, came) =
            (self.ran - before.ran, self.waited - before.waited, self.came - before.came);
        Kept { ran, waited, came }
    }
}

/// One at a time: each takes a whole processor.
static TURN: Mutex<()> = Mutex::new(());

/// A test's turn, where this host lets anything be traced.
fn turn() -> Option<MutexGuard<'static, ()>> {
    (!cannot_trace()).then(|| TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

/// All that follow run on this processor.
pub fn pin(cpu: usize) {
    let mut set = nix::sched::CpuSet::new();
    let _ = set.set(cpu);
    let _ = nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set);
}

/// A processor that this process may use.
pub fn a_cpu() -> usize {
    let set = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).unwrap();
    (0..nix::sched::CpuSet::count()).rfind(|cpu| set.is_set(*cpu).unwrap_or(false)).unwrap()
}

/// Two processes on one processor that wake each other so many times, over two pipes.
fn ping_pong(times: u32) {
    let (mut there, mut back) = ([0; 2], [0; 2]);
    let mut byte = 0_u8;
    let byte = (&raw mut byte).cast();
    // SAFETY: system calls upon descriptors of our own; the child ends without returning.
    unsafe {
        libc::pipe(there.as_mut_ptr());
        libc::pipe(back.as_mut_ptr());
        let child = libc::fork();
        for _ in 0..times {
            if child == 0 {
                libc::read(there[0], byte, 1);
                libc::write(back[1], byte, 1);
            } else {
                libc::write(there[1], byte, 1);
                libc::read(back[0], byte, 1);
            }
        }
        match child {
            0 => libc::_exit(0),
            child => _ = libc::waitpid(child, std::ptr::null_mut(), 0),
        }
    }
}

fn spin(time: Duration) {
    let began = std::time::Instant::now();
    while began.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// Two processes that spin.
fn together(time: Duration) {
    // SAFETY: the child makes no use of what is the parent's, and ends without returning; the parent waits for it.
    unsafe {
        let child = libc::fork();
        spin(time);
        match child {
            0 => libc::_exit(0),
            child => _ = libc::waitpid(child, std::ptr::null_mut(), 0),
        }
    }
}

/// A generator on one processor.
fn pinned(deed: impl FnOnce()) -> Generator {
    let cpu = a_cpu();
    Generator::new(move || {
        pin(cpu);
        deed();
    })
}

/// What a probe counts of a generator, and what the kernel keeps of it.
fn watch<S: Summary>(generator: Generator, filter: &Filter) -> (BTreeMap<S::Key, S::Value>, Kept) {
    let before = Kept::of_sleeping(generator.pid);
    let (rows, after) = tally::<S, _>(generator, filter, Kept::of);
    (rows, after.since(before))
}

/// A process that has ended may still be on its processor.
#[track_caller]
fn about(told: u64, kernel: u64) {
    assert!(told.abs_diff(kernel) <= 1, "{told} was told, the kernel says {kernel}");
}

/// A duration that is right to a [`part`] and 5 ms.
#[track_caller]
fn close(told: u64, kernel: u64) {
    assert!(
        told.abs_diff(kernel) <= kernel / part() + 5_000_000,
        "{told} ns were told, the kernel says {kernel}"
    );
}

#[test]
fn every_wait_for_a_processor_is_counted_with_its_time() {
    let Some(_turn) = turn() else { return };
    let generator = pinned(|| ping_pong(5000));
    let pid = generator.pid;
    let filter = Filter { switches: RunqLat::BY_PROCESS, ..Filter::pid(pid) };
    let (table, kept) = watch::<RunqLat>(generator, &filter);
    assert!(kept.came >= 5000, "it was woken each time: {kept:?}");
    assert_eq!(table.len(), 2, "the generator and its child");
    let told = &table[&pid.into()];
    about(told.count(), kept.came);
    close(told.sum, kept.waited);
}

#[test]
fn who_shares_a_processor_waits_half_the_time() {
    let Some(_turn) = turn() else { return };
    let generator = pinned(|| together(Duration::from_millis(400)));
    let pid = generator.pid;
    let filter = Filter { switches: RunqLat::BY_THREAD, ..Filter::pid(pid) };
    let (table, kept) = watch::<RunqLat>(generator, &filter);
    let told = &table[&pid.into()];
    close(told.sum, kept.waited);
    assert!(told.sum > 100_000_000, "two that spin for 400 ms on one processor: {told:?}");
    assert!(told.max >= 1_000_000 && told.max <= told.sum, "{told:?}");
}

#[test]
fn each_slow_wait_is_told_and_no_short_one() {
    let Some(_turn) = turn() else { return };
    for shortest in [0, 1000] {
        let generator = pinned(|| together(Duration::from_millis(200)));
        let pid = generator.pid;
        let filter = Filter { numbers: vec![(RunqSlower::SHORTEST, shortest)], ..Filter::pid(pid) };
        let (events, counts) = trace::<RunqSlower>(generator, &filter);
        assert_eq!(counts.lost, 0);
        let least = Duration::from_micros(shortest.into());
        assert!(events.iter().all(|event| event.waited >= least), "{events:?}");
        let own: Vec<_> = events.iter().filter(|event| event.pid == pid).collect();
        assert!(own.iter().any(|event| event.waited >= Duration::from_millis(1)), "{events:?}");
        assert!(own.iter().all(|event| event.tid == pid && event.before.pid != pid), "{own:?}");
        let comm = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
        assert!(own.iter().all(|event| kld_ebpf::events::text(&event.comm) == comm.trim_end()));
    }
}

#[test]
fn the_time_on_a_processor_is_what_the_kernel_says() {
    let Some(_turn) = turn() else { return };
    let generator = pinned(|| {
        for _ in 0..50 {
            spin(Duration::from_millis(2));
            // SAFETY: it takes a number.
            unsafe { libc::usleep(1000) };
        }
    });
    let filter = Filter::pid(generator.pid);
    let (table, kept) = watch::<CpuDist>(generator, &filter);
    assert_eq!(table.len(), 1);
    about(table[&0].count(), kept.came);
    close(table[&0].sum, kept.ran);
}

#[test]
fn the_time_off_a_processor_is_that_of_the_sleeps() {
    let Some(_turn) = turn() else { return };
    // SAFETY: it takes a number.
    let generator = pinned(|| (0..40).for_each(|_| _ = unsafe { libc::usleep(5000) }));
    let pid = generator.pid;
    let filter = Filter { switches: CpuDist::OFF | CpuDist::BY_THREAD, ..Filter::pid(pid) };
    let (table, _) = watch::<CpuDist>(generator, &filter);
    let told = &table[&pid.into()];
    let long: u64 = told.rows()[row(slot(5000))..].iter().sum();
    assert!(long >= 40 && told.sum >= 40 * 5_000_000, "{told:?}");
}

#[test]
fn tasks_of_others_are_not_counted() {
    let Some(_turn) = turn() else { return };
    let count = |filter: &dyn Fn(u32) -> Filter| {
        let generator = pinned(|| ping_pong(500));
        let filter = filter(generator.pid);
        let (table, _) = watch::<RunqLat>(generator, &filter);
        table.values().map(Histogram::count).sum::<u64>()
    };
    let comm = std::fs::read_to_string("/proc/thread-self/comm").unwrap().trim_end().to_string();
    let some = count(&Filter::pid);
    assert!((1000..2000).contains(&some), "{some}");
    assert!(count(&|pid| Filter { uid: Some(0), ..Filter::pid(pid) }) >= 1000);
    assert_eq!(count(&|pid| Filter { uid: Some(4711), ..Filter::pid(pid) }), 0);
    assert!(count(&|pid| Filter { comm: Some(comm.clone()), ..Filter::pid(pid) }) >= 1000);
    assert_eq!(count(&|pid| Filter { comm: Some(format!(".{comm}")), ..Filter::pid(pid) }), 0);
}

#[test]
fn a_control_group_s_tasks_are_counted() {
    let Some(_turn) = turn() else { return };
    let Some(root) = kld_ebpf::names::cgroup_root() else {
        return eprintln!("not tested: this host has no control groups of the second version");
    };
    let folder = root.join(format!("kld-test-sched-{}", std::process::id()));
    let below = folder.join("below");
    if let Err(error) = std::fs::create_dir_all(&below) {
        return eprintln!("not tested: no control group can be made here: {error}");
    }
    let other = folder.join("other");
    std::fs::create_dir(&other).unwrap();
    let counts = [&folder, &below, &other].map(|wanted| {
        let generator = pinned(|| ping_pong(200));
        std::fs::write(below.join("cgroup.procs"), generator.pid.to_string()).unwrap();
        let filter = Filter { cgroup: Some(wanted.clone()), ..Filter::pid(generator.pid) };
        watch::<RunqLat>(generator, &filter).0.values().map(Histogram::count).sum::<u64>()
    });
    for gone in [other, below, folder] {
        std::fs::remove_dir(gone).unwrap();
    }
    assert!(counts[0] >= 400 && counts[1] >= 400 && counts[2] == 0, "{counts:?}");
}

#[test]
fn what_is_counted_is_in_one_interval_and_in_no_other() {
    let Some(_turn) = turn() else { return };
    let generator = pinned(|| ping_pong(20_000));
    let pid = generator.pid;
    let before = Kept::of_sleeping(pid);
    let filter = Filter { switches: NANOSECONDS | RunqLat::BY_THREAD, ..Filter::pid(pid) };
    let mut table = start_table::<RunqLat>(&filter);
    let running = std::thread::spawn(move || generator.go_and_look(Kept::of));
    let (mut ours, mut all, mut intervals) = (0, 0, 0);
    loop {
        let over = running.is_finished();
        let rows = table.take().unwrap();
        ours += rows.get(&pid.into()).map_or(0, Histogram::count);
        all += rows.values().map(Histogram::count).sum::<u64>();
        intervals += 1;
        if over {
            break;
        }
    }
    table.detach();
    about(ours, running.join().unwrap().since(before).came);
    assert!(intervals > 3, "only {intervals} intervals");
    assert_eq!(table.counts().unwrap().seen, all);
    assert!(table.take().unwrap().is_empty(), "nothing is told twice");
}

/// So many processes that spin.
const SPINNERS: u32 = 4;

#[test]
fn a_processor_s_queue_is_as_long_as_there_are_others_that_want_it() {
    let Some(_turn) = turn() else { return };
    let (cpu, frequency) = (a_cpu(), 499);
    let generator = pinned(|| {
        // SAFETY: the children make no use of what is the parent's, and end without returning; the parent waits.
        unsafe {
            for _ in 1..SPINNERS {
                if libc::fork() == 0 {
                    spin(Duration::from_millis(800));
                    libc::_exit(0);
                }
            }
            spin(Duration::from_millis(800));
            while libc::waitpid(-1, std::ptr::null_mut(), 0) > 0 {}
        }
    });
    let began = std::time::Instant::now();
    let (rows, ()) = tally::<RunqLen, _>(generator, &Filter { frequency, ..Filter::all() }, |_| ());
    let elapsed = began.elapsed().as_secs_f64();
    let count = |at: &dyn Fn(u32, u32) -> bool| -> u64 {
        let chosen = rows.iter().filter(|(queue, _)| at(queue.cpu, queue.length));
        chosen.map(|(_, total)| total.count).sum()
    };
    // They spin for 800 ms of what was looked at; others may want the processor too.
    let long = count(&|own, length| own == cpu as u32 && length >= SPINNERS - 1);
    let spun = (0.8 * f64::from(frequency)) as u64;
    // Where this is a virtual machine, its processor may itself have waited for one.
    assert!(long >= spun / 2, "{long} of {spun}: {rows:?}");
    // Each processor is looked at so often, whatever it does.
    let most = (elapsed * f64::from(frequency)) as u64 + 10;
    let all = count(&|own, _| own == cpu as u32);
    assert!(all >= long && all <= most, "{all} of {most}");
    let longest = rows.keys().map(|queue| queue.length).max().unwrap();
    assert!(longest < 10_000, "a number of tasks, and nothing else: {longest}");
}
