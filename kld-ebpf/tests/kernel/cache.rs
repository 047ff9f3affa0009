//! The cache of pages, by way of a block device of ours: what file systems keep in memory is not cached from anywhere.

use std::fs::File;
use std::os::fd::AsRawFd;

use kld_ebpf::Filter;
use kld_ebpf::events::io::cache;
use kld_ebpf::probe::CacheStat;

use crate::block::Disk;
use crate::common::{Generator, tally};

const PAGE: usize = 4096;
const BLKFLSBUF: u64 = 0x1261;

/// A read of so many bytes, at a page.
fn read(fd: i32, page: usize, bytes: usize) {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: fresh pages of that length, which are given back.
    unsafe {
        let room = libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        libc::pread(fd, room, bytes, (page * PAGE) as i64);
        libc::munmap(room, bytes);
    }
}

/// Pages that were wanted, added and made dirty by a deed on a device that nothing is cached of, or all that was read
/// before.
fn pages(disk: &Disk, file: &File, is_cold: bool, deed: fn(i32)) -> [u64; 3] {
    if is_cold {
        // SAFETY: the command takes nothing.
        assert_eq!(unsafe { libc::ioctl(file.as_raw_fd(), BLKFLSBUF, 0) }, 0, "{}", disk.name);
    }
    let fd = file.as_raw_fd();
    // Nothing is read ahead.
    // SAFETY: the call takes numbers.
    unsafe { libc::posix_fadvise(fd, 0, 0, libc::POSIX_FADV_RANDOM) };
    let generator = Generator::with(fd, move || deed(fd));
    let filter = Filter::pid(generator.pid);
    let (table, ()) = tally::<CacheStat, _>(generator, &filter, |_| ());
    let of = |key| table.get(&key).map_or(0, |total| total.amount);
    [of(cache::WANTED), of(cache::ADDED), of(cache::DIRTIED)]
}

/// Whether as many pages were wanted as were read. Kernels before 6.12 mark what is mapped too, when it is unmapped, as at
/// the generator's end.
fn are_wanted(told: u64, read: u64) -> bool {
    let btf = kld_ebpf::Btf::of_kernel().unwrap();
    if btf.tracepoint("mm_filemap_get_pages").is_some() { told == read } else { told >= read }
}

#[test]
fn pages_are_added_when_they_are_read_first_and_only_wanted_after_that() {
    let Some(disk) = Disk::new() else { return };
    let file = File::open(format!("/dev/{}", disk.name)).unwrap();
    let by_page = |fd| (0..256).for_each(|page| read(fd, page, PAGE));
    let first = pages(&disk, &file, true, by_page);
    let again = pages(&disk, &file, false, by_page);
    assert_eq!((&first[1..], &again[1..]), (&[256, 0][..], &[0, 0][..]));
    assert!(are_wanted(first[0], 256) && are_wanted(again[0], 256), "{first:?} {again:?}");
}

#[test]
fn the_pages_of_a_long_read_are_wanted_once() {
    let Some(disk) = Disk::new() else { return };
    let file = File::open(format!("/dev/{}", disk.name)).unwrap();
    let at_once = |fd| read(fd, 0, 256 * PAGE);
    let first = pages(&disk, &file, true, at_once);
    let again = pages(&disk, &file, false, at_once);
    assert_eq!((&first[1..], &again[1..]), (&[256, 0][..], &[0, 0][..]));
    assert!(are_wanted(first[0], 256) && are_wanted(again[0], 256), "{first:?} {again:?}");
}

#[test]
fn pages_that_are_written_become_dirty() {
    let Some(disk) = Disk::new() else { return };
    let file = File::options().write(true).open(format!("/dev/{}", disk.name)).unwrap();
    let [_, added, dirtied] = pages(&disk, &file, true, |fd| {
        let page = [7_u8; PAGE];
        (0..64).for_each(|number| {
            // SAFETY: the page is alive.
            _ = unsafe { libc::pwrite(fd, page.as_ptr().cast(), PAGE, number * PAGE as i64) }
        });
    });
    assert_eq!((added, dirtied), (64, 64));
}
