//! The names of the reasons for which processors stop guests: Intel's from the Software Developer's Manual, volume 3,
//! appendix C, AMD's from the Architecture Programmer's Manual, volume 2, appendix C, in the kernel's spelling
//! (arch/x86/include/uapi/asm/vmx.h and svm.h).

use kld_ebpf::events::guest::{SVM, UNKNOWN, VMX};

/// Of Intel's reason, what is in the upper half says something else: only these bits name it.
const BASIC: u32 = 0xffff;

const VMX_REASONS: &[(u32, &str)] = &[
    (0, "EXCEPTION_NMI"),
    (1, "EXTERNAL_INTERRUPT"),
    (2, "TRIPLE_FAULT"),
    (3, "INIT_SIGNAL"),
    (4, "SIPI_SIGNAL"),
    (6, "OTHER_SMI"),
    (7, "INTERRUPT_WINDOW"),
    (8, "NMI_WINDOW"),
    (9, "TASK_SWITCH"),
    (10, "CPUID"),
    (12, "HLT"),
    (13, "INVD"),
    (14, "INVLPG"),
    (15, "RDPMC"),
    (16, "RDTSC"),
    (18, "VMCALL"),
    (19, "VMCLEAR"),
    (20, "VMLAUNCH"),
    (21, "VMPTRLD"),
    (22, "VMPTRST"),
    (23, "VMREAD"),
    (24, "VMRESUME"),
    (25, "VMWRITE"),
    (26, "VMOFF"),
    (27, "VMON"),
    (28, "CR_ACCESS"),
    (29, "DR_ACCESS"),
    (30, "IO_INSTRUCTION"),
    (31, "MSR_READ"),
    (32, "MSR_WRITE"),
    (33, "INVALID_STATE"),
    (34, "MSR_LOAD_FAIL"),
    (36, "MWAIT_INSTRUCTION"),
    (37, "MONITOR_TRAP_FLAG"),
    (39, "MONITOR_INSTRUCTION"),
    (40, "PAUSE_INSTRUCTION"),
    (41, "MCE_DURING_VMENTRY"),
    (43, "TPR_BELOW_THRESHOLD"),
    (44, "APIC_ACCESS"),
    (45, "EOI_INDUCED"),
    (46, "GDTR_IDTR"),
    (47, "LDTR_TR"),
    (48, "EPT_VIOLATION"),
    (49, "EPT_MISCONFIG"),
    (50, "INVEPT"),
    (51, "RDTSCP"),
    (52, "PREEMPTION_TIMER"),
    (53, "INVVPID"),
    (54, "WBINVD"),
    (55, "XSETBV"),
    (56, "APIC_WRITE"),
    (57, "RDRAND"),
    (58, "INVPCID"),
    (59, "VMFUNC"),
    (60, "ENCLS"),
    (61, "RDSEED"),
    (62, "PML_FULL"),
    (63, "XSAVES"),
    (64, "XRSTORS"),
    (67, "UMWAIT"),
    (68, "TPAUSE"),
    (74, "BUS_LOCK"),
    (75, "NOTIFY"),
    (77, "TDCALL"),
];

