//! Stacks of generators whose functions are known by name.

use std::time::{Duration, Instant};

use kld_ebpf::events::Counts;
use kld_ebpf::events::stack::{Ids, Of};
use kld_ebpf::events::table::Total;
use kld_ebpf::probe::{OffCpu, Profile, Stacked, WakeupTime, times};
use kld_ebpf::symbols::Frame;
use kld_ebpf::{Filter, Stack, Summary, Symbols, Table};

use crate::common::{Generator, cannot_trace, part, start_table};

/// Functions with frames, which compilers leave out: the outer one calls the inner one, and that the deed, whose only
/// call is of the system.
mod named {
    use std::arch::naked_asm;

    #[cfg(target_arch = "x86_64")]
    macro_rules! calls {
        ($name:ident, $inner:path) => {
            #[unsafe(naked)]
            pub extern "C" fn $name() {
                naked_asm!("push rbp", "mov rbp, rsp", "call {}", "pop rbp", "ret", sym $inner)
            }
        };
    }

    #[cfg(target_arch = "aarch64")]
    macro_rules! calls {
        ($name:ident, $inner:path) => {
            #[unsafe(naked)]
            pub extern "C" fn $name() {
                naked_asm!(
                    "stp x29, x30, [sp, #-16]!", "mov x29, sp", "bl {}", "ldp x29, x30, [sp], #16", "ret", sym $inner
                )
            }
        };
    }

    pub static SHORT: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 10_000_000 };

    /// nanosleep(2) for 10 ms, in place: a library's function would have no frame.
    #[cfg(target_arch = "x86_64")]
    #[unsafe(naked)]
    pub extern "C" fn kld_naps() {
        naked_asm!(
            "push rbp", "mov rbp, rsp", "mov eax, {call}", "lea rdi, [rip + {time}]", "xor esi, esi", "syscall",
            "pop rbp", "ret", call = const libc::SYS_nanosleep, time = sym SHORT
        )
    }

    #[cfg(target_arch = "aarch64")]
    #[unsafe(naked)]
    pub extern "C" fn kld_naps() {
        naked_asm!(
            "stp x29, x30, [sp, #-16]!", "mov x29, sp", "mov x8, {call}", "adrp x0, {time}",
            "add x0, x0, :lo12:{time}", "mov x1, xzr", "svc #0", "ldp x29, x30, [sp], #16", "ret",
            call = const libc::SYS_nanosleep, time = sym SHORT
        )
    }

    calls!(kld_goes_to_nap, kld_naps);

    /// Counts down, for about a millisecond.
    #[cfg(target_arch = "x86_64")]
    #[unsafe(naked)]
    pub extern "C" fn kld_spins() {
        naked_asm!("push rbp", "mov rbp, rsp", "mov ecx, 1000000", "2: dec ecx", "jnz 2b", "pop rbp", "ret")
    }

    #[cfg(target_arch = "aarch64")]
    #[unsafe(naked)]
    pub extern "C" fn kld_spins() {
        naked_asm!(
            "stp x29, x30, [sp, #-16]!",
            "mov x29, sp",
            "mov x9, #0xf0000",
            "2: subs x9, x9, #1",
            "b.ne 2b",
            "ldp x29, x30, [sp], #16",
            "ret"
        )
    }

    calls!(kld_goes_to_spin, kld_spins);
}

/// So often it sleeps, each time for 10 ms.
const NAPS: u32 = 20;

fn naps() {
    (0..NAPS).for_each(|_| named::kld_goes_to_nap());
}

/// membarrier(2) of all: a thread of the kernel, that of RCU, must wake for it.
fn wait_for_all_processors() {
    const GLOBAL: i32 = 1;
    // SAFETY: it takes numbers.
    unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
}

/// What a probe counted of a generator: each key with its names, and how long the generator took.
struct Told<S: Summary> {
    rows: Vec<(S::Key, S::Value, Calls)>,
    counts: Counts,
    elapsed: Duration,
}

/// The two sides of a stack.
#[derive(Debug, PartialEq)]
struct Calls {
    kernel: Option<Vec<Frame>>,
    user: Option<Vec<Frame>>,
    lost: bool,
}

impl Calls {
    fn has(frames: &Option<Vec<Frame>>, function: &str) -> bool {
        frames.iter().flatten().any(|frame| frame.name().rsplit("::").next() == Some(function))
    }

