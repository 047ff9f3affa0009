//! The functions that a program's or a library's file names, in its table of symbols or, where that was stripped, in
//! that for its loader.

use std::fs::File;
use std::ops::Range;

use object::read::{File as Object, ReadCache, ReadRef};
use object::{Object as _, ObjectSegment, ObjectSymbol, SymbolKind};

/// The functions of a file.
#[derive(Debug)]
pub(super) struct Elf {
    /// Which part of the file is loaded at which address.
    segments: Vec<(Range<u64>, u64)>,
    functions: Vec<Function>,
    /// All names, one behind the other.
    names: String,
}

/// A function, and its name's place among the names.
#[derive(Debug, Clone)]
struct Function {
    address: u64,
    size: u64,
    name: Range<usize>,
}

impl Elf {
    /// Those of a file; only the parts that matter are read. `None` where it is no ELF file, or a damaged one.
    pub(super) fn read(file: File) -> Option<Elf> {
        Elf::parse(&ReadCache::new(file))
    }

    fn parse<'a>(data: impl ReadRef<'a>) -> Option<Elf> {
        let object = Object::parse(data).ok()?;
        let segment = |one: object::Segment<'a, '_, _>| {
            let (begin, length) = one.file_range();
            Some((begin..begin.checked_add(length)?, one.address()))
        };
        let segments = object.segments().filter_map(segment).collect();
        let mut elf = Elf { segments, functions: Vec::new(), names: String::new() };
        for symbol in object.symbols().chain(object.dynamic_symbols()) {
            if symbol.is_definition()
                && symbol.kind() == SymbolKind::Text
                && let Ok(name) = symbol.name()
            {
                let begin = elf.names.len();
                elf.names.push_str(name);
                let name = begin..elf.names.len();
                elf.functions.push(Function { address: symbol.address(), size: symbol.size(), name });
            }
        }
        // Of several names of one place the first, which the table of symbols has; of several sizes the greatest.
        elf.functions.sort_by_key(|function| (function.address, std::cmp::Reverse(function.size)));
        elf.functions.dedup_by_key(|function| function.address);
        Some(elf)
    }

    /// The function at a place in the file, and how far in it that is.
    pub(super) fn function(&self, at: u64) -> Option<(&str, u64)> {
        let (segment, base) = self.segments.iter().find(|(segment, _)| segment.contains(&at))?;
        let address = (at - segment.start).checked_add(*base)?;
        let behind = self.functions.partition_point(|function| function.address <= address);
        let found = &self.functions[behind.checked_sub(1)?];
        let offset = address - found.address;
        // One without a size, as assemblers write it, reaches to the next one.
        (found.size == 0 || offset < found.size).then(|| (&self.names[found.name.clone()], offset))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn known() -> Elf {
        let function = |address, size, name| Function { address, size, name };
        let functions = vec![function(0x1000, 0x10, 0..4), function(0x1020, 0, 4..9)];
        Elf { segments: vec![(0x800..0x900, 0x1000)], functions, names: "readwrite".into() }
    }

    #[test]
    fn a_function_is_found_by_its_place_in_the_file() {
        let elf = known();
        assert_eq!((elf.function(0x800), elf.function(0x80f)), (Some(("read", 0)), Some(("read", 15))));
        assert_eq!(elf.function(0x8ff), Some(("write", 0xdf)), "it has no size");
        let between_and_outside = [0x810, 0x7ff, 0x900, u64::MAX];
        assert_eq!(between_and_outside.map(|at| elf.function(at)), [None; 4]);
    }

    #[test]
    fn what_is_no_elf_file_has_no_functions() {
        assert!(Elf::parse(&b"#!/bin/sh\n"[..]).is_none());
    }

    proptest! {
        #[test]
        fn a_damaged_file_does_no_harm(at in 0_usize..4096, byte: u8, place: u64) {
            let mut bytes = include_bytes!("../../objects/opensnoop.o").to_vec();
            let last = bytes.len() - 1;
            bytes[at.min(last)] = byte;
            if let Some(elf) = Elf::parse(&*bytes) {
                elf.function(place);
            }
        }
    }
}
