//! Requests to a block device of ours, beside what the kernel itself counts of it (/sys/block/DISK/stat).

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use kld_ebpf::Filter;
use kld_ebpf::events::block::{OPERATION, WRITES};
use kld_ebpf::events::histogram::{Histogram, row, slot};
use kld_ebpf::events::table::{Tally, Total};
use kld_ebpf::events::text;
use kld_ebpf::probe::{BioLatency, BioPattern, BioSnoop, BioTop, BiteSize, only_disk};

use crate::common::{Generator, cannot_trace, part, start_table, tally, trace};

const LOOP_SET_FD: u64 = 0x4c00;
const LOOP_CLR_FD: u64 = 0x4c01;
const LOOP_CTL_GET_FREE: u64 = 0x4c82;

pub const SIZE: u64 = 16 << 20;

/// A loop device upon a file of our own. It is gone when this is dropped.
pub struct Disk {
    pub name: String,
    device: File,
    file: File,
}

impl Disk {
    /// `None` where nothing can be traced, or there are no loop devices.
    pub fn new() -> Option<Disk> {
        if cannot_trace() {
            return None;
        }
        let Ok(control) = File::open("/dev/loop-control") else {
            eprintln!("not tested: there are no loop devices here");
            return None;
        };
        let file = tempfile::tempfile().unwrap();
        file.set_len(SIZE).unwrap();
        // Another one may take the free device first.
        for _ in 0..20 {
            // SAFETY: the command takes nothing.
            let free = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
            let name = format!("loop{free}");
            let options = OpenOptions::new().read(true).write(true).open(format!("/dev/{name}"));
            let Ok(device) = options else {
                eprintln!("not tested: /dev/{name} cannot be opened");
                return None;
            };
            // SAFETY: the command takes a descriptor.
            if unsafe { libc::ioctl(device.as_raw_fd(), LOOP_SET_FD, file.as_raw_fd()) } == 0 {
                return Some(Disk { name, device, file });
            }
        }
        panic!("no loop device is to be had");
    }

