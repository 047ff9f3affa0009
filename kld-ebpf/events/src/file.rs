//! Events of files and mounts.

use crate::{Plain, Task};

/// The longest path that a system call takes, its NUL included.
pub const PATH: usize = 4096;

/// A file was asked about, or was not there; its path follows, without the NUL.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Stat {
    /// Who.
    pub task: Task,
    /// Which call: 0 statfs, 1 stat, 2 lstat, 3 newfstatat, 4 statx.
    pub call: u32,
    /// 0, or a negative error number.
    pub result: i32,
}

/// A system call that mounts, or takes part in it, has ended. Its four texts follow, each in a room of [`PATH`] bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Mount {
    /// Who.
    pub task: Task,
    /// Those of its arguments that are numbers, in their order.
    pub numbers: [u64; 3],
    /// The number of the mount namespace.
    pub namespace: u32,
    /// Which call, one of the constants here.
    pub call: u32,
    /// What it returned.
    pub result: i64,
    /// How long the texts are; [`NONE`] for a null pointer.
    pub lengths: [u32; 4],
}

/// The length of a text that is none.
pub const NONE: u32 = u32::MAX;

/// mount(2): its texts are source, target, type and data, its number the flags.
pub const MOUNT: u32 = 0;
/// umount2(2): its text is the target, its number the flags.
pub const UMOUNT: u32 = 1;
/// fsopen(2): its text is the type, its number the flags.
pub const FSOPEN: u32 = 2;
/// fsconfig(2): its texts are key and value, its numbers the descriptor, the command and the last argument.
pub const FSCONFIG: u32 = 3;
/// fsmount(2): its numbers are the descriptor, the flags and the attributes.
pub const FSMOUNT: u32 = 4;
/// open_tree(2): its text is the path, its numbers the folder and the flags.
pub const OPEN_TREE: u32 = 5;
/// move_mount(2): its texts are from where and where to, its numbers the two folders and the flags.
pub const MOVE_MOUNT: u32 = 6;
/// mount_setattr(2): its text is the path, its numbers the folder and the flags.
pub const MOUNT_SETATTR: u32 = 7;

// SAFETY: repr(C), integers only, no gap between them.
unsafe impl Plain for Stat {}
// SAFETY: as above.
unsafe impl Plain for Mount {}
