//! Where functions are in the files of programs and libraries (ELF).

use std::fs::File;
use std::io;
use std::path::Path;

use object::read::elf::ElfFile64;
use object::{Endianness, Object, ObjectSegment, ObjectSymbol, ReadCache, SymbolKind};

/// Where a function's code begins in a file; `None` where the file has no such function, or does not say so. Where there is
/// no such file, or it is no ELF file, the data are invalid.
pub fn function(path: &Path, name: &str) -> io::Result<Option<u64>> {
    // Only what is looked at is read: libraries are large.
    let no = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let opened = File::open(path).map_err(|cause| match cause.kind() {
        io::ErrorKind::NotFound => no(format!("there is no file {}", path.display())),
        _ => cause,
    });
    let file = ReadCache::new(opened?);
    let elf = ElfFile64::<Endianness, _>::parse(&file)
        .map_err(|_| no(format!("{} is no program and no library", path.display())))?;
    let mut all = elf.dynamic_symbols().chain(elf.symbols());
    let found = all.find(|symbol| {
        symbol.kind() == SymbolKind::Text && symbol.is_definition() && symbol.name() == Ok(name)
    });
    let Some(address) = found.map(|symbol| symbol.address()) else { return Ok(None) };
    let place = elf.segments().find_map(|segment| {
        let further = address.checked_sub(segment.address()).filter(|further| *further < segment.size())?;
        Some(segment.file_range().0 + further)
    });
    Ok(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the kernel has mapped this program's code, by its own function's address.
    #[test]
    fn a_function_is_where_the_program_s_memory_has_it() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let address = libc::getaddrinfo as *const () as u64;
        let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
        let (line, start) = maps
            .lines()
            .find_map(|line| {
                let (start, end) = line.split(' ').next()?.split_once('-')?;
                (number(start)..number(end)).contains(&address).then_some((line, number(start)))
            })
            .unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        let wanted = address - start + number(words[2]);
        assert_eq!(function(Path::new(words[5]), "getaddrinfo").unwrap(), Some(wanted));
        assert_eq!(function(Path::new(words[5]), "no_such_function").unwrap(), None);
        assert_eq!(
            function(Path::new("/proc/self/maps"), "a").unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }
}
