//! Waits for a lock of the kernel that a generator holds for a known time.
//!
//! Who writes into a pipe holds its mutex while the bytes are fetched. Where they lie in memory that is not there yet,
//! and that another process provides when it likes (userfaultfd(2)), the mutex is held so long.

use std::time::{Duration, Instant};

use kld_ebpf::Filter;
use kld_ebpf::Stack;
use kld_ebpf::Symbols;
use kld_ebpf::probe::{LockWait, times};

use crate::common::{Generator, cannot_trace, start_table};

/// So often the lock is held.
const ROUNDS: usize = 5;
/// How long the memory is not there, and how long the second writer waits before it writes.
const HELD: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 80_000_000 };
const LATER: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 20_000_000 };
const PAGE: usize = 4096;

// linux/userfaultfd.h
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
const UFFDIO_COPY: libc::c_ulong = 0xc028_aa03;

/// Memory that is there when somebody provides it.
struct Late {
    descriptor: i32,
    at: *mut libc::c_void,
}

impl Late {
    /// `None` where this kernel has none.
    fn new() -> Option<Late> {
        // SAFETY: system calls whose arguments are alive and as long as they say.
        unsafe {
            let descriptor = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) as i32;
            let mut api = [0xaa_u64, 0, 0];
            if descriptor < 0 || libc::ioctl(descriptor, UFFDIO_API as _, api.as_mut_ptr()) < 0 {
                return None;
            }
            let (length, protection) = (ROUNDS * PAGE, libc::PROT_READ | libc::PROT_WRITE);
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let at = libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0);
            // Where it begins, how long it is, and that what is missing is asked for.
            let mut range = [at as u64, length as u64, 1, 0];
            let registered = libc::ioctl(descriptor, UFFDIO_REGISTER as _, range.as_mut_ptr()) >= 0;
            registered.then_some(Late { descriptor, at })
        }
    }

    fn page(&self, round: usize) -> *mut libc::c_void {
        self.at.wrapping_byte_add(round * PAGE)
    }

    /// Lets a page be there.
    fn provide(&self, round: usize) {
        let bytes = [0_u8; 2 * PAGE];
        // The call takes a whole page that begins where pages do.
        let from = (bytes.as_ptr() as usize).next_multiple_of(PAGE);
        let mut copy = [self.page(round) as u64, from as u64, PAGE as u64, 0, 0];
        // SAFETY: the page lies within the bytes, which are alive.
        unsafe { libc::ioctl(self.descriptor, UFFDIO_COPY as _, copy.as_mut_ptr()) };
    }
}

fn sleep(time: &libc::timespec) {
    // SAFETY: the time is alive.
    unsafe { libc::nanosleep(time, std::ptr::null_mut()) };
}

/// A child that does something and ends.
fn child(deed: impl FnOnce()) {
    // SAFETY: the child makes system calls only, and ends without returning.
    unsafe {
        if libc::fork() == 0 {
            deed();
            libc::_exit(0);
        }
    }
}

/// One writes and holds the lock, another wants it meanwhile.
fn contends() {
    let mut pipe = [0; 2];
    // SAFETY: system calls upon descriptors and memory of our own.
    unsafe {
        libc::pipe(pipe.as_mut_ptr());
        let Some(late) = Late::new() else { return };
        for round in 0..ROUNDS {
            child(|| {
                sleep(&HELD);
                late.provide(round);
            });
            child(|| {
                sleep(&LATER);
                libc::write(pipe[1], c"b".as_ptr().cast(), 1);
            });
            libc::write(pipe[1], late.page(round), 1);
            while libc::waitpid(-1, std::ptr::null_mut(), 0) > 0 {}
        }
    }
}

#[test]
fn a_wait_for_a_lock_is_told_with_who_asked_for_it_and_its_time() {
    if cannot_trace() {
        return;
    }
    let generator = Generator::new(contends);
    let mut table = start_table::<LockWait>(&Filter::pid(generator.pid));
    if Late::new().is_none() {
        return eprintln!("not tested: this kernel has no userfaultfd for this process");
    }
    let began = Instant::now();
    generator.go();
    let elapsed = began.elapsed();
    table.detach();
    let (rows, mut symbols) = (table.take().unwrap(), Symbols::new());
    let mut of_pipe = |id| match table.stack(id).unwrap() {
        Stack::Calls(calls) => {
            symbols.kernel(&calls).iter().any(|frame| frame.name().ends_with("pipe_write"))
        }
        _ => false,
    };
    let found: Vec<_> = rows
        .iter()
        .filter(|(key, _)| LockWait::kind(key.kind) == "mutex" && of_pipe(key.stack.kernel))
        .map(|(_, spent)| *spent)
        .collect();
    let (count, time): (u64, u64) =
        found.iter().fold((0, 0), |(count, time), spent| (count + spent.count, time + spent.time));
    let longest = found.iter().map(|spent| spent.longest).max().unwrap_or_default();
    // 60 ms each time, if both children come in time; a wait that is spun for and then slept for is one.
    assert!(count >= 1 && count <= ROUNDS as u64, "{found:?}");
    let (time, longest) = (Duration::from_nanos(time), Duration::from_nanos(longest));
    assert!(time >= Duration::from_millis(60) && time <= elapsed, "{time:?} in {elapsed:?}");
    assert!(longest >= Duration::from_millis(10) && longest <= time, "{longest:?} of {time:?}");
    assert_eq!(table.counts().unwrap().lost, 0);
}

#[test]
fn only_long_waits_of_the_wanted_are_told() {
    if cannot_trace() {
        return;
    }
    let hour = times(Some(Duration::from_secs(3600)), None);
    for (numbers, uid) in [(hour, None), (Vec::new(), Some(4711))] {
        let generator = Generator::new(contends);
        let filter = Filter { numbers, uid, ..Filter::pid(generator.pid) };
        let mut table = start_table::<LockWait>(&filter);
        generator.go();
        table.detach();
        assert!(table.take().unwrap().is_empty());
    }
}
