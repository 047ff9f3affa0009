//! What a process has mapped, out of /proc/PID/maps (proc_pid_maps(5)).

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::rc::Rc;

use kld_core::fsio;

use super::elf::Elf;
use super::{Frame, demangled};

/// A file, by the numbers of its device and its inode.
pub(super) type File = (String, u64);

/// A process's mapped code.
#[derive(Debug)]
pub(super) struct Process {
    pid: u32,
    mappings: Vec<Mapping>,
}

/// A part of a file that is mapped to be run.
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    addresses: Range<u64>,
    /// Where in the file it begins.
    offset: u64,
    file: File,
    /// The file's path as the process sees it, or what the kernel writes for what is no file.
    path: String,
}

/// More than any process has.
const MOST: u64 = 64 << 20;

impl Process {
    /// What a process has mapped now; `None` where it is gone, or nobody's to look at.
    pub(super) fn look(pid: u32) -> Option<Process> {
        let path = format!("/proc/{pid}/maps");
        let bytes = fsio::read_bytes(Path::new(&path), MOST).ok()??;
        let mappings = parse(&String::from_utf8_lossy(&bytes));
        (!mappings.is_empty()).then_some(Process { pid, mappings })
    }

    /// The frame of a call, by an address inside it. A file is read once for all processes that have mapped it.
    pub(super) fn frame(
        &self,
        files: &mut HashMap<File, Option<Rc<Elf>>>,
        address: u64,
        inside: u64,
    ) -> Frame {
        let Some(mapping) = self.mappings.iter().find(|mapping| mapping.addresses.contains(&inside)) else {
            return Frame::bare(address);
        };
        let object = mapping.object();
        let elf = match mapping.path.starts_with('/') {
            true => files.entry(mapping.file.clone()).or_insert_with(|| self.open(mapping)).clone(),
            false => None,
        };
        let at = inside - mapping.addresses.start + mapping.offset;
        let function = elf.and_then(|elf| {
            let (name, offset) = elf.function(at)?;
            Some((demangled(name), offset + (address - inside)))
        });
        Frame { address, function, object }
    }

    /// The file as the process has mapped it, also one that was deleted or lies in another mount namespace. Where that
    /// is not allowed, the one that has its path now.
    fn open(&self, mapping: &Mapping) -> Option<Rc<Elf>> {
        let (pid, range) = (self.pid, &mapping.addresses);
        let mapped = format!("/proc/{pid}/map_files/{:x}-{:x}", range.start, range.end);
        let by_path = format!("/proc/{pid}/root{}", mapping.path);
        // What a process puts at a path may be a pipe: nobody waits for its other end.
        let open =
            |path: &String| OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok();
        let file = open(&mapped).or_else(|| open(&by_path))?;
        let regular = file.metadata().is_ok_and(|meta| meta.is_file());
        regular.then(|| Elf::read(file)).flatten().map(Rc::new)
    }
}

impl Mapping {
    /// The file's name, without what the kernel adds where it was deleted; `None` where it is no file's.
    fn object(&self) -> Option<String> {
        let path = self.path.strip_suffix(" (deleted)").unwrap_or(&self.path);
        let name = path.rsplit('/').next().unwrap_or_default();
        let name = name.trim_start_matches('[').trim_end_matches(']');
        (!name.is_empty()).then(|| name.to_string())
    }
}

/// `start-end permissions offset device inode path`, of which only what may be run is kept.
fn parse(text: &str) -> Vec<Mapping> {
    let mapping = |line: &str| {
        let mut rest = line;
        let mut word = || {
            let (word, behind) = rest.split_once(' ').unwrap_or((rest, ""));
            rest = behind.trim_start_matches(' ');
            word
        };
        let (start, end) = word().split_once('-')?;
        let permissions = word();
        let number = |text: &str| u64::from_str_radix(text, 16).ok();
        let offset = number(word())?;
        let file = (word().to_string(), word().parse().ok()?);
        let addresses = number(start)?..number(end)?;
        let path = rest.to_string();
        permissions.contains('x').then_some(Mapping { addresses, offset, file, path })
    };
    text.lines().filter_map(mapping).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_may_be_run_is_kept_with_its_file() {
        let text = "55d0-55e0 r--p 00000000 fe:00 77   /usr/bin/a b\n\
                    55e0-55f0 r-xp 00001000 fe:00 77   /usr/bin/a b\n\
                    7f00-7f10 rwxp 00000000 00:00 0 \n\
                    7f20-7f30 r-xp 00000000 fe:00 78   /tmp/x.so (deleted)\n\
                    7ffd-7ffe r-xp 00000000 00:00 0    [vdso]\n";
        let found = parse(text);
        let first = Mapping {
            addresses: 0x55e0..0x55f0,
            offset: 0x1000,
            file: ("fe:00".into(), 77),
            path: "/usr/bin/a b".into(),
        };
        assert_eq!(found[0], first);
        let objects: Vec<_> = found.iter().map(Mapping::object).collect();
        let names = [Some("a b"), None, Some("x.so"), Some("vdso")];
        assert_eq!(objects, names.map(|name| name.map(str::to_string)));
    }

    #[test]
    fn a_process_that_has_ended_has_nothing_mapped() {
        assert!(Process::look(0x7fff_fff0).is_none());
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "([0-9a-f]{0,17}-?[0-9a-f]{0,17} ?[rwxp-]{0,5} ?[0-9:]{0,9} ?[ -~]{0,9}\n?){0,8}") {
            parse(&text);
        }
    }
}
