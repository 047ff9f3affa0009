//! Names for the addresses in stacks: the kernel's out of /proc/kallsyms, a program's out of the files that its process
//! has mapped.
//!
//! A process is looked at when its first address is asked for. One that is gone by then has no names any more: its
//! frames are bare addresses.

mod elf;
mod kernel;
mod maps;

use std::collections::HashMap;
use std::rc::Rc;

use elf::Elf;
use kernel::Kernel;
use maps::Process;

/// A call in a stack.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Frame {
    /// Where the call will go on, or, of the innermost one, where it is.
    pub address: u64,
    /// The function, and how far in it that is; `None` where nobody knows.
    pub function: Option<(String, u64)>,
    /// The file or module that it is of; `None` for the kernel itself, and where nobody knows.
    pub object: Option<String>,
}

impl Frame {
    /// One of which no more is known.
    fn bare(address: u64) -> Frame {
        Frame { address, function: None, object: None }
    }

    /// What stands for it: the function's name, or the file's in brackets, or the address.
    pub fn name(&self) -> String {
        match (&self.function, &self.object) {
            (Some((name, _)), _) => name.clone(),
            (None, Some(object)) => format!("[{object}]"),
            (None, None) => format!("{:#x}", self.address),
        }
    }
}

/// The names that are known by now.
#[derive(Debug, Default)]
pub struct Symbols {
    kernel: Option<Kernel>,
    processes: HashMap<u32, Option<Process>>,
    files: HashMap<maps::File, Option<Rc<Elf>>>,
}

impl Symbols {
    /// Nothing is known yet.
    pub fn new() -> Symbols {
        Symbols::default()
    }

    fn of_kernel(&mut self) -> &Kernel {
        self.kernel.get_or_insert_with(Kernel::read)
    }

    /// Whether the kernel tells this process no addresses (kernel.kptr_restrict, and CAP_SYSLOG where it is 1).
    pub fn kernel_is_hidden(&mut self) -> bool {
        self.of_kernel().is_empty()
    }

    /// The frames of a stack in the kernel, without those of the tracing itself.
    pub fn kernel(&mut self, addresses: &[u64]) -> Vec<Frame> {
        let kernel = self.of_kernel();
        let frames = called(addresses).map(|(address, inside)| kernel.frame(address, inside));
        kernel::without_tracing(frames.collect())
    }

    /// The frames of a stack of a process.
    pub fn user(&mut self, pid: u32, addresses: &[u64]) -> Vec<Frame> {
        let process = self.processes.entry(pid).or_insert_with(|| Process::look(pid));
        let Some(process) = process else { return addresses.iter().copied().map(Frame::bare).collect() };
        let files = &mut self.files;
        called(addresses).map(|(address, inside)| process.frame(files, address, inside)).collect()
    }
}

/// Each address with one that is inside the call: but for the innermost they are those behind it, where already another
/// function may begin.
fn called(addresses: &[u64]) -> impl Iterator<Item = (u64, u64)> {
    let inside = |(depth, address): (usize, &u64)| (*address, address.saturating_sub(u64::from(depth > 0)));
    addresses.iter().enumerate().map(inside)
}

/// A name as its language writes it: Rust's are told in full without their digest, others as they are.
fn demangled(name: &str) -> String {
    match rustc_demangle::try_demangle(name) {
        Ok(known) => format!("{known:#}"),
        Err(_) => name.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_told_by_the_best_that_is_known() {
        let frame =
            Frame { address: 0x7f10, function: Some(("read".into(), 4)), object: Some("libc.so.6".into()) };
        let nameless = Frame { function: None, ..frame.clone() };
        let names = [frame.name(), nameless.name(), Frame::bare(0x7f10).name()];
        assert_eq!(names, ["read", "[libc.so.6]", "0x7f10"]);
    }

    #[test]
    fn the_function_of_a_call_is_looked_for_before_its_return() {
        assert_eq!(called(&[10, 20, 0]).collect::<Vec<_>>(), [(10, 10), (20, 19), (0, 0)]);
    }

    #[test]
    fn rust_s_names_are_told_without_their_digest() {
        assert_eq!(demangled("_ZN4core3fmt5write17h0123456789abcdefE"), "core::fmt::write");
        assert_eq!(
            (demangled("_ZNSt6vectorIiE4dataEv"), demangled("read")),
            ("_ZNSt6vectorIiE4dataEv".into(), "read".into())
        );
    }

    #[test]
    fn this_very_process_is_known_and_one_that_is_gone_is_not() {
        let own = the_addresses_here as fn() as usize as u64;
        let mut symbols = Symbols::new();
        let frames = symbols.user(std::process::id(), &[own, own + 1]);
        assert!(frames.iter().all(|frame| frame.name().ends_with("::the_addresses_here")), "{frames:?}");
        assert_eq!(frames[0].function.as_ref().map(|(_, offset)| *offset), Some(0));
        assert_eq!(symbols.user(0x7fff_fff0, &[own]), [Frame::bare(own)]);
    }

    #[inline(never)]
    fn the_addresses_here() {
        std::hint::black_box(());
    }
}
