//! System calls, interrupts and round trips, beside what the kernel or the program itself counts of them.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use kld_ebpf::events::histogram::Histogram;
use kld_ebpf::events::table::{Tally, Total};
use kld_ebpf::probe::{HardIrqDist, HardIrqs, SoftIrqDist, SoftIrqs, SysCount, TcpRtt};
use kld_ebpf::probe::{hard_name, soft_name};
use kld_ebpf::{Filter, Summary, syscalls};

use crate::common::{Generator, cannot_trace, is_alone, start_table, tally};

fn number(name: &str) -> u32 {
    syscalls::number(name).unwrap()
}

/// 1000 calls that succeed, 300 that fail, 20 that take 5 ms.
fn calls() {
    for _ in 0..1000 {
        // SAFETY: it takes nothing.
        unsafe { libc::syscall(libc::SYS_getppid) };
    }
    for _ in 0..300 {
        // SAFETY: no such descriptor is open.
        unsafe { libc::close(-1) };
    }
    let time = libc::timespec { tv_sec: 0, tv_nsec: 5_000_000 };
    for _ in 0..20 {
        // SAFETY: the time is alive.
        unsafe { libc::syscall(libc::SYS_nanosleep, &time, std::ptr::null::<u8>()) };
    }
}

fn count(switches: u32, only: &[(&'static str, u32)]) -> std::collections::BTreeMap<u64, Total> {
    let generator = Generator::new(calls);
    let filter = Filter { switches, numbers: only.to_vec(), ..Filter::pid(generator.pid) };
    tally::<SysCount, _>(generator, &filter, |_| ()).0
}

#[test]
fn system_calls_are_counted_by_number() {
    if cannot_trace() {
        return;
    }
    let all = count(0, &[]);
    let of = |name: &str| all.get(&number(name).into()).map_or(0, Tally::count);
    assert_eq!([of("getppid"), of("close"), of("nanosleep")], [1000, 300, 20]);
    // The generator reads its word, besides. That it ends is no call that ends.
    assert_eq!((of("read") + of("recvfrom"), of("exit_group")), (1, 0));
}

#[test]
fn only_calls_that_are_wanted_are_counted() {
    if cannot_trace() {
        return;
    }
    let ebadf = libc::EBADF as u32;
    for only in [count(SysCount::FAILED, &[]), count(0, &[(SysCount::ONLY_ERROR, ebadf)])] {
        assert_eq!(
            only.into_iter().collect::<Vec<_>>(),
            [(number("close").into(), Total { count: 300, ..Total::default() })]
        );
    }
    assert!(count(0, &[(SysCount::ONLY_ERROR, libc::ENOENT as u32)]).is_empty());
    let one = count(SysCount::BY_PROCESS, &[(SysCount::ONLY_CALL, number("getppid"))]);
    assert_eq!(one.values().map(Tally::count).collect::<Vec<_>>(), [1000]);
    let others = Generator::new(calls);
    let filter = Filter { uid: Some(4711), ..Filter::pid(others.pid) };
    assert!(tally::<SysCount, _>(others, &filter, |_| ()).0.is_empty());
}

#[test]
fn the_time_of_system_calls_is_told() {
    if cannot_trace() {
        return;
    }
    let began = Instant::now();
    let all = count(SysCount::TIMED, &[]);
    let elapsed = began.elapsed();
    let time = |name: &str| Duration::from_nanos(all[&u64::from(number(name))].time);
    assert!(time("nanosleep") >= Duration::from_millis(100) && time("nanosleep") < elapsed);
    assert!(time("getppid") > Duration::ZERO && time("getppid") < elapsed - time("nanosleep"));
    assert_eq!(all[&u64::from(number("getppid"))].count, 1000);
}

/// Counts of a kind in a file such as /proc/softirqs: a name, and a column for each processor. Devices' names are
/// behind the columns.
fn column(path: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(path).unwrap();
    let line =
        text.lines().find(|line| line.split_whitespace().any(|word| word.trim_end_matches(':') == name));
    let words = line.unwrap_or_default().split_whitespace().skip(1);
    words.map_while(|word| word.parse::<u64>().ok()).sum()
}

/// What a probe counts of everybody while a deed is done, and what the kernel counts meanwhile: at least, at most.
fn beside<S: Summary, T>(
    deed: impl FnOnce(),
    look: impl Fn() -> T,
) -> (std::collections::BTreeMap<S::Key, S::Value>, [T; 4]) {
    let first = look();
    let mut table = start_table::<S>(&Filter::all());
    let second = look();
    deed();
    let third = look();
    table.detach();
    let rows = table.take().unwrap();
    assert_eq!(table.counts().unwrap().lost, 0);
    (rows, [first, second, third, look()])
}

fn wake_timers() {
    let end = Instant::now() + Duration::from_millis(500);
    while Instant::now() < end {
        std::thread::sleep(Duration::from_micros(500));
    }
}

#[test]
fn deferred_work_is_counted_as_the_kernel_counts_it() {
    if cannot_trace() {
        return;
    }
    let kinds = [("timer", "TIMER"), ("sched", "SCHED"), ("rcu", "RCU")];
    let look = || kinds.map(|(_, name)| column("/proc/softirqs", name));
    let (rows, seen) = beside::<SoftIrqs, _>(wake_timers, look);
    for (at, (name, _)) in kinds.iter().enumerate() {
        let (least, most) = (seen[2][at] - seen[1][at], seen[3][at] - seen[0][at]);
        let Some((_, total)) = rows.iter().find(|(handler, _)| soft_name(handler) == *name) else {
            // Newer kernels with nobody else's tasks to balance and memory to free do neither.
            assert!(is_alone() && *name != "timer" && least == 0, "{name}: {least}");
            continue;
        };
        assert!(least > 0 && (least..=most).contains(&total.count), "{name}: {least} {total:?} {most}");
        let mean = total.time / total.count;
        assert!(mean > 0 && mean < 50_000_000, "{name}: {total:?}");
    }
    let (rows, _) = beside::<SoftIrqDist, _>(wake_timers, || ());
    assert!(rows.values().all(|told| told.count() > 0 && told.max <= told.sum));
}

/// Files whose reads end in a device's interrupt each, and how much to read of them at a time: one on a disk, where that takes direct
/// reads, and the random numbers that a virtual machine has of its host.
fn interrupting() -> Vec<(File, usize)> {
    let file = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    std::fs::write(file.path(), vec![7; 1 << 20]).unwrap();
    file.as_file().sync_all().unwrap();
    let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(file.path());
    let numbers = File::open("/dev/hwrng").ok().filter(|mut file| file.read(&mut [0; 64]).is_ok());
    direct.ok().map(|file| (file, 4096)).into_iter().chain(numbers.map(|file| (file, 64))).collect()
}

#[test]
fn devices_interrupts_are_counted_as_the_kernel_counts_them() {
    if cannot_trace() {
        return;
    }
    let files = interrupting();
    let reads = || {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: fresh pages of that length, which are given back.
        unsafe {
            let room =
                libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            for (file, bytes) in &files {
                libc::lseek(file.as_raw_fd(), 0, libc::SEEK_SET);
                (0..200).for_each(|_| _ = libc::read(file.as_raw_fd(), room, *bytes));
            }
            libc::munmap(room, 4096);
        }
    };
    // Each handler that the kernel counts alone.
    let text = std::fs::read_to_string("/proc/interrupts").unwrap();
    let names: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().last()).collect();
    let look = || names.iter().map(|name| column("/proc/interrupts", name)).collect::<Vec<_>>();
    let (rows, seen) = beside::<HardIrqs, _>(reads, look);
    let mut compared = 0;
    for (handler, total) in &rows {
        let Some(at) = names.iter().position(|name| *name == hard_name(handler)) else { continue };
        if names.iter().filter(|name| **name == hard_name(handler)).count() > 1 {
            continue;
        }
        let (least, most) = (seen[2][at] - seen[1][at], seen[3][at] - seen[0][at]);
        // A handler runs again for what came meanwhile, which the kernel counts once or twice; and some may be under
        // way when it is looked.
        let slack = 4 + most / 20;
        let right = (least.saturating_sub(slack)..=most + slack).contains(&total.count);
        assert!(right, "{}: {least} {total:?} {most}", names[at]);
        assert!(total.time / total.count < 50_000_000, "{total:?}");
        compared += u32::from(least > slack);
    }
    // It runs wherever it is loaded; whether it counts right is seen where a device interrupts.
    if compared == 0 {
        return eprintln!("not tested: nothing that could be read here interrupts");
    }
    let (rows, _) = beside::<HardIrqDist, _>(reads, || ());
    assert!(rows.values().map(Histogram::count).sum::<u64>() > 0);
}

/// The round-trip time that the kernel tells of a connection, in microseconds.
fn rtt(stream: &TcpStream) -> u64 {
    // SAFETY: all zeros is a value of this structure, and its length is told.
    unsafe {
        let mut info: libc::tcp_info = std::mem::zeroed();
        let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
        let (fd, into) = (stream.as_raw_fd(), (&raw mut info).cast());
        assert_eq!(libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, into, &raw mut length), 0);
        info.tcpi_rtt.into()
    }
}

