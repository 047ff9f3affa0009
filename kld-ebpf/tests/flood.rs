//! More than a million events in a second, and a reader who is slow: nothing grows, what is lost is counted one by one, and who is
//! traced does not wait.
//!
//! System calls cannot make so many on a small host, so a program of the tests' own makes many of each call. They go the way of all
//! events: the same filter, ring, counts and reader.
#![allow(clippy::print_stderr, reason = "a test says why it does not run")]
#![allow(clippy::print_stdout, reason = "and what it has measured")]

#[path = "kernel/common.rs"]
#[allow(dead_code, reason = "the tests of the probes use the rest of it")]
mod common;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kld_ebpf::events::Plain;
use kld_ebpf::events::flood::Numbered;
use kld_ebpf::probe::{Hook, Known, Probe, REGISTERS};
use kld_ebpf::{Filter, Tracer};

use common::{Generator, cannot_trace, start};

/// The tests' own probe.
struct Flood;

impl Probe for Flood {
    type Event = Numbered;
    const NAME: &'static str = "flood";
    const OBJECT: &'static [u8] = include_bytes!("../objects/flood.o");
    const HOOKS: &'static [Hook] = &[Hook::new("ended", "sys_exit")];
    const KNOWN: &'static [&'static [Known]] = &[REGISTERS, &[Known::call("SYS_GETPPID", libc::SYS_getppid)]];

    fn decode(bytes: &[u8]) -> Option<Numbered> {
        Numbered::split(bytes).map(|(event, _)| event)
    }
}

/// So many events each call makes: a bit each in a word.
const EACH: u64 = u64::BITS as u64;
/// So many calls a process makes.
const CALLS: u64 = 100_000;
/// So many processes make them at once.
const PROCESSES: usize = 2;
/// So many events there are in all.
const ALL: u64 = EACH * CALLS * PROCESSES as u64;

/// The most memory that this process may have had at its end, whatever has been lost by then: some of the 1 GB that all the events
/// would take.
const MEMORY: u64 = 64 << 20;
/// The most of its own processor time that an event may cost who is traced, read or lost.
const COST: Duration = Duration::from_micros(2);

/// These tests measure, and one would disturb the other.
fn alone() -> Option<MutexGuard<'static, ()>> {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    (!cannot_trace()).then_some(alone)
}

fn generators() -> [Generator; PROCESSES] {
    std::array::from_fn(|_| Generator::new(|| (0..CALLS).for_each(call)))
}

fn call(number: u64) {
    // SAFETY: the call takes nothing; what it is given is for the program on it.
    unsafe { libc::syscall(libc::SYS_getppid, number) };
}

fn start_on(generators: &[Generator]) -> Tracer<Flood> {
    let pids = generators.iter().map(|generator| generator.pid).collect();
    start(&Filter { pids, argument: EACH, ..Filter::all() })
}

/// What a process has cost when it has ended.
#[derive(Debug)]
struct Spent {
    /// Its time on the processors.
    time: Duration,
    /// How often it has left the processor because it waited for something.
    waits: u64,
}

impl Spent {
    fn of(pid: u32) -> Spent {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();
        // The first number: nanoseconds on the processors.
        let time = read("schedstat").split(' ').next().unwrap().parse().unwrap();
        Spent { time: Duration::from_nanos(time), waits: number(&read("status"), "voluntary_ctxt_switches:") }
    }
}

