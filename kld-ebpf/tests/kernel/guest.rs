//! A guest of our own, of a few bytes: it writes to a port, and halts.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Instant;

use kld_ebpf::Filter;
use kld_ebpf::events::guest::{Exit, SVM, VMX};
use kld_ebpf::probe::KvmExit;

use crate::common::{Generator, cannot_trace, tally};

const WRITES: u64 = 100;

// linux/kvm.h
const CREATE_VM: u64 = 0xae01;
const VCPU_MMAP_SIZE: u64 = 0xae04;
const CREATE_VCPU: u64 = 0xae41;
const RUN: u64 = 0xae80;
const SET_MEMORY: u64 = 0x4020_ae46;
const SET_REGISTERS: u64 = 0x4090_ae82;
const GET_SPECIAL: u64 = 0x8138_ae83;
const SET_SPECIAL: u64 = 0x4138_ae84;
const EXIT_IO: u32 = 2;
const EXIT_HALTED: u32 = 5;

const MEMORY: usize = 4096;
/// Where the guest's memory begins, and its code.
const BASE: u64 = 0x1000;
/// mov cx, 100; again: out 0x80, al; loop again; hlt
const CODE: [u8; 8] = [0xb9, WRITES as u8, 0x00, 0xe6, 0x80, 0xe2, 0xfc, 0xf4];

/// A guest with one processor.
struct Guest {
    vcpu: OwnedFd,
    _machine: OwnedFd,
    told: *const u32,
}

/// An ioctl(2) that must succeed.
fn ask(fd: i32, command: u64, argument: u64) -> i32 {
    // SAFETY: what the arguments point to is alive in the callers.
    let outcome = unsafe { libc::ioctl(fd, command, argument) };
    assert!(outcome >= 0, "{command:#x}: {}", std::io::Error::last_os_error());
    outcome
}

fn pages(length: usize, fd: i32) -> *mut u8 {
    let flags = if fd < 0 { libc::MAP_SHARED | libc::MAP_ANONYMOUS } else { libc::MAP_SHARED };
    // SAFETY: fresh pages, kept until the test's end.
    let at =
        unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, flags, fd, 0) };
    assert_ne!(at, libc::MAP_FAILED);
    at.cast()
}

impl Guest {
    /// `None` where nothing can be traced, or there is no KVM.
    fn new() -> Option<Guest> {
        if cannot_trace() {
            return None;
        }
        let Ok(kvm) = File::options().read(true).write(true).open("/dev/kvm") else {
            eprintln!("not tested: there is no KVM here");
            return None;
        };
        let kvm = kvm.as_raw_fd();
        // SAFETY: both are descriptors that were just made.
        let (machine, vcpu) = unsafe {
            let machine = OwnedFd::from_raw_fd(ask(kvm, CREATE_VM, 0));
            let vcpu = OwnedFd::from_raw_fd(ask(machine.as_raw_fd(), CREATE_VCPU, 0));
            (machine, vcpu)
        };
        let memory = pages(MEMORY, -1);
        // SAFETY: the memory is longer.
        unsafe { memory.copy_from(CODE.as_ptr(), CODE.len()) };
        // Slot and flags, where it is to the guest, how long it is, where it is to us.
        let slot = [0, BASE, MEMORY as u64, memory as u64];
        ask(machine.as_raw_fd(), SET_MEMORY, slot.as_ptr() as u64);
        let fd = vcpu.as_raw_fd();
        let mut special = [0_u64; 312 / 8];
        ask(fd, GET_SPECIAL, special.as_mut_ptr() as u64);
        // The code segment's base and selector are the first fields.
        special[0] = 0;
        special[1] &= !(0xffff << 32);
        ask(fd, SET_SPECIAL, special.as_ptr() as u64);
        // Of 18 registers the last two are where it stands, and its flags.
        let mut registers = [0_u64; 18];
        (registers[16], registers[17]) = (BASE, 2);
        ask(fd, SET_REGISTERS, registers.as_ptr() as u64);
        let size = ask(kvm, VCPU_MMAP_SIZE, 0);
        let told = pages(size as usize, fd).cast::<u32>();
        Some(Guest { vcpu, _machine: machine, told })
    }

    /// Lets it run until it halts; system calls only.
    fn run(&self) {
        // SAFETY: the command takes nothing.
        while unsafe { libc::ioctl(self.vcpu.as_raw_fd(), RUN, 0) } == 0 && self.reason() == EXIT_IO {}
    }

    /// Why it has come back: the third word of what KVM tells (struct kvm_run).
    fn reason(&self) -> u32 {
        // SAFETY: the pages are KVM's, and longer.
        unsafe { self.told.add(2).read_volatile() }
    }
}

/// Whether the processor helps KVM: where guests are run without, the kernel does not come by its tracepoints.
fn has_help() -> bool {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    text.split_whitespace().any(|flag| flag == "vmx" || flag == "svm")
}

#[test]
fn a_guest_s_exits_are_counted_with_their_reasons() {
    let Some(guest) = Guest::new() else { return };
    let own = std::process::id();
    // A guest belongs to the process that has made it: this thread runs it, once the generator is at its end.
    let generator = Generator::new(|| ());
    let filter = Filter { switches: KvmExit::BY_THREAD, ..Filter::pid(own) };
    let began = Instant::now();
    let (table, ()) = tally::<KvmExit, _>(generator, &filter, |_| guest.run());
    let elapsed = began.elapsed();
    assert_eq!(guest.reason(), EXIT_HALTED);
    if !has_help() {
        return eprintln!("not tested: this host runs guests without its processor's help");
    }
    // SAFETY: the call takes nothing.
    let thread = unsafe { libc::gettid() } as u32;
    assert!(table.keys().all(|key| (key.pid, key.tid, key.vcpu) == (own, thread, 0)), "{table:?}");
    let of = |vmx: u32, svm: u32| -> u64 {
        let wanted = |key: &&Exit| [(VMX, vmx), (SVM, svm)].contains(&(key.isa, key.reason));
        table.iter().filter(|(key, _)| wanted(key)).map(|(_, total)| total.count).sum()
    };
    // IO_INSTRUCTION and HLT to Intel, IOIO and HLT to AMD.
    assert_eq!((of(30, 0x7b), of(12, 0x78)), (WRITES, 1), "{table:?}");
    let time: u64 = table.values().map(|total| total.time).sum();
    assert!(time > 0 && u128::from(time) < elapsed.as_nanos(), "{time} of {elapsed:?}");
}
