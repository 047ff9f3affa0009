//! Where the running kernel keeps the fields of its structures, and which tracepoints it has, out of its own
//! description (BTF, Documentation/bpf/btf.rst).
//!
//! Only what is asked for is looked up: one pass over the types, where a full parse takes ten times as long and
//! four times the memory.

mod modules;

use std::ops::Range;
use std::path::Path;

use kld_core::error::Trying;
use kld_core::{Error, Result};

/// Where the kernel describes its types.
pub const KERNEL: &str = "/sys/kernel/btf/vmlinux";

/// The kinds of type that matter here.
const PTR: u32 = 2;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const TYPEDEF: u32 = 8;
const FUNC_PROTO: u32 = 13;

/// Structures within structures go no deeper than this.
const DEEPEST: usize = 16;

/// A kernel's description of its types.
#[derive(Debug, Clone)]
pub struct Btf {
    bytes: Vec<u8>,
    /// Where the types are.
    described: Range<usize>,
    strings: Range<usize>,
    /// Where each type begins; type 0 is void.
    types: Vec<u32>,
    /// Where each structure begins, each typedef and each enumeration: only these are looked for by name.
    structs: Vec<u32>,
    typedefs: Vec<u32>,
    enums: Vec<u32>,
    /// The same with what a module adds, for each of several.
    modules: Vec<Btf>,
}

/// A type: where it begins, and the two words that every type has.
#[derive(Debug, Clone, Copy)]
struct Type {
    at: usize,
    name: u32,
    info: u32,
    /// The size, or the type that it refers to.
    other: u32,
}

impl Type {
    fn kind(self) -> u32 {
        self.info >> 24 & 0x1f
    }

    fn members(self) -> usize {
        (self.info & 0xffff) as usize
    }

    /// How many bytes follow the three words.
    fn extra(self) -> Option<usize> {
        Some(match self.kind() {
            1 | 14 | 17 => 4,
            3 => 12,
            STRUCT | UNION | 15 | 19 => self.members() * 12,
            ENUM | FUNC_PROTO => self.members() * 8,
            PTR | 7 | TYPEDEF | 9 | 10 | 11 | 12 | 16 | 18 => 0,
            _ => return None,
        })
    }
}

impl Btf {
    /// The running kernel's.
    pub fn of_kernel() -> Result<Btf> {
        Self::read(Path::new(KERNEL))
    }

    /// That in a file.
    pub fn read(path: &Path) -> Result<Btf> {
        if !path.exists() {
            return Err(Error::failed("cannot look into the kernel", "it does not describe its types")
                .with_hint(format!(
                    "there is no {}: boot a kernel that is built with CONFIG_DEBUG_INFO_BTF",
                    path.display()
                )));
        }
        let bytes = std::fs::read(path).trying(|| format!("cannot read {}", path.display()))?;
        Self::parse(bytes).ok_or_else(|| {
            Error::failed(format!("cannot read {}", path.display()), "it is no description of types (BTF)")
        })
    }

    /// `None` where the bytes are no BTF of this machine's byte order.
    pub fn parse(bytes: Vec<u8>) -> Option<Btf> {
        if bytes.get(..2)? != 0xeb9f_u16.to_ne_bytes() {
            return None;
        }
        let header = |at| word(&bytes, at).map(|value| value as usize);
        let begin = header(4)?;
        let section = |at: usize| -> Option<Range<usize>> {
            let start = begin.checked_add(header(at)?)?;
            Some(start..start.checked_add(header(at + 4)?)?)
        };
        let (types, strings) = (section(8)?, section(16)?);
        if types.end > bytes.len() || strings.end > bytes.len() {
            return None;
        }
        let (structs, typedefs, enums) = (Vec::new(), Vec::new(), Vec::new());
        let count = types.len() / 24;
        let (described, modules) = (types.clone(), Vec::new());
        let types_at = Vec::with_capacity(count);
        let mut btf = Btf { bytes, described, strings, types: types_at, structs, typedefs, enums, modules };
        btf.types.push(0);
        let mut at = types.start;
        while at < types.end {
            let place = u32::try_from(at).ok()?;
            let one = btf.type_at(at)?;
            btf.types.push(place);
            match one.kind() {
                STRUCT => btf.structs.push(place),
                TYPEDEF => btf.typedefs.push(place),
                ENUM => btf.enums.push(place),
                _ => {}
            }
            at += 12 + one.extra()?;
        }
        Some(btf)
    }

    fn type_at(&self, at: usize) -> Option<Type> {
        let name = word(&self.bytes, at)?;
        Some(Type { at, name, info: word(&self.bytes, at + 4)?, other: word(&self.bytes, at + 8)? })
    }

    fn type_of(&self, id: u32) -> Option<Type> {
        (id != 0).then_some(())?;
        self.type_at(*self.types.get(id as usize)? as usize)
    }

