//! A system call at its end: its number, its arguments and its result, all from one hook. The registers still hold
//! what the call was given, and strings that the kernel has read are in memory, which at the call's beginning
//! they need not be.

use aya_ebpf::programs::RawTracePointContext;

use crate::read::{Known, field, known, present};

// Where the registers keep them: the loader knows the names for each processor.
#[unsafe(no_mangle)]
static REGS_NUMBER: Known = known();
#[unsafe(no_mangle)]
static REGS_ARG0: Known = known();
#[unsafe(no_mangle)]
static REGS_ARG1: Known = known();
#[unsafe(no_mangle)]
static REGS_ARG2: Known = known();
#[unsafe(no_mangle)]
static REGS_ARG3: Known = known();
#[unsafe(no_mangle)]
static REGS_ARG4: Known = known();
/// The code segment, where the processor has one: calls of 32-bit programs have other numbers.
#[unsafe(no_mangle)]
static REGS_SEGMENT: Known = known();

/// The selector of 64-bit programs on x86-64.
const SEGMENT_64: u64 = 0x33;

/// What sys_exit(regs, result) tells.
pub struct Ended {
    regs: *const u8,
    /// The system call.
    pub number: u32,
    /// What it returned.
    pub result: i64,
}

impl Ended {
    #[inline(always)]
    pub fn of(ctx: &RawTracePointContext) -> Ended {
        let regs: *const u8 = ctx.arg(0);
        // A number of 64 bits, of which the kernel too looks at the lower half.
        Ended { regs, number: field(regs, &REGS_NUMBER), result: ctx.arg::<u64>(1) as i64 }
    }

    /// Whether a 64-bit program made the call.
    #[inline(always)]
    pub fn is_native(&self) -> bool {
        !present(&REGS_SEGMENT) || field::<u64>(self.regs, &REGS_SEGMENT) == SEGMENT_64
    }

    #[inline(always)]
    pub fn arg0(&self) -> u64 {
        field(self.regs, &REGS_ARG0)
    }

    #[inline(always)]
    pub fn arg1(&self) -> u64 {
        field(self.regs, &REGS_ARG1)
    }

    #[inline(always)]
    pub fn arg2(&self) -> u64 {
        field(self.regs, &REGS_ARG2)
    }

    #[inline(always)]
    pub fn arg3(&self) -> u64 {
        field(self.regs, &REGS_ARG3)
    }

    #[inline(always)]
    pub fn arg4(&self) -> u64 {
        field(self.regs, &REGS_ARG4)
    }
}

/// Whether the call is this one.
#[inline(always)]
pub fn is(number: u32, call: &Known) -> bool {
    number == call.load()
}
