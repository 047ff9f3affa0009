//! What is handed to a disk of ours that passes it on without making requests, as ZFS volumes do; and to one that does not.

use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kld_ebpf::Filter;
use kld_ebpf::events::block::{OPERATION, WRITES};
use kld_ebpf::events::table::Tally;
use kld_ebpf::events::text;
use kld_ebpf::probe::{BioLatency, BioSnoop, BioTop, PASSED_ON, only_disk};

use crate::block::{Disk, own_comm, read, write};
use crate::common::{Generator, cannot_trace, tally, trace};

const ZRAM: &str = "/sys/class/zram-control";
const CONFIGFS: &str = "/sys/kernel/config";

/// How a disk that passes on is taken away again.
enum Kind {
    /// Memory (zram), by its number.
    Memory(String),
    /// null_blk without requests, by its folder: what it gets takes [`LATENCY`].
    Null(PathBuf),
}

/// A disk that passes on what it gets. It is gone when this is dropped.
struct Passing {
    name: String,
    kind: Kind,
}

/// How long null_blk takes for each.
const LATENCY: Duration = Duration::from_millis(5);

impl Passing {
    /// `None` where nothing can be traced, or there are no such disks.
    fn new() -> Option<Passing> {
        if cannot_trace() {
            return None;
        }
        let made = Passing::null().or_else(Passing::memory);
        if made.is_none() {
            eprintln!("not tested: there are neither zram nor null_blk here");
        }
        made
    }

    fn memory() -> Option<Passing> {
        let number = std::fs::read_to_string(Path::new(ZRAM).join("hot_add")).ok()?.trim().to_string();
        let name = format!("zram{number}");
        std::fs::write(format!("/sys/block/{name}/disksize"), "16M").unwrap();
        Some(Passing { name, kind: Kind::Memory(number) })
    }

    fn null() -> Option<Passing> {
        if !Path::new("/sys/module/null_blk").exists() {
            return None;
        }
        let (none, folder) = (c"none", std::ffi::CString::new(CONFIGFS).unwrap());
        // SAFETY: the names are alive. Where it is mounted already, it stays.
        unsafe {
            libc::mount(none.as_ptr(), folder.as_ptr(), c"configfs".as_ptr(), 0, std::ptr::null());
        }
        // Several tests of a process have one each.
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder = Path::new(CONFIGFS).join(format!("nullb/kldpass{number}"));
        std::fs::create_dir(&folder).ok()?;
        let latency = LATENCY.as_nanos().to_string();
        let settings = [("queue_mode", "0"), ("irqmode", "2"), ("completion_nsec", &latency), ("size", "16")];
        settings.iter().chain(&[("power", "1")]).for_each(|(name, value)| {
            std::fs::write(folder.join(name), value).unwrap();
        });
        // Newer kernels name the disk as its folder.
        let index = std::fs::read_to_string(folder.join("index")).unwrap();
        let names = [format!("kldpass{number}"), format!("nullb{}", index.trim())];
        let name = names.into_iter().find(|name| Path::new("/sys/block").join(name).exists()).unwrap();
        let disk = Passing { name, kind: Kind::Null(folder) };
        // On 6.12 and 7.3 its disks make requests whatever they are told.
        (!Path::new("/sys/block").join(&disk.name).join("mq").exists()).then_some(disk)
    }

    /// The shortest that it takes.
    fn latency(&self) -> Duration {
        if matches!(self.kind, Kind::Null(_)) { LATENCY } else { Duration::from_nanos(1) }
    }

