//! Objects that the kernel takes for a generator, beside what it tells of its caches (/sys/kernel/slab).

use std::path::Path;

use kld_ebpf::events::memory::Cache;
use kld_ebpf::events::table::Total;
use kld_ebpf::events::text;
use kld_ebpf::probe::SlabRate;
use kld_ebpf::{Filter, Table};

use crate::common::{Generator, cannot_trace, tally};

/// So many files it opens, each of which is an object of the cache `filp`.
const FILES: u64 = 1000;

fn opens() {
    for _ in 0..FILES {
        // SAFETY: the path ends with its NUL; the descriptor, where there is one, is our own.
        unsafe { libc::close(libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY)) };
    }
}

/// The size of a cache's objects with what lies between them; `None` where the kernel has merged it with others, or
/// does not tell.
fn size(cache: &str) -> Option<u64> {
    let folder = Path::new("/sys/kernel/slab").join(cache);
    let text = std::fs::read_to_string(folder.join("slab_size")).ok()?;
    (!folder.is_symlink()).then(|| text.trim().parse().unwrap())
}

#[test]
fn objects_are_counted_by_their_cache_with_their_sizes() {
    if cannot_trace() {
        return;
    }
    let generator = Generator::new(opens);
    let filter = Filter::pid(generator.pid);
    let (rows, ()) = tally::<SlabRate, _>(generator, &filter, |_| ());
    let as_many = |(_, total): &(&Cache, &Total)| (FILES..FILES + 100).contains(&total.count);
    let found: Vec<_> =
        rows.iter().filter(as_many).map(|(cache, total)| (text(&cache.name), total)).collect();
    let Some(size) = size("filp") else {
        assert!(!found.is_empty(), "{rows:?}");
        return eprintln!("not tested: this kernel does not tell the cache of files by its name");
    };
    let (_, files) = found.iter().find(|(name, _)| *name == "filp").unwrap_or_else(|| panic!("{rows:?}"));
    assert_eq!(files.amount, files.count * size);
}

#[test]
fn objects_of_others_are_not_counted() {
    if cannot_trace() {
        return;
    }
    let generator = Generator::new(opens);
    let filter = Filter { uid: Some(4711), ..Filter::pid(generator.pid) };
    assert!(tally::<SlabRate, _>(generator, &filter, |_| ()).0.is_empty());
}

#[test]
fn what_is_counted_is_told_once() {
    if cannot_trace() {
        return;
    }
    let generator = Generator::new(opens);
    let mut table: Table<SlabRate> = crate::common::start_table(&Filter::pid(generator.pid));
    generator.go();
    let all: u64 = table.take().unwrap().values().map(|total| total.count).sum();
    assert!(all >= FILES && table.take().unwrap().is_empty(), "{all}");
}
