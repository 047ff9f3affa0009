//! Programs that start and end, and signals, by generators of ours.

use std::ffi::{CStr, OsString};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use kld_ebpf::Filter;
use kld_ebpf::probe::{Capable, Ended, Exec, Exit, Kill, Thread};

use crate::common::{Generator, cannot_trace, trace};

/// Forks; the child does something and ends, and is waited for.
fn child(deed: impl FnOnce()) -> i32 {
    // SAFETY: the child makes system calls only, and ends without returning.
    unsafe {
        match libc::fork() {
            0 => {
                deed();
                libc::_exit(7)
            }
            pid => {
                libc::waitpid(pid, std::ptr::null_mut(), 0);
                pid
            }
        }
    }
}

/// Takes a program's place.
fn exec(path: &CStr, args: &[&CStr]) {
    let mut pointers = [std::ptr::null(); 8];
    for (place, arg) in pointers.iter_mut().zip(args) {
        *place = arg.as_ptr();
    }
    // SAFETY: the list ends with a null, and all that it points to is alive.
    unsafe { libc::execv(path.as_ptr(), pointers.as_ptr()) };
}

#[test]
fn a_program_that_starts_is_told_with_its_arguments_and_its_parent() {
    if cannot_trace() {
        return;
    }
    let deed = || {
        for _ in 0..100 {
            child(|| exec(c"/bin/true", &[c"true", c"", c"two words"]));
        }
        child(|| exec(c"/nonexistent/program", &[c"program"]));
    };
    for (switches, failures) in [(0, 0), (Exec::FAILED, 1)] {
        let generator = Generator::new(deed);
        let (pid, filter) = (generator.pid, Filter { switches, ..Filter::pid(generator.pid) });
        let (events, counts) = trace::<Exec>(generator, &filter);
        assert_eq!((events.len() + counts.lost as usize, counts.lost), (100 + failures, 0));
        let (started, failed): (Vec<&Exec>, Vec<_>) = events.iter().partition(|event| event.result.is_ok());
        for event in started {
            assert_eq!(event.args, ["true", "", "two words"]);
            assert_eq!((event.parent, event.task.name(), event.cut), (pid, "true", false));
            assert_ne!(event.task.pid, pid);
        }
        for event in failed {
            assert_eq!((event.result, event.parent), (Err(libc::ENOENT), pid));
            assert_eq!(event.args, ["/nonexistent/program"]);
        }
    }
}

#[test]
fn arguments_that_are_too_long_are_cut_and_that_is_told() {
    if cannot_trace() {
        return;
    }
    let long = std::ffi::CString::new("x".repeat(10_000)).unwrap();
    let generator = Generator::new(move || _ = child(|| exec(c"/bin/true", &[c"true", &long])));
    let filter = Filter::pid(generator.pid);
    let (events, _) = trace::<Exec>(generator, &filter);
    let args: Vec<&OsString> = events.iter().flat_map(|event| &event.args).collect();
    assert_eq!(args, [&OsString::from("true"), &OsString::from("x".repeat(4096 - 5))]);
    assert!(events[0].cut);
}

#[test]
fn how_a_process_ended_is_told_with_its_age() {
    if cannot_trace() {
        return;
    }
    let began = Instant::now();
    let generator = Generator::new(|| {
        // SAFETY: system calls of the child upon itself.
        unsafe {
            child(|| libc::_exit(0));
            child(|| libc::_exit(3));
            child(|| _ = libc::kill(libc::getpid(), libc::SIGKILL));
            child(|| _ = libc::usleep(50_000));
        }
    });
    let (pid, filter) = (generator.pid, Filter::pid(generator.pid));
    let (events, counts) = trace::<Exit>(generator, &filter);
    let ended: Vec<Ended> = events.iter().map(|event| event.how).collect();
    // The last is the generator itself.
    let wanted = [Ended::Code(0), Ended::Code(3), Ended::Signal(9, false), Ended::Code(7), Ended::Code(0)];
    assert_eq!((ended.as_slice(), counts.lost), (wanted.as_slice(), 0));
    assert!(events[..4].iter().all(|event| event.parent == pid && event.task.pid != pid));
    assert_eq!((events[4].task.pid, events[4].parent), (pid, std::process::id()));
    assert!(events[3].age >= Duration::from_millis(50) && events[3].age < began.elapsed());
}