    fn passes(&self, function: &str) -> bool {
        Calls::has(&self.user, function)
    }

    fn enters(&self, function: &str) -> bool {
        Calls::has(&self.kernel, function)
    }
}

fn calls<S: Stacked>(table: &Table<S>, (ids, pid): (Ids, u32), symbols: &mut Symbols) -> Calls {
    let [kernel, user] = [ids.kernel, ids.user].map(|id| table.stack(id).unwrap());
    let lost = [&kernel, &user].contains(&&Stack::Lost);
    let kernel = if let Stack::Calls(all) = kernel { Some(symbols.kernel(&all)) } else { None };
    let user = if let Stack::Calls(all) = user { Some(symbols.user(pid, &all)) } else { None };
    Calls { kernel, user, lost }
}

/// Runs a generator beside a probe.
fn watch<S: Stacked>(generator: Generator, filter: &Filter) -> Told<S> {
    let mut table = start_table::<S>(filter);
    let began = Instant::now();
    generator.go_and_hold(|_| {
        let elapsed = began.elapsed();
        table.detach();
        let (counted, mut symbols) = (table.take().unwrap(), Symbols::new());
        let named = |(key, value)| (key, value, calls(&table, S::stacks(&key), &mut symbols));
        Told { rows: counted.into_iter().map(named).collect(), counts: table.counts().unwrap(), elapsed }
    })
}

impl<S: Stacked<Value = Total>> Told<S> {
    /// How often and how long, of those stacks that a test chooses.
    fn of(&self, chosen: impl Fn(&Calls) -> bool) -> (u64, Duration) {
        let chosen = self.rows.iter().filter(|(.., calls)| chosen(calls));
        let (count, time) =
            chosen.fold((0, 0), |(count, time), (_, total, _)| (count + total.count, time + total.time));
        (count, Duration::from_nanos(time))
    }
}

#[test]
fn the_time_of_sleeps_is_told_with_the_functions_that_sleep() {
    if cannot_trace() {
        return;
    }
    let generator = Generator::held(naps);
    let pid = generator.pid;
    let told = watch::<OffCpu>(generator, &Filter::pid(pid));
    let (count, time) = told.of(|calls| calls.passes("kld_naps") && calls.passes("kld_goes_to_nap"));
    let slept = Duration::from_millis(10) * NAPS;
    assert!(count >= NAPS.into(), "{count}");
    assert!(time >= slept && time <= told.elapsed, "{time:?} of {slept:?} to {:?}", told.elapsed);
    // Nothing else of the generator but its waiting for words takes long.
    let (_, in_nap) = told.of(|calls| calls.enters("do_nanosleep"));
    assert!(in_nap >= slept && in_nap <= time, "{in_nap:?}");
    let own: Vec<&Of> = told.rows.iter().map(|(key, ..)| key).filter(|key| key.pid == pid).collect();
    let comm = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
    assert!(own.iter().all(|key| kld_ebpf::events::text(&key.comm) == comm.trim_end()), "{own:?}");
    assert_eq!(own.len(), told.rows.len(), "nobody else's");
    assert_eq!((told.counts.lost, told.rows.iter().any(|(.., calls)| calls.lost)), (0, false));
}

#[test]
fn a_stack_begins_where_the_task_left_the_processor() {
    if cannot_trace() {
        return;
    }
    let generator = Generator::held(naps);
    let filter = Filter::pid(generator.pid);
    let told = watch::<OffCpu>(generator, &filter);
    let sleeping = told.rows.iter().find(|(.., calls)| calls.passes("kld_naps")).unwrap();
    let names = |frames: &Option<Vec<Frame>>| -> Vec<String> {
        frames.iter().flatten().map(|frame| frame.name()).collect()
    };
    let (kernel, user) = (names(&sleeping.2.kernel), names(&sleeping.2.user));
    // None of the calls of the tracing; the innermost of the generator's is that which sleeps.
    assert!(matches!(kernel[0].as_str(), "__schedule" | "schedule"), "{kernel:?}");
    assert!(user[0].ends_with("kld_naps") && user[1].ends_with("kld_goes_to_nap"), "{user:?}");
}