    fn open(&self) -> OwnedFd {
        let path = format!("/dev/{}", self.name);
        let options = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path);
        options.unwrap().into()
    }

    fn filter(&self, switches: u32) -> Filter {
        Filter { switches, numbers: vec![only_disk(&self.name).unwrap()], ..Filter::all() }
    }

    /// A generator that reads and writes so often, each in turn.
    fn generator(&self, count: u64) -> Generator {
        let fd = self.open();
        Generator::with(fd.as_raw_fd(), move || {
            for number in 0..count {
                match number % 2 {
                    0 => write(&fd, number * 8192, 4096),
                    _ => read(&fd, number * 8192, 65536),
                }
            }
        })
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        match &self.kind {
            Kind::Memory(number) => {
                let _ = std::fs::write(format!("/sys/block/{}/reset", self.name), "1");
                let _ = std::fs::write(Path::new(ZRAM).join("hot_remove"), number);
            }
            Kind::Null(folder) => {
                let _ = std::fs::write(folder.join("power"), "0");
                let _ = std::fs::remove_dir(folder);
            }
        }
    }
}

#[test]
fn what_a_disk_passes_on_is_told_with_its_fields() {
    let Some(disk) = Passing::new() else { return };
    let generator = disk.generator(200);
    let (pid, began) = (generator.pid, Instant::now());
    let (events, counts) =
        trace::<BioSnoop>(generator, &Filter { pids: vec![pid], ..disk.filter(PASSED_ON) });
    let elapsed = began.elapsed();

    assert_eq!((events.len(), counts.lost), (200, 0));
    for (event, number) in events.iter().zip(0..) {
        let (operation, bytes) = [(WRITES, 4096), (0, 65536)][number as usize % 2];
        assert_eq!((event.sector, event.bytes), (number * 16, bytes));
        assert_eq!((event.flags & OPERATION, text(&event.disk)), (operation, disk.name.as_str()));
        assert_eq!((event.task.pid, event.task.name()), (pid, own_comm().as_str()));
        assert_eq!(event.queued, Duration::ZERO);
        assert!(event.taken >= disk.latency(), "{event:?}");
    }
    let all: Duration = events.iter().map(|event| event.taken).sum();
    assert!(all < elapsed, "one after the other they take less than all: {all:?}");
}

#[test]
fn what_is_passed_on_is_counted_by_disk_and_only_where_it_is_asked_for() {
    let Some(disk) = Passing::new() else { return };
    let count = |switches: u32| {
        let generator = disk.generator(100);
        let (table, ()) = tally::<BioLatency, _>(generator, &disk.filter(switches), |_| ());
        let rows = table.iter().map(|(key, told)| (text(&key.name).to_string(), told.count()));
        rows.collect::<Vec<_>>()
    };
    assert_eq!(count(BioLatency::BY_DISK | PASSED_ON), [(disk.name.clone(), 100)]);
    assert_eq!(count(BioLatency::BY_DISK), []);
}

#[test]
fn totals_of_what_is_passed_on_are_by_process_disk_and_direction() {
    let Some(disk) = Passing::new() else { return };
    let generator = disk.generator(100);
    let pid = generator.pid;
    let (table, ()) = tally::<BioTop, _>(generator, &disk.filter(PASSED_ON), |_| ());
    let told: Vec<_> =
        table.iter().map(|(key, total)| (key.pid, key.which, total.count, total.amount)).collect();
    assert_eq!(told, [(pid, 0, 50, 50 * 65536), (pid, 1, 50, 50 * 4096)]);
    assert!(table.iter().all(|(key, total)| text(&key.disk) == disk.name && total.time > 0));
}

#[test]
fn what_has_become_a_request_is_counted_once() {
    let Some(disk) = Disk::new() else { return };
    let fd = disk.open();
    let generator = Generator::with(fd.as_raw_fd(), move || {
        (0..200).for_each(|number| read(&fd, number * 4096, 4096));
    });
    let filter = Filter { switches: BioLatency::BY_DISK | PASSED_ON, ..Filter::pid(generator.pid) };
    let (table, ()) = tally::<BioLatency, _>(generator, &filter, |_| ());
    let ours = table.iter().filter(|(key, _)| text(&key.name) == disk.name);
    assert_eq!(ours.map(|(_, told)| told.count()).collect::<Vec<_>>(), [200]);
}
