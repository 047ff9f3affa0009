//! Faults that are made on purpose, and what is found to be wrong: each must come first.

use std::ffi::CStr;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kld_ebpf::why::{Evidence, Finding, Kind, Watch, judge};

use crate::block::{self, Disk};
use crate::common::{Generator, address_of, cannot_trace, is_alone, set, socket};
use crate::group::Group;
use crate::namespace;

/// One at a time: faults of other tests are faults here.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> Option<MutexGuard<'static, ()>> {
    if cannot_trace() {
        return None;
    }
    println!("probe: why-slow");
    Some(TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

fn watch(time: Duration) -> Evidence {
    let mut watch = Watch::start().unwrap();
    watch.wait(time, || false);
    watch.end().unwrap()
}

/// What is found to be wrong while a generator goes on, the worst first. Where others work on this host too, what is wrong
/// without the generator is left out, unless it is what the test is about.
fn wrong(generator: Generator, about: Kind) -> (Vec<Finding>, Evidence) {
    let before = if is_alone() { Vec::new() } else { judge(&watch(Duration::from_secs(1))) };
    let pid = generator.pid;
    let mut watch = Watch::start().unwrap();
    let fault = generator.release();
    watch.wait(Duration::from_secs(3), || false);
    let evidence = watch.end().unwrap();
    drop(fault);
    let found = judge(&evidence);
    println!("process {pid}: {}", serde_json::to_string(&evidence).unwrap());
    println!("{found:#?}");
    assert!(evidence.seconds >= 3.0 && evidence.seconds < 60.0, "{evidence:?}");
    let is_others =
        |finding: &Finding| finding.kind != about && before.iter().any(|one| one.kind == finding.kind);
    (found.into_iter().filter(|finding| !is_others(finding)).collect(), evidence)
}

/// A fault that has a host for itself shows in full: others keep it from what it does.
fn scores(found: &[Finding], least: f64, why: &str) {
    assert!(!is_alone() || found[0].score > least, "{why}: {found:?}");
}

/// A name of our own; children end with their parent.
fn call(name: &CStr) {
    let _ = nix::sys::prctl::set_name(name);
    let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
}

fn spin() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

#[test]
fn more_busy_threads_than_processors_are_found_and_named() {
    let Some(_turn) = turn() else { return };
    let cpu = crate::sched::a_cpu();
    let generator = Generator::new(move || {
        crate::sched::pin(cpu);
        call(c"kld-hog");
        for _ in 0..3 {
            // SAFETY: the child spins until it is killed.
            if unsafe { libc::fork() } == 0 {
                call(c"kld-hog");
                spin();
            }
        }
        spin();
    });
    let (found, evidence) = wrong(generator, Kind::Cpu);
    assert_eq!(found[0].kind, Kind::Cpu);
    assert!(found[0].evidence.iter().any(|line| line.contains("kld-hog")), "{found:?}");
    // Those of others may be hogs too; and a guest's processor may not be run by its host.
    assert!(!is_alone() || found[0].subject == "kld-hog");
    let ran = (evidence.busy_s / evidence.seconds).min(1.0);
    scores(&found, 0.5 * ran, "three of four wait");
}

/// A disk that takes 30 ms for each request; in `cargo xtask kernels` it is there.
const SLOW: &str = "/dev/nullb0";

#[test]
fn a_slow_disk_is_found_and_named() {
    let Some(_turn) = turn() else { return };
    if std::fs::metadata(SLOW).is_ok_and(|meta| meta.file_type().is_block_device()) {
        let path = std::ffi::CString::new(SLOW).unwrap();
        let generator = Generator::new(move || {
            // SAFETY: the path is alive.
            let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_DIRECT) };
            // SAFETY: it is new, and nobody else's.
            let fd = unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) };
            read_again_and_again(&fd, 4096);
        });
        return expect_disk(&wrong(generator, Kind::Disk).0, "nullb0");
    }
    // Upon a file on a disk that gives its group little: what the loop device asks for is its reader's.
    let Some(disk) = Disk::new() else { return };
    let below = disk.fill();
    let Some(group) = Group::new("blkio", "disk") else { return };
    let limit = format!("{below} 1048576");
    if !group.limit(("blkio.throttle.read_bps_device", &limit), ("io.max", &limit.replace(' ', " rbps="))) {
        return;
    }
    let fd = disk.open();
    let generator = Generator::with(fd.as_raw_fd(), move || {
        read_again_and_again(&fd, 65536);
    });
    group.take(generator.pid);
    expect_disk(&wrong(generator, Kind::Disk).0, &disk.name);
}

fn read_again_and_again(fd: &std::os::fd::OwnedFd, bytes: u64) -> ! {
    loop {
        (0..block::SIZE / bytes).for_each(|at| block::read(fd, at * bytes, bytes as usize));
    }
}

