//! Files that are opened by a generator of ours, and what the kernel tells of them.

use std::time::{Duration, Instant};

use crate::common::{Generator, cannot_trace, start, trace};
use kld_ebpf::Filter;
use kld_ebpf::probe::Open;

/// Opens a path in one of the four ways; the descriptor is closed again.
fn open(way: i64, path: &std::ffi::CStr, flags: i32, mode: u32) -> i64 {
    let how = [flags as u64, u64::from(mode), 0];
    // SAFETY: the path and the structure are alive, and the kernel checks the rest.
    unsafe {
        let result = match way {
            libc::SYS_openat => libc::syscall(way, libc::AT_FDCWD, path.as_ptr(), flags, mode),
            libc::SYS_openat2 => libc::syscall(way, libc::AT_FDCWD, path.as_ptr(), how.as_ptr(), 24),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_open => libc::syscall(way, path.as_ptr(), flags, mode),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_creat => libc::syscall(way, path.as_ptr(), mode),
            _ => unreachable!(),
        };
        if result >= 0 {
            libc::close(result as i32);
        }
        result
    }
}

#[test]
fn every_way_to_open_a_file_is_told_with_its_fields() {
    if cannot_trace() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let new = std::ffi::CString::new(folder.path().join("new").to_str().unwrap()).unwrap();
    let made = new.clone();
    let generator = Generator::new(move || {
        open(libc::SYS_openat, c"/dev/null", libc::O_RDWR | libc::O_CLOEXEC, 0);
        open(libc::SYS_openat, &made, libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY, 0o640);
        open(libc::SYS_openat, c"/nonexistent/file", libc::O_RDONLY, 0);
        open(libc::SYS_openat2, c"/dev/zero", libc::O_RDONLY, 0);
        #[cfg(target_arch = "x86_64")]
        open(libc::SYS_open, c"/dev/full", libc::O_WRONLY, 0);
        #[cfg(target_arch = "x86_64")]
        open(libc::SYS_creat, &made, 0, 0o600);
        open(libc::SYS_openat, c"", libc::O_RDONLY, 0);
    });
    let pid = generator.pid;
    let (events, counts) = trace::<Open>(generator, &Filter::pid(pid));

    assert_eq!(counts.lost, 0);
    let path = |event: &Open| event.path.to_str().unwrap().to_string();
    let told: Vec<_> = events
        .iter()
        .map(|event| (path(event), event.flags as i32, event.mode, event.result.map(drop)))
        .collect();
    let new = new.to_str().unwrap().to_string();
    let made = libc::O_CREAT | libc::O_WRONLY;
    let mut wanted = vec![
        ("/dev/null".into(), libc::O_RDWR | libc::O_CLOEXEC, 0, Ok(())),
        (new.clone(), made | libc::O_EXCL, 0o640, Ok(())),
        ("/nonexistent/file".into(), libc::O_RDONLY, 0, Err(libc::ENOENT)),
        ("/dev/zero".into(), libc::O_RDONLY, 0, Ok(())),
    ];
    if cfg!(target_arch = "x86_64") {
        wanted.push(("/dev/full".into(), libc::O_WRONLY, 0, Ok(())));
        wanted.push((new, made | libc::O_TRUNC, 0o600, Ok(())));
    }
    wanted.push((String::new(), libc::O_RDONLY, 0, Err(libc::ENOENT)));
    assert_eq!(told, wanted);
    let own = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
    for event in &events {
        let who = (event.task.pid, event.task.tid, event.task.uid, event.task.name());
        assert_eq!(who, (pid, pid, 0, own.trim_end()));
    }
    assert!(events.is_sorted_by_key(|event| event.task.time));
}

#[test]
fn a_long_path_is_told_whole() {
    if cannot_trace() {
        return;
    }
    let path = std::ffi::CString::new(format!("/{}", "long/".repeat(818))).unwrap();
    let wanted = path.to_str().unwrap().to_string();
    assert_eq!(wanted.len(), 4091, "PATH_MAX is 4096");
    let generator = Generator::new(move || _ = open(libc::SYS_openat, &path, 0, 0));
    let filter = Filter::pid(generator.pid);
    let (events, _) = trace::<Open>(generator, &filter);
    assert_eq!(events.iter().map(|event| event.path.to_str().unwrap()).collect::<Vec<_>>(), [wanted]);
}