/// The number of a line in /proc/PID/status.
fn number(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Lets all of them do their calls at once, and `meanwhile` runs until they have ended. Returns what each has cost, and how long it
/// took.
fn flood(
    generators: [Generator; PROCESSES],
    mut meanwhile: impl FnMut(&AtomicBool),
) -> ([Spent; PROCESSES], Duration) {
    let (over, began) = (AtomicBool::new(false), Instant::now());
    std::thread::scope(|scope| {
        let workers = generators.map(|generator| scope.spawn(|| generator.go_and_look(Spent::of)));
        let over = &over;
        let waiter = scope.spawn(move || {
            let spent = workers.map(|worker| worker.join().unwrap());
            over.store(true, Ordering::Relaxed);
            (spent, began.elapsed())
        });
        meanwhile(over);
        waiter.join().unwrap()
    })
}

/// Which events were read: a word for each call of each process.
#[derive(Default)]
struct Read {
    calls: HashMap<u32, Vec<u64>>,
    count: u64,
}

impl Read {
    fn note(&mut self, event: &Numbered) {
        let calls = self.calls.entry(event.task.pid).or_insert_with(|| vec![0; CALLS as usize]);
        let (word, bit) = (&mut calls[event.call as usize], 1 << event.number);
        assert_eq!(*word & bit, 0, "{event:?} comes twice");
        *word |= bit;
        self.count += 1;
    }
}

#[test]
fn of_a_million_a_second_each_is_read_once_or_counted_as_lost_and_nothing_grows() {
    let Some(_alone) = alone() else { return };
    let generators = generators();
    let mut tracer = start_on(&generators);
    let mut read = Read::default();
    let (_, took) = flood(generators, |over| {
        while !over.load(Ordering::Relaxed) {
            std::iter::from_fn(|| tracer.poll()).take(1000).for_each(|event| read.note(&event));
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    tracer.detach();
    std::iter::from_fn(|| tracer.poll()).for_each(|event| read.note(&event));

    let counts = tracer.counts().unwrap();
    assert_eq!((counts.seen, read.count + counts.lost), (ALL, ALL));
    assert!(counts.lost > ALL / 2, "the reader is slow: {counts:?}");
    let peak = number(&std::fs::read_to_string("/proc/self/status").unwrap(), "VmHWM:") << 10;
    let rate = ALL as f64 / took.as_secs_f64();
    println!("{rate:.0} events a second, {} of {ALL} lost, {peak} bytes at the most", counts.lost);
    assert!(peak <= MEMORY, "{peak} bytes");
    // Where instructions are translated nothing is fast.
    assert!(std::env::var_os("KLD_TRANSLATED").is_some() || rate >= 1e6, "{rate} events a second");
}

#[test]
fn who_is_traced_does_not_wait_for_a_reader_and_pays_a_bounded_price() {
    let Some(_alone) = alone() else { return };
    let (untraced, _) = flood(generators(), |_| ());
    let read_by = |reader: fn(&mut Tracer<Flood>, &AtomicBool)| {
        let generators = generators();
        let mut tracer = start_on(&generators);
        let (spent, _) = flood(generators, |over| reader(&mut tracer, over));
        (spent, tracer.counts().unwrap().lost)
    };
    let (fast, _) = read_by(|tracer, over| {
        while !over.load(Ordering::Relaxed) {
            while tracer.poll().is_some() {}
        }
    });
    let (stalled, lost) = read_by(|_, _| ());

    let mean = |spent: &[Spent]| spent.iter().map(|one| one.time).sum::<Duration>() / ALL as u32;
    let [untraced_each, fast_each, stalled_each] = [&untraced, &fast, &stalled].map(|spent| mean(spent));
    println!("an event costs {untraced_each:?} untraced, {fast_each:?} read, {stalled_each:?} lost");
    assert!(lost > ALL / 2, "nobody reads: {lost}");
    assert!(fast_each - untraced_each <= COST, "{fast:?}, untraced {untraced:?}");
    assert!(stalled_each - untraced_each <= COST, "{stalled:?}, untraced {untraced:?}");
    assert!(stalled_each <= 3 * fast_each, "{stalled:?} for nobody, {fast:?} for a fast reader");
    // Once for the word to begin, and for what the kernel does at a process's beginning and end.
    let waits = untraced.iter().map(|one| one.waits).max().unwrap() + 5;
    assert!(fast.iter().chain(&stalled).all(|one| one.waits <= waits), "{fast:?} {stalled:?} {untraced:?}");
}

#[test]
fn what_happens_while_the_end_comes_is_read_or_counted_as_lost_too() {
    let Some(_alone) = alone() else { return };
    for _ in 0..10 {
        let generators: [Generator; PROCESSES] =
            std::array::from_fn(|_| Generator::new(|| (0..u64::MAX).for_each(call)));
        let mut tracer = start_on(&generators);
        let released = generators.map(Generator::release);
        tracer.stop_at(Instant::now() + Duration::from_millis(50));
        let read = tracer.by_ref().count() as u64;
        let counts = tracer.counts().unwrap();
        drop(released);
        assert!(counts.seen > 0 && counts.seen == read + counts.lost, "{read} were read of {counts:?}");
    }
}
