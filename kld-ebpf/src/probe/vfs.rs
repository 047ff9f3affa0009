//! What the kernel does for files, and its cache of pages.

use kld_ebpf_events::table::Total;

use super::syscall::old;
use super::{Hook, Known, REGISTERS};
use crate::table::Summary;

/// What the kernel does for files, counted: the key is one of [`work`](kld_ebpf_events::io::work). It is counted on the
/// kernel's functions; where the kernel has no probes on functions, on the system calls that lead there and succeed.
#[derive(Debug, Clone, Copy)]
pub struct VfsStat;

impl Summary for VfsStat {
    type Key = u64;
    type Value = Total;
    const NAME: &'static str = "vfsstat";
    const OBJECT: &'static [u8] = include_bytes!("../../objects/vfsstat.o");
    const HOOKS: &'static [Hook] = &[
        Hook::entry("reads", "vfs_read").optional(),
        Hook::entry("writes", "vfs_write").optional(),
        Hook::entry("syncs", "vfs_fsync_range").optional(),
        Hook::entry("opens", "vfs_open").optional(),
        Hook::entry("creates", "vfs_create").optional(),
        Hook::entry("unlinks", "vfs_unlink").optional(),
        Hook::entry("makes", "vfs_mkdir").optional(),
        Hook::entry("removes", "vfs_rmdir").optional(),
        Hook::new("ended", "sys_exit").instead_of_functions(),
    ];
    const KNOWN: &'static [&'static [Known]] = &[
        REGISTERS,
        &[
            Known::call("SYS_READ", libc::SYS_read),
            Known::call("SYS_PREAD", libc::SYS_pread64),
            Known::call("SYS_WRITE", libc::SYS_write),
            Known::call("SYS_PWRITE", libc::SYS_pwrite64),
            Known::call("SYS_FSYNC", libc::SYS_fsync),
            Known::call("SYS_FDATASYNC", libc::SYS_fdatasync),
            Known::old_call("SYS_OPEN", old::OPEN),
            Known::old_call("SYS_CREAT", old::CREAT),
            Known::call("SYS_OPENAT", libc::SYS_openat),
            Known::call("SYS_OPENAT2", libc::SYS_openat2),
            Known::old_call("SYS_MKNOD", old::MKNOD),
            Known::call("SYS_MKNODAT", libc::SYS_mknodat),
            Known::old_call("SYS_UNLINK", old::UNLINK),
            Known::call("SYS_UNLINKAT", libc::SYS_unlinkat),
            Known::old_call("SYS_MKDIR", old::MKDIR),
            Known::call("SYS_MKDIRAT", libc::SYS_mkdirat),
            Known::old_call("SYS_RMDIR", old::RMDIR),
        ],
    ];
    const KEYS: u32 = 8;
}

/// Pages of the cache that are wanted, added and made dirty: the key is one of [`cache`](kld_ebpf_events::io::cache).
#[derive(Debug, Clone, Copy)]
pub struct CacheStat;

const GETS: &str = "mm_filemap_get_pages";
const DIRTIES: &str = "writeback_dirty_folio";
/// The first kernel that has the former.
const SINCE: &str = "6.12";

impl Summary for CacheStat {
    type Key = u64;
    type Value = Total;
    const NAME: &'static str = "cachestat";
    const OBJECT: &'static [u8] = include_bytes!("../../objects/cachestat.o");
    const HOOKS: &'static [Hook] = &[
        Hook::new("read", GETS).optional(),
        Hook::new("faults", "mm_filemap_fault").optional(),
        // The tracepoint for what becomes dirty tells whether the kernel has folios.
        Hook::entry("used", "folio_mark_accessed").beside(DIRTIES).replaced_by(GETS).since(SINCE),
        Hook::entry("used", "mark_page_accessed").replaced_by(DIRTIES).since(SINCE),
        Hook::new("dirtied_buffer", "block_dirty_buffer").replaced_by(GETS),
        Hook::new("added", "mm_filemap_add_to_page_cache"),
        Hook::new("dirtied", DIRTIES).optional(),
        Hook::new("dirtied", "writeback_dirty_page").replaced_by(DIRTIES),
    ];
    const KNOWN: &'static [&'static [Known]] = &[&[
        Known::bit("BIT_LARGE", &["folio.page.flags@PG_head", "folio.flags@PG_head"]),
        Known::optional("FOLIO_PAGES", &["folio._nr_pages", "folio._folio_nr_pages"]),
    ]];
    const KEYS: u32 = 4;
}
