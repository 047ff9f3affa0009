//! Files: that behind a descriptor, what it is, and its name.

use aya_ebpf::helpers::bpf_probe_read_kernel;

use crate::read::{Known, field, known};
use crate::task::current;

#[unsafe(no_mangle)]
static TASK_FILES: Known = known();
#[unsafe(no_mangle)]
static FILES_TABLE: Known = known();
#[unsafe(no_mangle)]
static TABLE_FILES: Known = known();
#[unsafe(no_mangle)]
static FILE_INODE: Known = known();
#[unsafe(no_mangle)]
static FILE_ENTRY: Known = known();
#[unsafe(no_mangle)]
static ENTRY_NAME: Known = known();
#[unsafe(no_mangle)]
static INODE_MODE: Known = known();
#[unsafe(no_mangle)]
static INODE_NUMBER: Known = known();
#[unsafe(no_mangle)]
static INODE_SYSTEM: Known = known();
#[unsafe(no_mangle)]
static SYSTEM_DEVICE: Known = known();

/// S_IFMT and S_IFREG.
const KIND: u16 = 0o170_000;
pub const REGULAR: u32 = 0o100_000;

/// The file behind a descriptor of the task that runs, which must be open.
#[inline(always)]
pub fn of_descriptor(fd: u32) -> *const u8 {
    let files: *const u8 = field(current(), &TASK_FILES);
    let table: *const u8 = field(files, &FILES_TABLE);
    let all: *const *const u8 = field(table, &TABLE_FILES);
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(all.wrapping_add(fd as usize)) }.unwrap_or(core::ptr::null())
}

/// What is known of a file by its inode.
pub struct Inode {
    /// Its number.
    pub number: u64,
    /// That of its file system.
    pub device: u32,
    /// What it is.
    pub kind: u32,
}

#[inline(always)]
pub fn inode(file: *const u8) -> Inode {
    let inode: *const u8 = field(file, &FILE_INODE);
    Inode {
        number: field(inode, &INODE_NUMBER),
        device: field(field(inode, &INODE_SYSTEM), &SYSTEM_DEVICE),
        kind: u32::from(field::<u16>(inode, &INODE_MODE) & KIND),
    }
}

/// Where a file's name is, without its folder's.
#[inline(always)]
pub fn name(file: *const u8) -> *const u8 {
    field(field(file, &FILE_ENTRY), &ENTRY_NAME)
}