#[test]
fn of_a_hundred_thousand_each_is_read_or_counted_as_lost() {
    if cannot_trace() {
        return;
    }
    let generator = Generator::new(|| {
        for _ in 0..100_000 {
            open(libc::SYS_openat, c"/dev/null", 0, 0);
        }
    });
    let mut tracer = start::<Open>(&Filter::pid(generator.pid));
    let stopper = tracer.stopper();
    let done = std::thread::spawn(move || {
        generator.go();
        stopper.stop();
    });
    let read = tracer.by_ref().count() as u64;
    done.join().unwrap();
    let counts = tracer.counts().unwrap();
    assert_eq!((counts.seen, read + counts.lost), (100_000, 100_000));
}

#[test]
fn a_reader_who_is_late_loses_events_and_is_told_how_many() {
    if cannot_trace() {
        return;
    }
    let generator = Generator::new(|| {
        for _ in 0..100_000 {
            open(libc::SYS_openat, c"/dev/null", 0, 0);
        }
    });
    let filter = Filter::pid(generator.pid);
    // Nobody reads before the generator has ended.
    let (events, counts) = trace::<Open>(generator, &filter);
    assert_eq!(counts.seen, 100_000);
    assert_eq!(events.len() as u64 + counts.lost, 100_000);
    assert!(counts.lost > 10_000, "2 MB hold {} events", events.len());
}

#[test]
fn only_what_is_wanted_is_told() {
    if cannot_trace() {
        return;
    }
    let deed = || {
        open(libc::SYS_openat, c"/dev/null", 0, 0);
        open(libc::SYS_openat, c"/nonexistent/file", 0, 0);
    };
    let comm = std::fs::read_to_string("/proc/thread-self/comm").unwrap().trim_end().to_string();
    let count = |filter: &dyn Fn(u32) -> Filter| {
        let generator = Generator::new(deed);
        let (pid, filter) = (generator.pid, filter(generator.pid));
        trace::<Open>(generator, &filter).0.iter().filter(|event| event.task.pid == pid).count()
    };
    assert_eq!(count(&Filter::pid), 2);
    assert_eq!(count(&|pid| Filter { uid: Some(0), ..Filter::pid(pid) }), 2);
    assert_eq!(count(&|pid| Filter { uid: Some(4711), ..Filter::pid(pid) }), 0);
    assert_eq!(count(&|pid| Filter { comm: Some(comm.clone()), ..Filter::pid(pid) }), 2);
    assert_eq!(count(&|pid| Filter { comm: Some(format!(".{comm}")), ..Filter::pid(pid) }), 0);
    assert_eq!(count(&|pid| Filter { switches: Open::FAILED, ..Filter::pid(pid) }), 1);
    assert_eq!(count(&|_| Filter::pid(std::process::id())), 2, "a child of a wanted process is wanted");
}

#[test]
fn a_control_group_and_those_below_it_are_wanted() {
    let Some(root) = kld_ebpf::names::cgroup_root().filter(|_| !cannot_trace()) else {
        return eprintln!("not tested: this host has no control groups of the second version");
    };
    let folder = root.join(format!("kld-test-{}", std::process::id()));
    let below = folder.join("below");
    if let Err(error) = std::fs::create_dir_all(&below) {
        return eprintln!("not tested: no control group can be made here: {error}");
    }
    let count = |wanted: &std::path::Path| {
        let generator = Generator::new(|| _ = open(libc::SYS_openat, c"/dev/null", 0, 0));
        std::fs::write(below.join("cgroup.procs"), generator.pid.to_string()).unwrap();
        let filter = Filter { cgroup: Some(wanted.to_path_buf()), ..Filter::pid(generator.pid) };
        trace::<Open>(generator, &filter).0.len()
    };
    let counts = [&folder, &below, &below.join("other")].map(|wanted| {
        let _ = std::fs::create_dir(wanted);
        count(wanted)
    });
    for gone in [below.join("other"), below.clone(), folder.clone()] {
        std::fs::remove_dir(gone).unwrap();
    }
    assert_eq!(counts, [1, 1, 0]);
}

#[test]
fn a_stream_ends_when_its_time_has_come() {
    if cannot_trace() {
        return;
    }
    let mut tracer = start::<Open>(&Filter { uid: Some(4711), ..Filter::all() });
    let began = Instant::now();
    tracer.stop_at(began + Duration::from_millis(100));
    assert_eq!(tracer.by_ref().count(), 0);
    assert!(began.elapsed() >= Duration::from_millis(100) && began.elapsed() < Duration::from_secs(10));
}