/// AMD's, but for exceptions, which are 32 numbers from 0x40 on.
const SVM_REASONS: &[(u32, &str)] = &[
    (0x000, "READ_CR0"),
    (0x002, "READ_CR2"),
    (0x003, "READ_CR3"),
    (0x004, "READ_CR4"),
    (0x008, "READ_CR8"),
    (0x010, "WRITE_CR0"),
    (0x013, "WRITE_CR3"),
    (0x014, "WRITE_CR4"),
    (0x018, "WRITE_CR8"),
    (0x020, "READ_DR0"),
    (0x021, "READ_DR1"),
    (0x026, "READ_DR6"),
    (0x027, "READ_DR7"),
    (0x030, "WRITE_DR0"),
    (0x031, "WRITE_DR1"),
    (0x036, "WRITE_DR6"),
    (0x037, "WRITE_DR7"),
    (0x060, "INTR"),
    (0x061, "NMI"),
    (0x062, "SMI"),
    (0x063, "INIT"),
    (0x064, "VINTR"),
    (0x065, "CR0_SEL_WRITE"),
    (0x066, "IDTR_READ"),
    (0x067, "GDTR_READ"),
    (0x068, "LDTR_READ"),
    (0x069, "TR_READ"),
    (0x06a, "IDTR_WRITE"),
    (0x06b, "GDTR_WRITE"),
    (0x06c, "LDTR_WRITE"),
    (0x06d, "TR_WRITE"),
    (0x06e, "RDTSC"),
    (0x06f, "RDPMC"),
    (0x070, "PUSHF"),
    (0x071, "POPF"),
    (0x072, "CPUID"),
    (0x073, "RSM"),
    (0x074, "IRET"),
    (0x075, "SWINT"),
    (0x076, "INVD"),
    (0x077, "PAUSE"),
    (0x078, "HLT"),
    (0x079, "INVLPG"),
    (0x07a, "INVLPGA"),
    (0x07b, "IOIO"),
    (0x07c, "MSR"),
    (0x07d, "TASK_SWITCH"),
    (0x07e, "FERR_FREEZE"),
    (0x07f, "SHUTDOWN"),
    (0x080, "VMRUN"),
    (0x081, "VMMCALL"),
    (0x082, "VMLOAD"),
    (0x083, "VMSAVE"),
    (0x084, "STGI"),
    (0x085, "CLGI"),
    (0x086, "SKINIT"),
    (0x087, "RDTSCP"),
    (0x088, "ICEBP"),
    (0x089, "WBINVD"),
    (0x08a, "MONITOR"),
    (0x08b, "MWAIT"),
    (0x08c, "MWAIT_COND"),
    (0x08d, "XSETBV"),
    (0x08e, "RDPRU"),
    (0x08f, "EFER_WRITE_TRAP"),
    (0x090, "CR0_WRITE_TRAP"),
    (0x094, "CR4_WRITE_TRAP"),
    (0x098, "CR8_WRITE_TRAP"),
    (0x0a2, "INVPCID"),
    (0x0a5, "BUS_LOCK"),
    (0x0a6, "IDLE_HLT"),
    (0x400, "NPF"),
    (0x401, "AVIC_INCOMPLETE_IPI"),
    (0x402, "AVIC_UNACCELERATED_ACCESS"),
    (0x403, "VMGEXIT"),
];

/// The exceptions that AMD's processors stop guests for, from the first on.
const EXCEPTIONS: u32 = 0x40;

/// A reason's name; the number where it has none.
pub fn name(isa: u32, reason: u32) -> String {
    let of = |names: &[(u32, &str)], reason: u32| {
        let known = names.iter().find(|(number, _)| *number == reason);
        known.map_or_else(|| format!("UNKNOWN_{reason:#x}"), |(_, name)| (*name).to_string())
    };
    match isa {
        VMX | SVM if reason == UNKNOWN => "UNKNOWN".to_string(),
        VMX => of(VMX_REASONS, reason & BASIC),
        SVM if (EXCEPTIONS..EXCEPTIONS + 32).contains(&reason) => {
            format!("EXCEPTION_{}", reason - EXCEPTIONS)
        }
        SVM => of(SVM_REASONS, reason),
        _ => format!("UNKNOWN_ISA_{isa}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_told_by_the_names_of_the_processor_s_manual() {
        let intel = [12, 30, 48, 0x8000_0021, 500].map(|reason| name(VMX, reason));
        assert_eq!(intel, ["HLT", "IO_INSTRUCTION", "EPT_VIOLATION", "INVALID_STATE", "UNKNOWN_0x1f4"]);
        let amd = [0x78, 0x7b, 0x400, 0x4e, 0x999].map(|reason| name(SVM, reason));
        assert_eq!(amd, ["HLT", "IOIO", "NPF", "EXCEPTION_14", "UNKNOWN_0x999"]);
        assert_eq!([name(VMX, UNKNOWN), name(7, 1)], ["UNKNOWN", "UNKNOWN_ISA_7"]);
    }

    #[test]
    fn no_number_has_two_names() {
        for names in [VMX_REASONS, SVM_REASONS] {
            assert!(names.is_sorted_by(|one, other| one.0 < other.0));
        }
    }
}