    /// The device, for requests that go there at once.
    pub fn open(&self) -> OwnedFd {
        let path = format!("/dev/{}", self.name);
        let options = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path);
        options.unwrap().into()
    }

    /// Writes all of the file below, and forgets what it holds: what is read then comes from the disk that it is on, whose
    /// number is returned.
    pub fn fill(&self) -> String {
        use std::os::unix::fs::{FileExt, MetadataExt};
        self.file.write_all_at(&vec![7; SIZE as usize], 0).unwrap();
        self.file.sync_all().unwrap();
        // SAFETY: the call takes numbers.
        unsafe { libc::posix_fadvise(self.file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        let device = self.file.metadata().unwrap().dev();
        format!("{}:{}", libc::major(device), libc::minor(device))
    }

    /// How many requests have ended, and the milliseconds that they have taken.
    fn stat(&self) -> (u64, u64) {
        let text = std::fs::read_to_string(format!("/sys/block/{}/stat", self.name)).unwrap();
        let numbers: Vec<u64> = text.split_whitespace().map(|word| word.parse().unwrap()).collect();
        // Reads, writes, discards and flushes: how many, then merged and sectors, then the time.
        let sum = |fields: [usize; 4]| fields.iter().filter_map(|at| numbers.get(*at)).sum();
        (sum([0, 4, 11, 15]), sum([3, 7, 14, 16]))
    }

    fn filter(&self, switches: u32) -> Filter {
        Filter { switches, numbers: vec![only_disk(&self.name).unwrap()], ..Filter::all() }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // SAFETY: the command takes nothing.
        unsafe { libc::ioctl(self.device.as_raw_fd(), LOOP_CLR_FD, 0) };
    }
}

/// Memory as requests want it.
#[repr(align(4096))]
struct Room([u8; 128 << 10]);

static ROOM: Room = Room([7; 128 << 10]);

pub fn write(fd: &OwnedFd, at: u64, bytes: usize) {
    // SAFETY: the room is long enough.
    unsafe { libc::pwrite(fd.as_raw_fd(), ROOM.0.as_ptr().cast(), bytes, at as i64) };
}

pub fn read(fd: &OwnedFd, at: u64, bytes: usize) {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: fresh pages of that length, which are given back.
    unsafe {
        let room = libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        libc::pread(fd.as_raw_fd(), room, bytes, at as i64);
        libc::munmap(room, bytes);
    }
}

pub fn own_comm() -> String {
    std::fs::read_to_string("/proc/thread-self/comm").unwrap().trim_end().to_string()
}

#[test]
fn each_request_is_told_with_its_fields() {
    let Some(disk) = Disk::new() else { return };
    let fd = disk.open();
    let generator = Generator::with(fd.as_raw_fd(), move || {
        for number in 0..300 {
            match number % 3 {
                0 => write(&fd, number * 8192, 4096),
                1 => read(&fd, number * 8192, 512),
                _ => read(&fd, number * 8192, 65536),
            }
        }
    });
    let (pid, began) = (generator.pid, Instant::now());
    let (events, counts) = trace::<BioSnoop>(generator, &Filter::pid(pid));
    let elapsed = began.elapsed();

    assert_eq!((events.len(), counts.lost), (300, 0));
    for (event, number) in events.iter().zip(0..) {
        let (operation, bytes) = [(WRITES, 4096), (0, 512), (0, 65536)][number as usize % 3];
        assert_eq!((event.sector, event.bytes), (number * 16, bytes));
        assert_eq!((event.flags & OPERATION, text(&event.disk)), (operation, disk.name.as_str()));
        assert_eq!((event.task.pid, event.task.name()), (pid, own_comm().as_str()));
        assert!(!event.taken.is_zero() && event.queued + event.taken < elapsed, "{event:?}");
    }
    let all: Duration = events.iter().map(|event| event.queued + event.taken).sum();
    assert!(all < elapsed, "one after the other they take less than all: {all:?}");
    assert!(events.is_sorted_by_key(|event| event.ended));
}

/// Does something in eight processes at once; each is told its number.
fn eight_times(deed: impl Fn(u64)) {
    // SAFETY: each child makes system calls only, and ends without returning; all are waited for.
    unsafe {
        for number in 0..8 {
            if libc::fork() == 0 {
                deed(number);
                libc::_exit(0);
            }
        }
        while libc::wait(std::ptr::null_mut()) > 0 {}
    }
}

/// The kernel's time of a request begins when it is allocated, and ends when the programs that are told of its end have run. Before
/// 6.5 the probe hears of it when it is inserted or issued. What lies between is a matter of instructions, which a translated guest
/// takes as long for as for a request. Therefore many are made at once: each waits at the device for others, and that is
/// within both times.
#[test]
fn as_many_requests_are_counted_as_the_kernel_counts_and_as_long() {
    let Some(disk) = Disk::new() else { return };
    let fd = disk.open();
    let before = disk.stat();
    let generator = Generator::with(fd.as_raw_fd(), move || {
        eight_times(|process| {
            let place = |number| (process * 250 + number) * 4096;
            (0..250).for_each(|number| read(&fd, place(number), 4096));
            (0..63).for_each(|number| write(&fd, place(number), 4096));
        });
    });
    let filter = disk.filter(BioLatency::BY_DISK | BioLatency::QUEUED);
    let mut probe = start_table::<BioLatency>(&filter);
    let after = generator.go_and_look(|_| disk.stat());
    probe.detach();
    let (table, missed) = (probe.take().unwrap(), probe.running().missed().unwrap());
    let (requests, ms) = (after.0 - before.0, after.1 - before.1);
    assert_eq!((table.len(), probe.counts().unwrap().lost), (1, 0));
    let (key, told) = table.first_key_value().unwrap();
    assert_eq!(text(&key.name), disk.name.as_str());
    // What interrupts a program's run with another one of the same is not run, and counted.
    let least = requests.saturating_sub(missed);
    assert!((least..=requests).contains(&told.count()), "{requests} {missed} {told:?}");
    assert!(requests >= 2500);
    let (told_ms, ms) = (told.sum / 1_000_000, ms * told.count() / requests);
    assert!(told_ms.abs_diff(ms) <= ms / part() + 20, "{told_ms} ms, and the kernel says {ms}");
    assert!(told.max <= told.sum && told.quantile(500) <= told.quantile(990));
}

#[test]
fn kinds_of_requests_are_kept_apart() {
    let Some(disk) = Disk::new() else { return };
    let fd = disk.open();
    let generator = Generator::with(fd.as_raw_fd(), move || {
        (0..100).for_each(|number| read(&fd, number * 4096, 4096));
        (0..50).for_each(|number| write(&fd, number * 4096, 4096));
    });
    let filter = Filter { switches: BioLatency::BY_FLAGS, ..Filter::pid(generator.pid) };
    let (table, ()) = tally::<BioLatency, _>(generator, &filter, |_| ());
    let count = |operation: u32| -> u64 {
        let of = table.iter().filter(|(key, _)| key.flags as u32 & OPERATION == operation);
        of.map(|(_, told)| told.count()).sum()
    };
    assert_eq!((count(0), count(WRITES)), (100, 50));
}

#[test]
fn sizes_are_counted_by_who_made_the_requests() {
    let Some(disk) = Disk::new() else { return };
    let fd = disk.open();
    let generator = Generator::with(fd.as_raw_fd(), move || {
        (0..100).for_each(|number| read(&fd, number * 4096, 4096));
        (0..50).for_each(|number| write(&fd, number * 65536, 65536));
    });
    let filter = Filter { pids: vec![generator.pid], ..disk.filter(0) };
    let (table, ()) = tally::<BiteSize, _>(generator, &filter, |_| ());
    let (key, told) = table.first_key_value().unwrap();
    assert_eq!((text(&key.name), table.len()), (own_comm().as_str(), 1));
    let rows = told.rows();
    assert_eq!((rows[row(slot(4))], rows[row(slot(64))], told.count()), (100, 50, 150));
    assert_eq!((told.sum, told.max), (100 * 4 + 50 * 64, 64));
}

#[test]
fn totals_are_by_process_disk_and_direction() {
    let Some(disk) = Disk::new() else { return };
    let fd = disk.open();
    let generator = Generator::with(fd.as_raw_fd(), move || {
        (0..100).for_each(|number| read(&fd, number * 4096, 4096));
        (0..50).for_each(|number| write(&fd, number * 65536, 65536));
    });
    let pid = generator.pid;
    let began = Instant::now();
    let (table, ()) = tally::<BioTop, _>(generator, &disk.filter(0), |_| ());
    let elapsed = began.elapsed();
    let ours: Vec<_> = table.iter().filter(|(key, _)| key.pid == pid).collect();
    let told: Vec<_> = ours.iter().map(|(key, total)| (key.which, total.count, total.amount)).collect();
    assert_eq!(told, [(0, 100, 100 * 4096), (1, 50, 50 * 65536)]);
    for (key, total) in ours {
        assert_eq!((text(&key.disk), text(&key.comm)), (disk.name.as_str(), own_comm().as_str()));
        assert!(total.time > 0 && u128::from(total.time) < elapsed.as_nanos());
    }
}

#[test]
fn what_follows_the_request_before_is_sequential() {
    let Some(disk) = Disk::new() else { return };
    let fd = disk.open();
    let generator = Generator::with(fd.as_raw_fd(), move || {
        // The first is random, and each of the last ten.
        (0..100).for_each(|number| read(&fd, number * 4096, 4096));
        (0..10).for_each(|number| read(&fd, (20 - number) * 8192, 4096));
    });
    let filter = Filter { pids: vec![generator.pid], ..disk.filter(0) };
    let (table, ()) = tally::<BioPattern, _>(generator, &filter, |_| ());
    let told: Vec<(u64, &Total)> = table.iter().map(|(key, total)| (key.which, total)).collect();
    let counts: Vec<_> = told.iter().map(|(which, total)| (*which, total.count, total.amount)).collect();
    assert_eq!(counts, [(0, 11, 11 * 4096), (1, 99, 99 * 4096)]);
}

#[test]
fn requests_of_others_and_to_other_disks_are_not_counted() {
    let (Some(disk), Some(other)) = (Disk::new(), Disk::new()) else { return };
    let count = |filter: &dyn Fn(u32) -> Filter| {
        let fd = disk.open();
        let generator = Generator::with(fd.as_raw_fd(), move || {
            (0..20).for_each(|number| read(&fd, number * 4096, 4096))
        });
        let filter = filter(generator.pid);
        let (table, ()) = tally::<BioLatency, _>(generator, &filter, |_| ());
        table.values().map(Histogram::count).sum::<u64>()
    };
    assert_eq!(count(&Filter::pid), 20);
    assert_eq!(count(&|pid| Filter { pids: vec![pid], ..disk.filter(0) }), 20);
    assert_eq!(count(&|pid| Filter { pids: vec![pid], ..other.filter(0) }), 0);
    assert_eq!(count(&|pid| Filter { uid: Some(4711), ..Filter::pid(pid) }), 0);
    assert_eq!(count(&|pid| Filter { comm: Some(own_comm()), ..Filter::pid(pid) }), 20);
    assert_eq!(count(&|_| Filter { uid: Some(4711), ..disk.filter(0) }), 0);
}
