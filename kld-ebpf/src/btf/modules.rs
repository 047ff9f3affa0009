//! What the kernel's modules add to its description of its types (split BTF).

use std::path::Path;

use super::{Btf, word};

/// Where modules describe their types, each in a file of its name.
const MODULES: &str = "/sys/kernel/btf";

/// How long the header is.
const HEADER: u32 = 24;

impl Btf {
    /// The same with what those of these modules add that are loaded.
    pub fn with_modules(&self, names: &[&str]) -> Btf {
        let described = |name: &&str| std::fs::read(Path::new(MODULES).join(name)).ok();
        let modules = names.iter().filter_map(described).filter_map(|module| self.joined(&module)).collect();
        Btf { modules, ..self.clone() }
    }

    /// This description with a module's, which goes on where this one ends: its types with the next number, its strings
    /// with the next offset.
    fn joined(&self, module: &[u8]) -> Option<Btf> {
        let header = |at| word(module, at).map(|value| value as usize);
        let begin = header(4)?;
        let section = |at: usize| -> Option<&[u8]> {
            let start = begin.checked_add(header(at)?)?;
            module.get(start..start.checked_add(header(at + 4)?)?)
        };
        let types = [self.bytes.get(self.described.clone())?, section(8)?].concat();
        let strings = [self.bytes.get(self.strings.clone())?, section(16)?].concat();
        let lengths = [types.len(), strings.len()].map(|length| u32::try_from(length).unwrap_or(u32::MAX));
        let mut bytes = [0xeb9f_u16.to_ne_bytes(), [1, 0]].concat();
        for number in [HEADER, 0, lengths[0], lengths[0], lengths[1]] {
            bytes.extend(number.to_ne_bytes());
        }
        bytes.extend(types);
        bytes.extend(strings);
        Btf::parse(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::STRUCT;
    use super::super::tests::example;
    use super::*;

    #[test]
    fn a_module_s_types_follow_the_kernel_s() {
        let kernel = Btf::parse(example()).unwrap();
        // `struct line { struct point from; int z; }`, whose names are the kernel's but its own.
        let (own, types) = (kernel.strings.len() as u32, kernel.types.len() as u32);
        let name = |wanted: &str| (0..own).find(|at| kernel.is_named(*at, wanted)).unwrap();
        let line = [own + 1, STRUCT << 24 | 2, 12, own + 6, 3, 0, name("z"), types - 1, 64];
        let strings = b"\0line\0from\0";
        let mut module = [0xeb9f_u16.to_ne_bytes(), [1, 0]].concat();
        for word in [HEADER, 0, 36, 36, strings.len() as u32].into_iter().chain(line) {
            module.extend(word.to_ne_bytes());
        }
        module.extend(strings);
        let both = Btf { modules: vec![kernel.joined(&module).unwrap()], ..kernel.clone() };
        let found = ["line.z", "line.from.y", "point.y"].map(|path| (kernel.offset(path), both.offset(path)));
        assert_eq!(found, [(None, Some(8)), (None, Some(4)), (Some(4), Some(4))]);
        assert!(kernel.joined(&module[..20]).is_none());
    }
}
