//! What every program that hangs on sys_exit must know.

use super::Known;

/// Where the registers of a task that has made a system call are kept.
#[cfg(target_arch = "x86_64")]
pub const REGISTERS: &[Known] = &[
    Known::field("REGS_NUMBER", &["pt_regs.orig_ax"]),
    Known::field("REGS_ARG0", &["pt_regs.di"]),
    Known::field("REGS_ARG1", &["pt_regs.si"]),
    Known::field("REGS_ARG2", &["pt_regs.dx"]),
    Known::field("REGS_ARG3", &["pt_regs.r10"]),
    Known::field("REGS_ARG4", &["pt_regs.r8"]),
    Known::field("REGS_SEGMENT", &["pt_regs.cs"]),
];

/// Where the registers of a task that has made a system call are kept. The result has taken the first argument's
/// place.
#[cfg(target_arch = "aarch64")]
pub const REGISTERS: &[Known] = &[
    Known::field("REGS_NUMBER", &["pt_regs.syscallno"]),
    Known::field("REGS_ARG0", &["pt_regs.orig_x0"]),
    Known::field("REGS_ARG1", &["pt_regs.regs+8"]),
    Known::field("REGS_ARG2", &["pt_regs.regs+16"]),
    Known::field("REGS_ARG3", &["pt_regs.regs+24"]),
    Known::field("REGS_ARG4", &["pt_regs.regs+32"]),
];

/// What a program must know to tell a task's parent.
pub const PARENTS: &[Known] = &[Known::field("TASK_PARENT", &["task_struct.real_parent"])];

/// System calls that older processors have, and newer ones have not.
#[cfg(target_arch = "x86_64")]
pub(super) mod old {
    pub(crate) const OPEN: Option<i64> = Some(libc::SYS_open);
    pub(crate) const CREAT: Option<i64> = Some(libc::SYS_creat);
    pub(crate) const STAT: Option<i64> = Some(libc::SYS_stat);
    pub(crate) const LSTAT: Option<i64> = Some(libc::SYS_lstat);
    pub(crate) const RMDIR: Option<i64> = Some(libc::SYS_rmdir);
    pub(crate) const MKDIR: Option<i64> = Some(libc::SYS_mkdir);
    pub(crate) const UNLINK: Option<i64> = Some(libc::SYS_unlink);
    pub(crate) const MKNOD: Option<i64> = Some(libc::SYS_mknod);
}

/// System calls that older processors have, and newer ones have not.
#[cfg(not(target_arch = "x86_64"))]
pub(super) mod old {
    pub(crate) const OPEN: Option<i64> = None;
    pub(crate) const CREAT: Option<i64> = None;
    pub(crate) const STAT: Option<i64> = None;
    pub(crate) const LSTAT: Option<i64> = None;
    pub(crate) const RMDIR: Option<i64> = None;
    pub(crate) const MKDIR: Option<i64> = None;
    pub(crate) const UNLINK: Option<i64> = None;
    pub(crate) const MKNOD: Option<i64> = None;
}
