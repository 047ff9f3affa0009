//! kvmexit: why guests of KVM stop, and how long it is until they go on.
#![no_std]
#![no_main]

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::LruHashMap;
use aya_ebpf::programs::RawTracePointContext;
use kld_ebpf_events::guest::{BY_THREAD, Exit, SVM, UNKNOWN, VMX};
use kld_ebpf_events::table::Total;
use kld_ebpf_programs::current::{now, switches, wanted};
use kld_ebpf_programs::read::{Known, field, known, present};
use kld_ebpf_programs::table::{Table, value};

#[unsafe(no_mangle)]
static VCPU_NUMBER: Known = known();
/// Intel's: the reason, where the module says where it keeps it.
#[unsafe(no_mangle)]
static VMX_REASON: Known = known();
/// AMD's: the block that the processor writes.
#[unsafe(no_mangle)]
static SVM_BLOCK: Known = known();

/// Where AMD's processors write the reason in it (AMD64 Architecture Programmer's Manual, volume 2, appendix B).
const EXITCODE: usize = 0x70;

/// A guest that has stopped.
#[derive(Clone, Copy)]
#[repr(C)]
struct Stopped {
    since: u64,
    key: Exit,
}

#[map]
static TABLE: Table<Exit, Total> = Table::with_max_entries(1, 0);

/// What each thread's guest has stopped for. One that never goes on is the oldest one day.
#[map]
static STOPPED: LruHashMap<u32, Stopped> = LruHashMap::with_max_entries(8192, 0);

/// kvm_exit(vcpu, isa)
#[raw_tracepoint(tracepoint = "kvm_exit")]
pub fn stops(ctx: RawTracePointContext) -> i32 {
    if !wanted() {
        return 0;
    }
    let (vcpu, isa): (*const u8, u32) = (ctx.arg(0), ctx.arg::<u64>(1) as u32);
    let reason = if isa == VMX && present(&VMX_REASON) {
        field(vcpu, &VMX_REASON)
    } else if isa == SVM && present(&SVM_BLOCK) {
        svm_reason(field(vcpu, &SVM_BLOCK))
    } else {
        UNKNOWN
    };
    stop(&ctx, vcpu, isa, reason)
}

/// kvm_exit(reason, vcpu, isa), before 5.16.
#[raw_tracepoint(tracepoint = "kvm_exit")]
pub fn stops_for(ctx: RawTracePointContext) -> i32 {
    if !wanted() {
        return 0;
    }
    stop(&ctx, ctx.arg(1), ctx.arg::<u64>(2) as u32, ctx.arg::<u64>(0) as u32)
}

#[inline(always)]
fn svm_reason(block: *const u8) -> u32 {
    // SAFETY: the helper checks the address.
    let code =
        unsafe { aya_ebpf::helpers::bpf_probe_read_kernel(block.wrapping_add(EXITCODE).cast::<u32>()) };
    code.unwrap_or(UNKNOWN)
}

#[inline(always)]
fn stop(ctx: &RawTracePointContext, vcpu: *const u8, isa: u32, reason: u32) -> i32 {
    let (tid, number) = match switches() & BY_THREAD {
        0 => (0, 0),
        _ => (ctx.pid(), field(vcpu, &VCPU_NUMBER)),
    };
    let key = Exit { pid: ctx.tgid(), tid, vcpu: number, isa, reason, pad: 0 };
    let stopped = Stopped { since: now(), key };
    let _ = STOPPED.insert(&ctx.pid(), &stopped, u64::from(BPF_ANY));
    if let Some(total) = value(&TABLE, key) {
        // SAFETY: the entry is this processor's, and nothing else runs on it now.
        unsafe { (*total).count += 1 };
    }
    0
}

/// kvm_entry(...)
#[raw_tracepoint(tracepoint = "kvm_entry")]
pub fn goes_on(ctx: RawTracePointContext) -> i32 {
    let thread = ctx.pid();
    // SAFETY: the value is copied at once.
    let Some(stopped) = (unsafe { STOPPED.get(&thread) }).copied() else { return 0 };
    let _ = STOPPED.remove(&thread);
    if let Some(total) = value(&TABLE, stopped.key) {
        // SAFETY: the entry is this processor's, and nothing else runs on it now.
        unsafe { (*total).time += now().saturating_sub(stopped.since) };
    }
    0
}
