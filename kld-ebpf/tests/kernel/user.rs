//! Functions of this very program, and of its C library.

use std::ffi::{CStr, c_char};
use std::path::PathBuf;
use std::time::Instant;

use kld_ebpf::Filter;
use kld_ebpf::libraries::{is_libc, of_processes};
use kld_ebpf::probe::{HostLookup, LineRead};

use crate::common::{cannot_trace, start};

/// Looks up a name that must be an address, so that nobody is asked.
fn look_up(name: &CStr) -> i32 {
    // SAFETY: zeros are hints.
    let mut hints: libc::addrinfo = unsafe { std::mem::zeroed() };
    hints.ai_flags = libc::AI_NUMERICHOST;
    let mut found = std::ptr::null_mut();
    // SAFETY: name and hints are alive, and what is found is given back.
    unsafe {
        let outcome = libc::getaddrinfo(name.as_ptr(), std::ptr::null(), &hints, &mut found);
        if outcome == 0 {
            libc::freeaddrinfo(found);
        }
        outcome
    }
}

unsafe extern "C" {
    fn gethostbyname(name: *const c_char) -> *const u8;
}

#[test]
fn lookups_are_told_with_the_name_and_the_outcome() {
    if cannot_trace() {
        return;
    }
    let files = of_processes(&[], is_libc).unwrap();
    let filter = Filter { files, ..Filter::pid(std::process::id()) };
    let mut tracer = start::<HostLookup>(&filter);
    let began = Instant::now();
    let (good, bad) = (look_up(c"127.0.0.1"), look_up(c"no address"));
    // SAFETY: the name is alive.
    let found = unsafe { gethostbyname(c"127.0.0.2".as_ptr()) };
    let elapsed = began.elapsed();
    tracer.stopper().stop();
    let events: Vec<_> = tracer.by_ref().collect();
    assert_eq!((good, bad, found.is_null()), (0, libc::EAI_NONAME, false));
    let told: Vec<_> =
        events.iter().map(|event| (event.call, event.host.to_str().unwrap(), event.result)).collect();
    let wanted = [
        ("getaddrinfo", "127.0.0.1", Ok(())),
        ("getaddrinfo", "no address", Err(libc::EAI_NONAME)),
        ("gethostbyname", "127.0.0.2", Ok(())),
    ];
    assert_eq!(told, wanted);
    assert_eq!(tracer.counts().unwrap().lost, 0);
    for event in &events {
        assert_eq!(event.task.pid, std::process::id());
        assert!(!event.taken.is_zero() && event.taken < elapsed);
    }
}

/// What bash calls for a line; this one has them ready.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn readline(number: *const c_char) -> *const c_char {
    std::hint::black_box([c"ls -l", c"", c"echo \xc3\xa9"].get(number as usize))
        .map_or(std::ptr::null(), |line| line.as_ptr())
}

#[test]
fn lines_that_are_read_are_told() {
    if cannot_trace() {
        return;
    }
    let files = vec![std::env::current_exe().unwrap()];
    let mut tracer = start::<LineRead>(&Filter { files: files.clone(), ..Filter::pid(std::process::id()) });
    for number in 0..4_usize {
        std::hint::black_box(readline(std::hint::black_box(number as *const c_char)));
    }
    tracer.stopper().stop();
    let lines: Vec<_> = tracer.by_ref().map(|event| event.line.into_string().unwrap()).collect();
    assert_eq!(lines, ["ls -l", "", "echo \u{e9}"], "at the end of the input there is no line");

    let others = start::<LineRead>(&Filter { files, uid: Some(4711), ..Filter::all() });
    std::hint::black_box(readline(std::ptr::null()));
    others.stopper().stop();
    assert_eq!(others.count(), 0);
}

#[test]
fn a_file_without_the_function_is_refused() {
    if cannot_trace() {
        return;
    }
    let none = kld_ebpf::Tracer::<HostLookup>::start(&Filter {
        files: vec![std::env::current_exe().unwrap(), PathBuf::from("/nonexistent/libc.so.6")],
        ..Filter::all()
    });
    let error = none.unwrap_err().to_string();
    assert!(error.contains("/nonexistent/libc.so.6") || error.contains("getaddrinfo"), "{error}");
}