#[test]
fn only_the_wanted_side_of_stacks_is_told() {
    if cannot_trace() {
        return;
    }
    for (switches, kernel, user) in [(OffCpu::NO_KERNEL, false, true), (OffCpu::NO_USER, true, false)] {
        let generator = Generator::held(naps);
        let filter = Filter { switches, ..Filter::pid(generator.pid) };
        let told = watch::<OffCpu>(generator, &filter);
        let (count, _) = told.of(|calls| calls.kernel.is_some() == kernel && calls.user.is_some() == user);
        assert_eq!((count, true), (told.of(|_| true).0, count >= NAPS.into()));
    }
}

#[test]
fn only_the_wanted_times_and_states_are_told() {
    if cannot_trace() {
        return;
    }
    let (five, hour) = (Duration::from_millis(5), Duration::from_secs(3600));
    let state = |state| vec![(OffCpu::ONLY_STATE, state)];
    for (numbers, wanted) in [
        (times(Some(five), None), true),
        (times(Some(five), Some(hour)), true),
        (times(Some(hour), None), false),
        (times(None, Some(five)), false),
        (state(1), true),
        (state(2), false),
        (state(0), false),
    ] {
        let generator = Generator::held(naps);
        let filter = Filter { numbers: numbers.clone(), ..Filter::pid(generator.pid) };
        let told = watch::<OffCpu>(generator, &filter);
        let (count, _) = told.of(|calls| calls.enters("do_nanosleep"));
        // Another task may have taken the processor on the way to sleep.
        let naps = u64::from(NAPS);
        assert!(if wanted { count >= naps } else { count < naps / 2 }, "{count} with {numbers:?}");
    }
}

/// Whether a process is a thread of the kernel; `None` where it has ended.
fn is_of_kernel(pid: u32) -> Option<bool> {
    const PF_KTHREAD: u32 = 0x0020_0000;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The flags are the ninth field (proc_pid_stat(5)), and the name, the second, may hold anything.
    let flags: u32 = stat.rsplit_once(')')?.1.split_whitespace().nth(6)?.parse().ok()?;
    Some(flags & PF_KTHREAD != 0)
}

#[test]
fn threads_of_the_kernel_are_told_or_left_out() {
    if cannot_trace() {
        return;
    }
    let kinds = |switches| {
        let filter = Filter { switches, ..Filter::all() };
        let generator = Generator::held(|| {
            naps();
            (0..NAPS).for_each(|_| wait_for_all_processors());
        });
        let told = watch::<OffCpu>(generator, &filter);
        let any = |kind| told.rows.iter().any(|(key, ..)| is_of_kernel(key.pid) == Some(kind));
        (any(true), any(false))
    };
    assert_eq!(kinds(0), (true, true));
    assert_eq!(kinds(OffCpu::ONLY_USER_THREADS), (false, true));
    assert_eq!(kinds(OffCpu::ONLY_KERNEL_THREADS), (true, false));
}

#[test]
fn a_stack_that_finds_no_room_is_told_as_lost_and_its_time_is_not() {
    if cannot_trace() {
        return;
    }
    let generator = Generator::held(|| {
        naps();
        // SAFETY: it takes a number.
        (0..NAPS).for_each(|_| _ = unsafe { libc::usleep(1000) });
    });
    // There is one place in each of the two maps, and two kinds of sleep have four stacks.
    let filter = Filter { stacks: Some(1), ..Filter::pid(generator.pid) };
    let told = watch::<OffCpu>(generator, &filter);
    let (lost, _) = told.of(|calls| calls.lost);
    let (count, time) = told.of(|_| true);
    assert!(
        lost > 0 && count >= NAPS.into() && time >= Duration::from_millis(10) * NAPS,
        "{lost} of {count}"
    );
}

/// A child that naps and then wakes its parent, over a pipe, and waits until that has heard it, over another.
fn is_woken() {
    let (mut word, mut heard) = ([0; 2], [0; 2]);
    let mut byte = 0_u8;
    let byte = (&raw mut byte).cast();
    // SAFETY: system calls upon descriptors of our own; the child ends without returning.
    unsafe {
        libc::pipe(word.as_mut_ptr());
        libc::pipe(heard.as_mut_ptr());
        let child = libc::fork();
        for _ in 0..NAPS {
            if child == 0 {
                named::kld_goes_to_nap();
                libc::write(word[1], byte, 1);
                libc::read(heard[0], byte, 1);
            } else {
                libc::read(word[0], byte, 1);
                libc::write(heard[1], byte, 1);
            }
        }
        match child {
            0 => libc::_exit(0),
            child => _ = libc::waitpid(child, std::ptr::null_mut(), 0),
        }
    }
}