    /// Whether the string at this offset is the name.
    fn is_named(&self, offset: u32, name: &str) -> bool {
        let start = self.strings.start + offset as usize;
        let Some(end) = start.checked_add(name.len()).filter(|end| *end < self.strings.end) else {
            return false;
        };
        self.bytes[end] == 0 && self.bytes[start..end] == *name.as_bytes()
    }

    fn find(&self, among: &[u32], name: &str) -> Option<Type> {
        let mut all = among.iter().filter_map(|at| self.type_at(*at as usize));
        all.find(|one| self.is_named(one.name, name))
    }

    /// The offset in bytes of a field, such as `sock.__sk_common.skc_dport`: a structure's name, then fields, each
    /// within the one before. Unnamed structures and unions in between need not be written. A sum, as in
    /// `pt_regs.regs+8`, is a place within the last field.
    pub fn offset(&self, path: &str) -> Option<u32> {
        let (path, further) = path.split_once('+').unwrap_or((path, "0"));
        let modules = || self.modules.iter().find_map(|module| module.bits(path));
        u32::checked_add(self.bits(path).or_else(modules)? / 8, further.parse().ok()?)
    }

    /// The place of a bit, counted in bits: a bit field's path, such as `inet_sock.freebind`, or a number's and the
    /// name that stands for the bit, as in `inet_sock.inet_flags@INET_FLAGS_FREEBIND`.
    pub fn bit(&self, path: &str) -> Option<u32> {
        let Some((path, name)) = path.split_once('@') else { return self.bits(path) };
        u32::checked_add(self.bits(path)?, u32::try_from(self.enumerator(name)?).ok()?)
    }

    /// The offset of a field in bits.
    fn bits(&self, path: &str) -> Option<u32> {
        let mut names = path.split('.');
        let mut inside = self.find(&self.structs, names.next()?)?;
        let mut offset = 0_u32;
        for name in names {
            let (bits, id) = self.member(inside, name, DEEPEST)?;
            offset = u32::checked_add(offset, bits)?;
            // The last field's type is nobody's matter: it may be a number.
            inside = self.without_names(id).unwrap_or(inside);
        }
        Some(offset)
    }

    /// The value that a name stands for, in any enumeration.
    fn enumerator(&self, name: &str) -> Option<i32> {
        let all = self.enums.iter().filter_map(|at| self.type_at(*at as usize));
        all.flat_map(|one| self.values(one))
            .find_map(|(own, value)| self.is_named(own, name).then_some(value))
    }

    /// An enumeration's names and their values; `None` where the kernel has no such enumeration.
    pub fn enumeration(&self, name: &str) -> Option<Vec<(String, i32)>> {
        let found = self.find(&self.enums, name)?;
        self.values(found).map(|(own, value)| Some((self.text(own)?, value))).collect()
    }

    /// Where an enumeration's names are, and their values.
    fn values(&self, of: Type) -> impl Iterator<Item = (u32, i32)> {
        let at = move |index| of.at + 12 + index * 8;
        let pair = move |index| Some((word(&self.bytes, at(index))?, word(&self.bytes, at(index) + 4)?));
        (0..of.members()).filter_map(pair).map(|(name, value)| (name, value.cast_signed()))
    }

    /// The string at this offset.
    fn text(&self, offset: u32) -> Option<String> {
        let rest = self.bytes.get(self.strings.start + offset as usize..self.strings.end)?;
        let end = rest.iter().position(|byte| *byte == 0)?;
        Some(String::from_utf8_lossy(&rest[..end]).into_owned())
    }

    /// A member's offset in bits, and its type.
    fn member(&self, inside: Type, name: &str, depth: usize) -> Option<(u32, u32)> {
        let composed = matches!(inside.kind(), STRUCT | UNION);
        let depth = depth.checked_sub(1).filter(|_| composed)?;
        (0..inside.members()).find_map(|index| {
            let at = inside.at + 12 + index * 12;
            let (own, id, offset) =
                (word(&self.bytes, at)?, word(&self.bytes, at + 4)?, word(&self.bytes, at + 8)?);
            // With the kind flag the upper byte is the width of a bit field.
            let bits = if inside.info >> 31 == 1 { offset & 0x00ff_ffff } else { offset };
            if self.is_named(own, name) {
                return Some((bits, id));
            }
            let unnamed = self.is_named(own, "").then(|| self.type_of(id))??;
            self.member(unnamed, name, depth).map(|(further, id)| (bits.wrapping_add(further), id))
        })
    }

    /// The type behind typedefs and qualifiers.
    fn without_names(&self, id: u32) -> Option<Type> {
        let mut found = self.type_of(id)?;
        for _ in 0..DEEPEST {
            match found.kind() {
                TYPEDEF | 9..=11 | 18 => found = self.type_of(found.other)?,
                _ => return Some(found),
            }
        }
        None
    }