#[test]
fn only_what_ended_badly_is_told_where_that_is_wanted() {
    if cannot_trace() {
        return;
    }
    let generator = Generator::new(|| {
        // SAFETY: a system call of the child upon itself.
        child(|| unsafe { libc::_exit(0) });
        child(|| ());
    });
    let filter = Filter { switches: Exit::FAILED, ..Filter::pid(generator.pid) };
    let (events, _) = trace::<Exit>(generator, &filter);
    assert_eq!(events.iter().map(|event| event.how).collect::<Vec<_>>(), [Ended::Code(7)]);
}

#[test]
fn signals_are_told_with_their_target_and_their_outcome() {
    if cannot_trace() {
        return;
    }
    let generator = Generator::new(|| {
        // SAFETY: signal 0 is none, and the last process does not exist.
        unsafe {
            let own = libc::getpid();
            libc::kill(own, 0);
            libc::syscall(libc::SYS_tkill, own, 0);
            libc::syscall(libc::SYS_tgkill, own, own, libc::SIGCHLD);
            libc::kill(0x7fff_fff0, libc::SIGTERM);
        }
    });
    let (pid, filter) = (generator.pid, Filter::pid(generator.pid));
    let (events, counts) = trace::<Kill>(generator, &filter);
    let told: Vec<_> = events.iter().map(|event| (event.target, event.signal, event.result)).collect();
    let own = pid as i32;
    let wanted = [
        (own, 0, Ok(())),
        (own, 0, Ok(())),
        (own, libc::SIGCHLD, Ok(())),
        (0x7fff_fff0, libc::SIGTERM, Err(libc::ESRCH)),
    ];
    assert_eq!((told.as_slice(), counts.lost), (wanted.as_slice(), 0));
    assert!(events.iter().all(|event| event.task.pid == pid));
}

#[test]
fn threads_are_told_with_who_made_them() {
    if cannot_trace() {
        return;
    }
    extern "C" fn idle(argument: *mut libc::c_void) -> *mut libc::c_void {
        argument
    }
    let generator = Generator::new(|| {
        for _ in 0..50 {
            // SAFETY: the thread does nothing, and is waited for.
            unsafe {
                let mut thread = std::mem::zeroed();
                libc::pthread_create(&raw mut thread, std::ptr::null(), idle, std::ptr::null_mut());
                libc::pthread_join(thread, std::ptr::null_mut());
            }
        }
        // A process is no thread.
        child(|| ());
    });
    let (pid, filter) = (generator.pid, Filter::pid(generator.pid));
    let (events, counts) = trace::<Thread>(generator, &filter);
    assert_eq!((events.len(), counts.lost), (50, 0));
    assert!(events.iter().all(|event| (event.task.pid, event.task.tid) == (pid, pid)));
    let mut new: Vec<u32> = events.iter().map(|event| event.tid).filter(|tid| *tid != pid).collect();
    new.sort_unstable();
    new.dedup();
    assert_eq!(new.len(), 50, "each has a number of its own");
}

#[test]
fn capabilities_are_told_with_whether_they_were_there() {
    if cannot_trace() {
        return;
    }
    let deed = || {
        for _ in 0..3 {
            // SAFETY: a system call of the child upon itself.
            unsafe { libc::chroot(c"/".as_ptr()) };
        }
        // SAFETY: as above.
        unsafe {
            libc::setuid(4711);
            libc::chroot(c"/".as_ptr());
        }
    };
    let trace_with = |switches| {
        let generator = Generator::new(deed);
        let (pid, filter) = (generator.pid, Filter { switches, ..Filter::pid(generator.pid) });
        let (events, counts) = trace::<Capable>(generator, &filter);
        assert!(counts.lost == 0 && events.iter().all(|event| event.task.pid == pid));
        events
    };
    let own = std::fs::metadata("/proc/self/ns/user").unwrap().ino() as u32;
    let chroots = |events: Vec<Capable>| {
        let ours = events.into_iter().filter(|event| event.name() == "CAP_SYS_CHROOT");
        ours.map(|event| (event.granted, event.task.uid, event.namespace)).collect::<Vec<_>>()
    };
    let (granted, refused) = ((true, 0, own), (false, 4711, own));
    assert_eq!(chroots(trace_with(0)), [granted, granted, granted, refused]);
    assert_eq!(chroots(trace_with(Capable::ONCE)), [granted, refused]);
    assert_eq!(chroots(trace_with(Capable::FAILED)), [refused]);
}
