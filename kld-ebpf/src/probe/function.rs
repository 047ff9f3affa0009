//! What a program must know that hangs on functions.

use super::Known;

/// Where the registers of a processor hold what a function is given, and what it returns.
#[cfg(target_arch = "x86_64")]
pub const FUNCTION: &[Known] = &[
    Known::field("FUNCTION_ARG0", &["pt_regs.di"]),
    Known::field("FUNCTION_ARG1", &["pt_regs.si"]),
    Known::field("FUNCTION_ARG2", &["pt_regs.dx"]),
    Known::field("FUNCTION_RESULT", &["pt_regs.ax"]),
];

/// Where the registers of a processor hold what a function is given, and what it returns.
#[cfg(target_arch = "aarch64")]
pub const FUNCTION: &[Known] = &[
    Known::field("FUNCTION_ARG0", &["pt_regs.regs"]),
    Known::field("FUNCTION_ARG1", &["pt_regs.regs+8"]),
    Known::field("FUNCTION_ARG2", &["pt_regs.regs+16"]),
    Known::field("FUNCTION_RESULT", &["pt_regs.regs"]),
];