fn expect_disk(found: &[Finding], name: &str) {
    assert_eq!((found[0].kind, found[0].subject.as_str()), (Kind::Disk, name));
    scores(found, 0.5, "somebody waits all the time");
}

/// Asks and answers over a loopback that loses packets. In a network of its own.
fn talk_badly(address: SocketAddr) {
    let interface = namespace::own();
    let by_kernel = namespace::lose(interface, 10);
    let (listener, client) =
        (socket(libc::AF_INET, libc::SOCK_STREAM), socket(libc::AF_INET, libc::SOCK_STREAM));
    let (address, length) = address_of(address);
    let mut byte = [0_u8; 64];
    // SAFETY: the address and the bytes are as long as they say; the child ends without returning.
    unsafe {
        libc::bind(listener, (&raw const address).cast(), length);
        libc::listen(listener, 8);
        libc::connect(client, (&raw const address).cast(), length);
        let server = libc::accept(listener, std::ptr::null_mut(), std::ptr::null_mut());
        for fd in [client, server] {
            set(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
            if !by_kernel {
                namespace::deafen(fd, 10);
            }
        }
        if libc::fork() == 0 {
            call(c"kld-answers");
            while libc::read(server, byte.as_mut_ptr().cast(), byte.len()) > 0 {
                libc::write(server, byte.as_ptr().cast(), byte.len());
            }
            libc::_exit(0);
        }
        loop {
            libc::write(client, byte.as_ptr().cast(), byte.len());
            libc::read(client, byte.as_mut_ptr().cast(), byte.len());
        }
    }
}

#[test]
fn a_network_that_loses_packets_is_found_with_the_connection() {
    let Some(_turn) = turn() else { return };
    let address: SocketAddr = (Ipv4Addr::LOCALHOST, 4809).into();
    let (found, _) = wrong(Generator::new(move || talk_badly(address)), Kind::Loss);
    assert_eq!(found[0].kind, Kind::Loss);
    assert!(found[0].evidence.iter().any(|line| line.contains("127.0.0.1:4809")), "{found:?}");
    scores(&found, 0.3, "it waits for a timeout again and again");
}

#[test]
fn a_working_set_that_its_group_s_memory_cannot_hold_is_found() {
    const LIMIT: u64 = 8 << 20;
    let Some(_turn) = turn() else { return };
    let Some(group) = Group::new("memory", "memory").filter(|group| group.limit_memory(LIMIT)) else {
        return;
    };
    // Pages of a disk can be given up, also where files are in memory.
    let Some(disk) = Disk::new() else { return };
    let path = std::ffi::CString::new(format!("/dev/{}", disk.name)).unwrap();
    let generator = Generator::new(move || {
        call(c"kld-reads");
        let mut room = [0_u8; 64 << 10];
        // SAFETY: the path and the room are alive.
        unsafe {
            let fd = libc::open(path.as_ptr(), libc::O_RDONLY);
            loop {
                libc::lseek(fd, 0, libc::SEEK_SET);
                while libc::read(fd, room.as_mut_ptr().cast(), room.len()) > 0 {}
            }
        }
    });
    group.take(generator.pid);
    let (found, _) = wrong(generator, Kind::Memory);
    assert_eq!(found[0].kind, Kind::Memory);
    assert!(found[0].evidence.iter().any(|line| line.contains("kld-reads")), "{found:?}");
    // In the first version the programs see the second's groups, which are others.
    assert!(group.is_first() || found[0].subject == group.path(), "{found:?}");
}

#[test]
fn a_control_group_that_is_held_is_found_and_named() {
    let Some(_turn) = turn() else { return };
    let Some(group) = Group::new("cpu", "held") else { return };
    if !group.limit(("cpu.cfs_quota_us", "20000"), ("cpu.max", "20000 100000")) {
        return;
    }
    let generator = Generator::new(|| {
        call(c"kld-held");
        spin();
    });
    group.take(generator.pid);
    let (found, _) = wrong(generator, Kind::Throttle);
    assert_eq!((found[0].kind, &found[0].subject), (Kind::Throttle, &group.path()));
    scores(&found, 0.4, "it runs a fifth of the time");
}

#[test]
fn where_nothing_is_wrong_nothing_is_found() {
    let Some(_turn) = turn() else { return };
    if !is_alone() {
        return eprintln!("not tested: others use this host");
    }
    let evidence = watch(Duration::from_secs(5));
    println!("{}", serde_json::to_string(&evidence).unwrap());
    assert_eq!(judge(&evidence), []);
    assert!(evidence.run_queue.is_some_and(|queue| queue.waits > 0), "it has looked");
}

#[test]
fn every_probe_that_this_kernel_has_is_loaded() {
    let Some(_turn) = turn() else { return };
    let evidence = watch(Duration::from_millis(100));
    assert_eq!(evidence.blind, []);
    assert!(Path::new("/proc/pressure").exists() == evidence.pressure.is_some());
}