    /// How many arguments a tracepoint hands to a program; `None` where the kernel has no such tracepoint.
    pub fn tracepoint(&self, name: &str) -> Option<usize> {
        let modules = || self.modules.iter().find_map(|module| module.tracepoint(name));
        self.own_tracepoint(name).or_else(modules)
    }

    fn own_tracepoint(&self, name: &str) -> Option<usize> {
        let prototype = self.find(&self.typedefs, &format!("btf_trace_{name}"))?;
        let pointer = self.type_of(prototype.other).filter(|one| one.kind() == PTR)?;
        let function = self.type_of(pointer.other).filter(|one| one.kind() == FUNC_PROTO)?;
        // The first argument is the tracepoint's own.
        function.members().checked_sub(1)
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes([four[0], four[1], four[2], four[3]]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What stands in this BTF: `struct point { int x; union { int y; int z; }; }`, the prototype of a tracepoint
    /// `moved` with one argument, `enum way { UP, DOWN = 5 }` and `struct flags { int a:3; int b:1; }`.
    pub(super) fn example() -> Vec<u8> {
        let strings = b"\0int\0point\0x\0y\0z\0btf_trace_moved\0way\0UP\0DOWN\0flags\0a\0b\0";
        let name = |wanted: &str| {
            strings
                .split(|byte| *byte == 0)
                .scan(0_u32, |at, text| {
                    let start = *at;
                    *at += text.len() as u32 + 1;
                    Some((start, text))
                })
                .find(|(_, text)| *text == wanted.as_bytes())
                .unwrap()
                .0
        };
        let types = [
            vec![name("int"), 1 << 24, 4, 32],
            vec![0, UNION << 24 | 2, 4, name("y"), 1, 0, name("z"), 1, 0],
            vec![name("point"), STRUCT << 24 | 2, 8, name("x"), 1, 0, 0, 2, 32],
            vec![0, FUNC_PROTO << 24 | 2, 0, 0, 0, 0, 1],
            vec![0, PTR << 24, 4],
            vec![name("btf_trace_moved"), TYPEDEF << 24, 5],
            vec![name("way"), ENUM << 24 | 2, 4, name("UP"), 0, name("DOWN"), 5],
            vec![
                name("flags"),
                1 << 31 | STRUCT << 24 | 2,
                4,
                name("a"),
                1,
                3 << 24,
                name("b"),
                1,
                1 << 24 | 3,
            ],
        ]
        .concat();
        let length = types.len() as u32 * 4;
        let mut bytes = [0xeb9f_u16.to_ne_bytes(), [1, 0]].concat();
        for word in [24, 0, length, length, strings.len() as u32].into_iter().chain(types) {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn fields_are_found_through_unnamed_unions() {
        let btf = Btf::parse(example()).unwrap();
        let found =
            ["point.x", "point.y", "point.z", "point.z+2", "point.w", "line.x"].map(|path| btf.offset(path));
        assert_eq!(found, [Some(0), Some(4), Some(4), Some(6), None, None]);
    }

    #[test]
    fn tracepoints_are_found_with_their_arguments() {
        let btf = Btf::parse(example()).unwrap();
        assert_eq!((btf.tracepoint("moved"), btf.tracepoint("gone")), (Some(1), None));
    }

    #[test]
    fn bits_are_found_by_field_and_by_name() {
        let btf = Btf::parse(example()).unwrap();
        let found =
            ["flags.a", "flags.b", "point.z@DOWN", "point.z@LEFT", "flags.c"].map(|path| btf.bit(path));
        assert_eq!(found, [Some(0), Some(3), Some(37), None, None]);
    }

    #[test]
    fn an_enumeration_has_its_names() {
        let btf = Btf::parse(example()).unwrap();
        assert_eq!(btf.enumeration("way"), Some(vec![("UP".into(), 0), ("DOWN".into(), 5)]));
        assert_eq!(btf.enumeration("gone"), None);
    }

    #[test]
    fn a_kernel_that_does_not_describe_itself_is_told_of() {
        let error = Btf::read(Path::new("/nonexistent/vmlinux")).unwrap_err();
        assert_eq!(error.to_string(), "cannot look into the kernel: it does not describe its types");
        assert!(error.hint().unwrap().contains("CONFIG_DEBUG_INFO_BTF"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(at in 0..300_usize, byte: u8, cut in 0..400_usize) {
            let mut bytes = example();
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            bytes.truncate(cut);
            if let Some(btf) = Btf::parse(bytes) {
                btf.offset("point.z");
                btf.tracepoint("moved");
                btf.bit("point.z@DOWN");
                btf.enumeration("way");
            }
        }
    }
}
