//! What a function was given, where a program stands at its beginning, and what it returned, where it stands at its end.

use aya_ebpf::EbpfContext;

use crate::read::{Known, field, known};

// Where the registers keep them: the loader knows the names for each processor.
#[unsafe(no_mangle)]
static FUNCTION_ARG0: Known = known();
#[unsafe(no_mangle)]
static FUNCTION_ARG1: Known = known();
#[unsafe(no_mangle)]
static FUNCTION_ARG2: Known = known();
#[unsafe(no_mangle)]
static FUNCTION_RESULT: Known = known();

#[inline(always)]
fn register<T: Copy>(ctx: &impl EbpfContext, which: &Known) -> T {
    field(ctx.as_ptr().cast_const().cast(), which)
}

#[inline(always)]
pub fn arg0<T: Copy>(ctx: &impl EbpfContext) -> T {
    register(ctx, &FUNCTION_ARG0)
}

#[inline(always)]
pub fn arg1<T: Copy>(ctx: &impl EbpfContext) -> T {
    register(ctx, &FUNCTION_ARG1)
}

#[inline(always)]
pub fn arg2<T: Copy>(ctx: &impl EbpfContext) -> T {
    register(ctx, &FUNCTION_ARG2)
}

/// What it returned.
#[inline(always)]
pub fn result<T: Copy>(ctx: &impl EbpfContext) -> T {
    register(ctx, &FUNCTION_RESULT)
}
