//! What makes guests of KVM stop.

use kld_ebpf_events::guest::{BY_THREAD, Exit};
use kld_ebpf_events::table::Total;

use super::{Hook, Known};
use crate::table::Summary;

/// Why guests of KVM stop, and how long it is until they go on.
#[derive(Debug, Clone, Copy)]
pub struct KvmExit;

impl KvmExit {
    /// The switch for a total for each thread, where else there is one for each process, in
    /// [`Filter::switches`](crate::Filter).
    pub const BY_THREAD: u32 = BY_THREAD;
}

/// The first kernel whose modules describe their types.
const SINCE: &str = "5.11";

impl Summary for KvmExit {
    type Key = Exit;
    type Value = Total;
    const NAME: &'static str = "kvmexit";
    const OBJECT: &'static [u8] = include_bytes!("../../objects/kvmexit.o");
    const HOOKS: &'static [Hook] = &[
        Hook::new("stops", "kvm_exit").with_arguments(2).since(SINCE),
        Hook::new("stops_for", "kvm_exit").with_arguments(3).since(SINCE),
        Hook::new("goes_on", "kvm_entry").since(SINCE),
    ];
    const KNOWN: &'static [&'static [Known]] = &[&[
        Known::field("VCPU_NUMBER", &["kvm_vcpu.vcpu_id"]),
        Known::optional("VMX_REASON", &["vcpu_vmx.exit_reason", "vcpu_vmx.vt.exit_reason"]),
        Known::optional("SVM_BLOCK", &["vcpu_svm.vmcb"]),
    ]];
    const MODULES: &'static [&'static str] = &["kvm", "kvm_intel", "kvm_amd"];
    const KEYS: u32 = 8192;
}
