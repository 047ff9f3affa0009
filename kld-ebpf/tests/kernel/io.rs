//! Reads and writes by generators of ours, with the files that they are of.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use kld_ebpf::Filter;
use kld_ebpf::events::io::{Accesses, KIND, work};
use kld_ebpf::events::text;
use kld_ebpf::probe::{FileSlower, FileTop, VfsStat};

use crate::common::{Generator, cannot_trace, tally, trace};

static ROOM: [u8; 64 << 10] = [7; 64 << 10];

fn write(fd: i32, bytes: usize) -> isize {
    // SAFETY: the room is long enough.
    unsafe { libc::write(fd, ROOM.as_ptr().cast(), bytes) }
}

/// Reads from the file's beginning.
fn read(fd: i32, bytes: usize) -> isize {
    let mut room = [0_u8; 4096];
    // SAFETY: the room is long enough.
    unsafe { libc::pread(fd, room.as_mut_ptr().cast(), bytes.min(4096), 0) }
}

/// A file with a name, and a pipe.
struct Files {
    _folder: tempfile::TempDir,
    file: File,
    pipe: (OwnedFd, OwnedFd),
}

const NAME: &str = "a file of the test's";

impl Files {
    fn new() -> Files {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        let file = File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        Files { _folder: folder, file, pipe: (reader.into(), writer.into()) }
    }

    /// A generator that has the file, and the pipe, under numbers that it may use.
    fn generator(&self, deed: impl FnOnce(i32, [i32; 2])) -> Generator {
        let (file, pipe) = (self.file.as_raw_fd(), [self.pipe.0.as_raw_fd(), self.pipe.1.as_raw_fd()]);
        Generator::keeping(&[file, pipe[0], pipe[1]], || deed(file, pipe))
    }
}

fn own_comm() -> String {
    std::fs::read_to_string("/proc/thread-self/comm").unwrap().trim_end().to_string()
}

#[test]
fn reads_and_writes_are_counted_by_file_and_thread() {
    if cannot_trace() {
        return;
    }
    let files = Files::new();
    let deed = |file, pipe: [i32; 2]| {
        (0..100).for_each(|_| _ = write(file, 4096));
        let part = libc::iovec { iov_base: ROOM.as_ptr().cast_mut().cast(), iov_len: 500 };
        // SAFETY: both parts are alive.
        (0..10).for_each(|_| _ = unsafe { libc::writev(file, [part, part].as_ptr(), 2) });
        (0..50).for_each(|_| _ = read(file, 1000));
        // What fails is not counted.
        // SAFETY: the kernel checks the address.
        unsafe { libc::write(file, 8 as *const libc::c_void, 10) };
        read(-1, 10);
        (0..7).for_each(|_| _ = write(pipe[1], 3));
    };
    let meta = files.file.metadata().unwrap();
    for (switches, rows) in [(0, 1), (FileTop::ALL, 2)] {
        let generator = files.generator(deed);
        let pid = generator.pid;
        let filter = Filter { switches, ..Filter::pid(pid) };
        let (table, ()) = tally::<FileTop, _>(generator, &filter, |_| ());
        // The socket that gives the word is read too.
        let table: Vec<_> = table.iter().filter(|(key, _)| key.kind != libc::S_IFSOCK).collect();
        assert_eq!(table.len(), rows);
        let (key, told) = table.iter().find(|(key, _)| key.kind == libc::S_IFREG).unwrap();
        assert_eq!((text(&key.name), key.inode, key.pid, key.tid), (NAME, meta.ino(), pid, pid));
        assert_eq!((text(&key.comm), key.kind), (own_comm().as_str(), meta.mode() & KIND));
        let wanted = Accesses { reads: 50, writes: 110, read: 50 * 1000, written: 100 * 4096 + 10 * 1000 };
        assert_eq!(**told, wanted);
        if let Some((_, told)) = table.iter().find(|(key, _)| key.kind == libc::S_IFIFO) {
            assert_eq!((told.writes, told.written), (7, 21));
        }
    }
}

