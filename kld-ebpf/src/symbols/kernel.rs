//! The kernel's functions, out of /proc/kallsyms.

use std::path::Path;

use kld_core::fsio;

use super::Frame;

/// The kernel's functions by their addresses.
#[derive(Debug, Default)]
pub(super) struct Kernel {
    text: String,
    functions: Vec<Function>,
}

/// A function: where it begins, and its name and module in the text.
#[derive(Debug, Clone, Copy)]
struct Function {
    address: u64,
    name: (u32, u32),
    module: (u32, u32),
}

/// More than any kernel has.
const MOST: u64 = 256 << 20;
/// No function is longer. Beyond lies what has no names, as other programs' that are compiled while the kernel runs.
const LONGEST: u64 = 1 << 16;

impl Kernel {
    /// The running kernel's; none where it hides them.
    pub(super) fn read() -> Kernel {
        let text = fsio::read_text(Path::new("/proc/kallsyms"), MOST).ok().flatten();
        Kernel::parse(text.unwrap_or_default())
    }

    /// `address type name`, and behind a tab the module in brackets. All addresses are 0 where they are hidden.
    fn parse(text: String) -> Kernel {
        let place = |part: &str| {
            let begin = part.as_ptr() as usize - text.as_ptr() as usize;
            (begin as u32, (begin + part.len()) as u32)
        };
        let function = |line: &str| {
            let (address, rest) = line.split_once(' ')?;
            let (kind, rest) = rest.split_once(' ')?;
            let (name, module) = rest.split_once('\t').unwrap_or((rest, &rest[rest.len()..]));
            let module = module.trim_start_matches('[').trim_end_matches(']');
            let address = u64::from_str_radix(address, 16).ok().filter(|address| *address != 0)?;
            let is_code = matches!(kind, "t" | "T" | "w" | "W");
            is_code.then(|| Function { address, name: place(name), module: place(module) })
        };
        let mut functions: Vec<Function> = text.lines().filter_map(function).collect();
        // Of several names of one place the first, which is the oldest.
        functions.sort_by_key(|function| function.address);
        functions.dedup_by_key(|function| function.address);
        Kernel { text, functions }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }

    /// The frame of a call, by an address inside it.
    pub(super) fn frame(&self, address: u64, inside: u64) -> Frame {
        let behind = self.functions.partition_point(|function| function.address <= inside);
        let found = behind.checked_sub(1).map(|at| self.functions[at]);
        let Some(found) = found.filter(|function| inside - function.address < LONGEST) else {
            return Frame::bare(address);
        };
        let part = |(begin, end): (u32, u32)| self.text[begin as usize..end as usize].to_string();
        let function = Some((part(found.name), address - found.address));
        Frame { address, function, object: Some(part(found.module)).filter(|module| !module.is_empty()) }
    }
}

/// What the innermost calls of a stack are that a program on a tracepoint has taken: the program, and those that called
/// it. None of them is far in.
const TRACING: [&str; 5] = ["bpf_trace_run", "__bpf_trace_", "__traceiter_", "bpf_prog_", "bpf_get_stack"];
const DEEPEST: usize = 8;

/// A stack without the calls of the tracing itself.
pub(super) fn without_tracing(mut frames: Vec<Frame>) -> Vec<Frame> {
    let of_tracing = |frame: &Frame| {
        let name = frame.function.as_ref().map_or("", |(name, _)| name);
        TRACING.iter().any(|beginning| name.starts_with(beginning))
    };
    let last = frames.iter().take(DEEPEST).rposition(of_tracing);
    frames.drain(..last.map_or(0, |last| last + 1));
    frames
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "ffffffff81000000 T _stext\nffffffff81000000 T _text\nffffffff81000100 t schedule\n\
                        ffffffff82000000 D jiffies\nffffffffc0000000 t zfs_read\t[zfs]\n";

    fn name(kernel: &Kernel, address: u64) -> String {
        kernel.frame(address, address).name()
    }

    #[test]
    fn a_function_reaches_to_the_next_one() {
        let kernel = Kernel::parse(TEXT.to_string());
        let found = kernel.frame(0xffff_ffff_8100_0123, 0xffff_ffff_8100_0122);
        assert_eq!((found.function, found.object), (Some(("schedule".into(), 0x23)), None));
        assert_eq!(name(&kernel, 0xffff_ffff_8100_00ff), "_stext");
        assert_eq!(kernel.frame(0xffff_ffff_c000_0000, 0xffff_ffff_c000_0000).object.as_deref(), Some("zfs"));
    }

    #[test]
    fn what_is_no_function_s_has_no_name() {
        let kernel = Kernel::parse(TEXT.to_string());
        for address in [0x1000, 0xffff_ffff_8200_0000, 0xffff_ffff_c100_0000] {
            assert_eq!(name(&kernel, address), format!("{address:#x}"));
        }
    }

    #[test]
    fn hidden_addresses_are_none() {
        assert!(Kernel::parse("0000000000000000 T _stext\n0000000000000000 t schedule\n".into()).is_empty());
    }

    #[test]
    fn the_calls_of_the_tracing_are_left_out() {
        let frame = |name: &str| Frame { address: 1, function: Some((name.into(), 0)), object: None };
        let stack = ["bpf_prog_0123_switched", "bpf_trace_run4", "__traceiter_sched_switch", "__schedule"];
        assert_eq!(without_tracing(stack.map(frame).to_vec()), [frame("__schedule")]);
        let other: Vec<Frame> = vec![Frame::bare(1), frame("__bpf_trace_sched_switch"), frame("schedule")];
        assert_eq!(without_tracing(other), [frame("schedule")], "a program without a name");
        assert_eq!(without_tracing(vec![frame("schedule")]), [frame("schedule")]);
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "([0-9a-f]{0,17} ?[tTD]? ?[a-z\u{e4}]{0,4}\t?\\[?[a-z]{0,3}\\]?\n?){0,8}", address: u64) {
            Kernel::parse(text).frame(address, address);
        }
    }
}
