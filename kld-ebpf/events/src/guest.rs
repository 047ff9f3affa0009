//! What makes guests of KVM stop.

use crate::Plain;

/// The switch for a total for each thread, where else there is one for each process.
pub const BY_THREAD: u32 = 1;

/// The guest runs on Intel's extension (asm/kvm_host.h: KVM_ISA_VMX).
pub const VMX: u32 = 1;
/// The guest runs on AMD's.
pub const SVM: u32 = 2;

/// The reason where none can be read.
pub const UNKNOWN: u32 = u32::MAX;

/// What totals are kept by.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exit {
    /// The process.
    pub pid: u32,
    /// The thread that runs the processor; 0 where it is not asked for.
    pub tid: u32,
    /// The guest's processor, by its number; 0 where it is not asked for.
    pub vcpu: u32,
    /// What the guest runs on: [`VMX`], [`SVM`], or another number.
    pub isa: u32,
    /// Why it has stopped, as the processor has it; [`UNKNOWN`] where it cannot be read.
    pub reason: u32,
    /// Nothing.
    pub pad: u32,
}

// SAFETY: repr(C), integers only, no gap between them.
unsafe impl Plain for Exit {}
