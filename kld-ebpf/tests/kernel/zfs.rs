//! Files on a pool of our own, in the lab (`KLD_LAB=1`): elsewhere there is no ZFS to be looked at.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Instant;

use kld_core::exec::Exec;
use kld_ebpf::Filter;
use kld_ebpf::events::table::Tally;
use kld_ebpf::events::zfs::{FSYNC, OPEN, READ, WRITE};
use kld_ebpf::probe::{ZfsDist, ZfsSlower};

use crate::common::{Generator, cannot_trace, tally, trace};

/// A pool in a file, with a file system. It is gone when this is dropped.
struct Pool {
    folder: tempfile::TempDir,
    name: String,
}

const NAME: &str = "a file on ZFS";

impl Pool {
    /// `None` where nothing can be traced, or this is no lab.
    fn new(name: &str) -> Option<Pool> {
        if cannot_trace() {
            return None;
        }
        if std::env::var_os("KLD_LAB").is_none() {
            eprintln!("not tested: there is no ZFS here; cargo xtask lab test runs it");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk");
        std::fs::File::create(&disk).unwrap().set_len(256 << 20).unwrap();
        let pool = Pool { name: format!("kld-ebpf-{name}-{}", std::process::id()), folder };
        let mount = format!("mountpoint={}", pool.mount().display());
        Exec::new("zpool").args(["create", "-O", &mount, &pool.name]).arg(&disk).run().unwrap();
        Some(pool)
    }

    fn mount(&self) -> PathBuf {
        self.folder.path().join("files")
    }

    fn file(&self) -> PathBuf {
        self.mount().join(NAME)
    }

    /// A generator that writes a file of so many pages, reads it again, and syncs it.
    fn generator(&self, pages: i64) -> Generator {
        let path = CString::new(self.file().as_os_str().as_bytes()).unwrap();
        Generator::new(move || {
            let mut page = [7_u8; 4096];
            // SAFETY: path and page are alive.
            unsafe {
                let fd = libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CREAT, 0o600);
                (0..pages).for_each(|number| _ = libc::pwrite(fd, page.as_ptr().cast(), 4096, number * 4096));
                (0..pages)
                    .for_each(|number| _ = libc::pread(fd, page.as_mut_ptr().cast(), 4096, number * 4096));
                libc::pread(fd, page.as_mut_ptr().cast(), 4096, pages * 4096);
                libc::fsync(fd);
                libc::write(libc::open(path.as_ptr(), libc::O_RDONLY), page.as_ptr().cast(), 1);
            }
        })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = Exec::new("zpool").args(["destroy", "-f", &self.name]).run();
    }
}

#[test]
fn operations_on_files_of_zfs_are_counted_with_their_times() {
    let Some(pool) = Pool::new("dist") else { return };
    let generator = pool.generator(300);
    let filter = Filter::pid(generator.pid);
    let began = Instant::now();
    let (table, ()) = tally::<ZfsDist, _>(generator, &filter, |_| ());
    let elapsed = began.elapsed();
    let told: Vec<_> = table.iter().map(|(operation, histogram)| (*operation, histogram.count())).collect();
    // The last read finds the end of the file. What a descriptor does not permit does not come to ZFS.
    assert_eq!(told, [(READ, 301), (WRITE, 300), (OPEN, 2), (FSYNC, 1)]);
    let time: u64 = table.values().map(|histogram| histogram.sum).sum();
    assert!(time > 0 && u128::from(time) < elapsed.as_nanos());
}

#[test]
fn each_operation_on_a_file_of_zfs_is_told_with_its_fields() {
    let Some(pool) = Pool::new("slower") else { return };
    let generator = pool.generator(2);
    let (pid, began) = (generator.pid, Instant::now());
    let filter = Filter { numbers: vec![(ZfsSlower::SHORTEST, 0)], ..Filter::pid(pid) };
    let (events, counts) = trace::<ZfsSlower>(generator, &filter);
    let elapsed = began.elapsed();
    let told: Vec<_> = events.iter().map(|event| (event.operation, event.place, event.result)).collect();
    let wanted = [
        (OPEN, 0, Ok(0)),
        (WRITE, 0, Ok(4096)),
        (WRITE, 4096, Ok(4096)),
        (READ, 0, Ok(4096)),
        (READ, 4096, Ok(4096)),
        (READ, 8192, Ok(0)),
        (FSYNC, 0, Ok(0)),
        (OPEN, 0, Ok(0)),
    ];
    assert_eq!((told.as_slice(), counts.lost), (wanted.as_slice(), 0));
    let inode = std::fs::metadata(pool.file()).unwrap().ino();
    for event in &events {
        assert_eq!((event.name.to_str(), event.inode, event.task.pid), (Some(NAME), inode, pid));
        assert!(!event.taken.is_zero() && event.taken < elapsed, "{event:?}");
    }
}

#[test]
fn of_zfs_only_what_takes_long_is_told() {
    let Some(pool) = Pool::new("long") else { return };
    let generator = pool.generator(300);
    let filter = Filter { numbers: vec![(ZfsSlower::SHORTEST, 3_600_000_000)], ..Filter::pid(generator.pid) };
    let (events, _) = trace::<ZfsSlower>(generator, &filter);
    assert!(events.is_empty(), "nothing takes an hour");
}