#[test]
fn who_wakes_a_task_is_told_with_the_time_that_it_slept() {
    if cannot_trace() {
        return;
    }
    let generator = Generator::held(is_woken);
    let pid = generator.pid;
    let told = watch::<WakeupTime>(generator, &Filter::pid(pid));
    let wakes = |(key, _, calls): &&(_, Total, Calls)| {
        let key: &kld_ebpf::events::stack::Wakeup = key;
        let writes = calls.kernel.iter().flatten().any(|frame| frame.name().ends_with("pipe_write"));
        writes && key.woken == pid && key.waker != pid
    };
    let mine: Vec<_> = told.rows.iter().filter(wakes).collect();
    let count: u64 = mine.iter().map(|(_, total, _)| total.count).sum();
    let time = Duration::from_nanos(mine.iter().map(|(_, total, _)| total.time).sum());
    // Now and then the child may have come to its nap before the parent came to its sleep.
    let slept = Duration::from_millis(10) * NAPS;
    assert!((u64::from(NAPS) / 2..=NAPS.into()).contains(&count), "{count}");
    assert!(time >= slept / 2 && time <= told.elapsed, "{time:?} of {slept:?} to {:?}", told.elapsed);
    let comm = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
    for (key, ..) in &mine {
        let names = [&key.waker_comm, &key.woken_comm].map(|name| kld_ebpf::events::text(name));
        assert_eq!(names, [comm.trim_end(); 2]);
    }
    // The naps end by the clock, which whoever runs then is told for.
    let (by_clock, _) = told.of(|calls| calls.enters("hrtimer_wakeup"));
    assert!(by_clock >= u64::from(NAPS) / 2, "{by_clock}");
    assert_eq!((told.counts.lost, told.rows.iter().any(|(.., calls)| calls.lost)), (0, false));
}

#[test]
fn only_wakeups_of_wanted_tasks_and_times_are_told() {
    if cannot_trace() {
        return;
    }
    let hour = Some(Duration::from_secs(3600));
    for (numbers, uid, any) in
        [(vec![], None, true), (times(hour, None), None, false), (vec![], Some(4711), false)]
    {
        let generator = Generator::held(is_woken);
        let filter = Filter { numbers, uid, ..Filter::pid(generator.pid) };
        let told = watch::<WakeupTime>(generator, &filter);
        assert_eq!(told.rows.is_empty(), !any, "{:?}", told.rows.len());
    }
}

/// So long it spins.
const SPIN: Duration = Duration::from_millis(600);

fn spins() {
    let began = Instant::now();
    while began.elapsed() < SPIN {
        named::kld_goes_to_spin();
    }
}

/// How long a process's first thread has run, as the kernel says.
fn ran(pid: u32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

#[test]
fn a_function_that_spins_has_the_samples_of_its_process() {
    if cannot_trace() {
        return;
    }
    let frequency = 499;
    let generator = Generator::held(spins);
    let pid = generator.pid;
    let mut table = start_table::<Profile>(&Filter { frequency, ..Filter::pid(pid) });
    generator.go_and_hold(|_| {
        table.detach();
        let (counted, time, mut symbols) = (table.take().unwrap(), ran(pid), Symbols::new());
        let all: u64 = counted.values().map(|total| total.count).sum();
        let named = |key: &Of| calls(&table, Profile::stacks(key), &mut symbols).passes("kld_spins");
        let mut named = named;
        let spun: u64 = counted.iter().filter(|(key, _)| named(key)).map(|(_, total)| total.count).sum();
        let expected = (time.as_secs_f64() * f64::from(frequency)) as u64;
        assert!(spun * 10 > all * 9, "{spun} of {all}");
        // Where this is a virtual machine, its processor may itself have waited for one.
        let (least, most) = (expected / 2, expected + expected / part() + 10);
        assert!((least..=most).contains(&all), "{all} of {expected}");
        assert!(counted.keys().all(|key| key.pid == pid), "nobody else's");
    });
}

#[test]
fn a_processor_that_has_nothing_to_do_is_left_out() {
    if cannot_trace() {
        return;
    }
    let filter = Filter { frequency: 499, ..Filter::all() };
    let told = watch::<Profile>(Generator::held(naps), &filter);
    assert!(told.rows.iter().all(|(key, ..)| key.pid != 0));
}