/// Questions and answers over a connection, and the round-trip time at its end.
fn talk(address: SocketAddr) -> (SocketAddr, u64) {
    let listener = TcpListener::bind(address).unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    for _ in 0..200 {
        client.write_all(b"?").unwrap();
        server.read_exact(&mut [0]).unwrap();
        server.write_all(b"!").unwrap();
        client.read_exact(&mut [0]).unwrap();
    }
    (listener.local_addr().unwrap(), rtt(&client))
}

#[test]
fn round_trips_are_those_that_the_connection_knows() {
    if cannot_trace() {
        return;
    }
    for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        // A port of our own, so that nobody else's packets are counted.
        let port = TcpListener::bind((address, 0)).unwrap().local_addr().unwrap().port();
        let filter = Filter {
            switches: TcpRtt::BY_REMOTE,
            numbers: vec![(TcpRtt::ONLY_REMOTE, port.into())],
            ..Filter::all()
        };
        let mut table = start_table::<TcpRtt>(&filter);
        let (_, last) = talk((address, port).into());
        table.detach();
        let rows = table.take().unwrap();
        let (key, told) = rows.first_key_value().unwrap();
        assert_eq!((TcpRtt::address(key), rows.len()), (address, 1));
        assert!(told.count() >= 200, "an answer each time: {told:?}");
        assert!(
            last * 1000 <= told.max + 1000 && told.max < 10_000_000_000,
            "{last} us at the end: {told:?}"
        );
    }
}

#[test]
fn connections_with_other_ports_are_not_counted() {
    if cannot_trace() {
        return;
    }
    for variable in [TcpRtt::ONLY_REMOTE, TcpRtt::ONLY_LOCAL] {
        let filter = Filter { numbers: vec![(variable, 1)], ..Filter::all() };
        let mut table = start_table::<TcpRtt>(&filter);
        talk((Ipv4Addr::LOCALHOST, 0).into());
        assert!(table.take().unwrap().is_empty());
    }
}