#[test]
fn each_read_and_write_is_told_with_its_outcome_where_no_time_is_too_short() {
    if cannot_trace() {
        return;
    }
    let files = Files::new();
    let generator = files.generator(|file, _| {
        write(file, 3000);
        read(file, 2000);
        // SAFETY: the kernel checks the address.
        unsafe { libc::write(file, 8 as *const libc::c_void, 10) };
    });
    let (pid, began) = (generator.pid, Instant::now());
    let filter = Filter { numbers: vec![(FileSlower::SHORTEST, 0)], ..Filter::pid(pid) };
    let (events, counts) = trace::<FileSlower>(generator, &filter);
    let elapsed = began.elapsed();
    let told: Vec<_> = events.iter().map(|event| (event.writes, event.result)).collect();
    assert_eq!(told, [(true, Ok(3000)), (false, Ok(2000)), (true, Err(libc::EFAULT))]);
    assert_eq!(counts.lost, 0);
    let inode = files.file.metadata().unwrap().ino();
    for event in &events {
        assert_eq!((event.name.to_str(), event.inode, event.task.pid), (Some(NAME), inode, pid));
        assert!(!event.taken.is_zero() && event.taken < elapsed, "{event:?}");
    }
}

#[test]
fn what_takes_less_than_is_wanted_is_not_told() {
    if cannot_trace() {
        return;
    }
    let files = Files::new();
    let wait = Duration::from_millis(60);
    let generator = files.generator(|file, pipe| {
        (0..1000).for_each(|_| _ = write(file, 10));
        let mut one = [0_u8; 1];
        // SAFETY: the room is as long as it says.
        unsafe { libc::read(pipe[0], one.as_mut_ptr().cast(), 1) };
    });
    let pid = generator.pid;
    let numbers = vec![(FileSlower::SHORTEST, 40_000)];
    let filter = Filter { numbers, switches: FileSlower::ALL, ..Filter::pid(pid) };
    let writer = files.pipe.1.as_raw_fd();
    let late = std::thread::spawn(move || {
        // The generator has begun to read before.
        let waits =
            || std::fs::read_to_string(format!("/proc/{pid}/wchan")).is_ok_and(|at| at.contains("pipe"));
        let deadline = Instant::now() + Duration::from_secs(20);
        while !waits() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(wait);
        write(writer, 1);
    });
    let (events, _) = trace::<FileSlower>(generator, &filter);
    late.join().unwrap();
    let pipes: Vec<_> = events.iter().filter(|event| event.kind == libc::S_IFIFO).collect();
    assert_eq!(pipes.len(), 1);
    assert!(pipes[0].taken >= wait && pipes[0].result == Ok(1) && !pipes[0].writes);
    assert!(events.len() < 100, "short ones are left out");
}

#[test]
fn what_the_kernel_does_for_files_is_counted() {
    if cannot_trace() {
        return;
    }
    let files = Files::new();
    let generator = files.generator(|file, _| {
        (0..500).for_each(|_| _ = read(file, 10));
        (0..300).for_each(|_| _ = write(file, 10));
        // SAFETY: paths are alive, and the process is alone in its folder of temporary files.
        unsafe {
            (0..20).for_each(|_| _ = libc::fsync(file));
            (0..40).for_each(|_| _ = libc::close(libc::open(c"/dev/null".as_ptr(), 0)));
            libc::open(c"/nonexistent".as_ptr(), 0);
            libc::mkdir(c"/tmp/kld-vfs-test".as_ptr(), 0o700);
            libc::mknod(c"/tmp/kld-vfs-test/file".as_ptr(), libc::S_IFREG | 0o600, 0);
            libc::unlink(c"/tmp/kld-vfs-test/file".as_ptr());
            libc::rmdir(c"/tmp/kld-vfs-test".as_ptr());
        }
    });
    let filter = Filter::pid(generator.pid);
    let (table, ()) = tally::<VfsStat, _>(generator, &filter, |_| ());
    let count = |what: u64| table.get(&what).map_or(0, |total| total.count);
    // The generator reads its word, besides.
    assert!((500..=501).contains(&count(work::READ)), "{}", count(work::READ));
    let told = [work::WRITE, work::FSYNC, work::OPEN, work::CREATE, work::UNLINK, work::MKDIR, work::RMDIR];
    assert_eq!(told.map(count), [300, 20, 40, 1, 1, 1, 1]);
}
