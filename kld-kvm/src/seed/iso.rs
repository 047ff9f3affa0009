//! A small ISO 9660 image: a few files in the root folder, nothing else.
//!
//! The crate hadris-iso 2.5 was tried first: it draws in some 40 crates, takes 15 s to build here, and stamps the
//! present time into every record, so that equal seeds would not be equal files. What a seed needs is this file.
//!
//! The names appear thrice, as in the images that cloud-init's manual makes with `genisoimage -joliet -rock`: in
//! upper case for ECMA-119, exactly by Rock Ridge (what Linux uses), and exactly by Joliet (what Windows uses).
//! Sources: ECMA-119 (4th edition), IEEE P1281 (SUSP) and P1282 (Rock Ridge), the Joliet specification.

const SECTOR: usize = 2048;

/// 1980-01-01 00:00 UTC: a time that every reader takes, and always the same.
const DATE: [u8; 7] = [80, 1, 1, 0, 0, 0, 0];
const LONG_DATE: &[u8; 17] = b"1980010100000000\0";
const NO_DATE: &[u8; 17] = b"0000000000000000\0";

const DIRECTORY: u8 = 2;

// Where things are, in sectors. The first 16 belong to the system.
const PRIMARY: u32 = 16;
const TABLES: u32 = 19;
const ROOT: u32 = 23;
const JOLIET_ROOT: u32 = 24;
const FILES: u32 = 25;

/// An image of `files`, which are at most a dozen with short names of lower-case letters and `-`.
pub(super) fn image(label: &str, files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut files: Vec<_> = files.iter().map(|(name, content)| (*name, content.as_slice())).collect();
    files.sort();
    let mut at = FILES;
    let extents: Vec<(&str, u32, u32)> = files
        .iter()
        .map(|(name, content)| {
            let start = at;
            at += sectors(content.len()).max(1);
            (*name, start, content.len() as u32)
        })
        .collect();

    let mut image = vec![0; PRIMARY as usize * SECTOR];
    for joliet in [false, true] {
        push_sector(&mut image, &volume_descriptor(label, at, joliet));
    }
    push_sector(&mut image, b"\xffCD001\x01");
    for root in [ROOT, JOLIET_ROOT] {
        push_sector(&mut image, &path_table(root.to_le_bytes(), 1u16.to_le_bytes()));
        push_sector(&mut image, &path_table(root.to_be_bytes(), 1u16.to_be_bytes()));
    }
    push_sector(&mut image, &directory(&extents, false));
    push_sector(&mut image, &directory(&extents, true));
    for (_, content) in files {
        push_sector(&mut image, content);
    }
    image
}

fn sectors(length: usize) -> u32 {
    length.div_ceil(SECTOR) as u32
}

/// Appends bytes and fills their last sector with zeros; an empty file has a sector too, as it has an address.
fn push_sector(image: &mut Vec<u8>, bytes: &[u8]) {
    image.extend_from_slice(bytes);
    image.resize((image.len().max(1) + usize::from(bytes.is_empty())).next_multiple_of(SECTOR), 0);
}

/// ECMA-119, 8.4 and 8.5; Joliet differs by its escape sequence (UCS-2, level 3) and its letters.
fn volume_descriptor(label: &str, size: u32, joliet: bool) -> Vec<u8> {
    let text = |text: &str, length| padded(text, length, joliet);
    let (kind, escape, tables, root) =
        if joliet { (2, "%/E", TABLES + 2, JOLIET_ROOT) } else { (1, "", TABLES, ROOT) };
    let mut escapes = [0; 32];
    escapes[..escape.len()].copy_from_slice(escape.as_bytes());
    [
        &[kind][..],
        b"CD001\x01\0",
        &text("", 32), // system
        &text(label, 32),
        &[0; 8],
        &both32(size),
        &escapes,
        &both16(1), // volumes in the set
        &both16(1), // number of this one
        &both16(SECTOR as u16),
        &both32(path_table([0; 4], [0; 2]).len() as u32),
        &tables.to_le_bytes(),
        &[0; 4],
        &(tables + 1).to_be_bytes(),
        &[0; 4],
        &record(b"\0", root, SECTOR as u32, DIRECTORY, &[]),
        &text("", 128),    // volume set
        &text("", 128),    // publisher
        &text("", 128),    // preparer
        &text("KLD", 128), // application
        &text("", 37),     // copyright, abstract and bibliography files
        &text("", 37),
        &text("", 37),
        LONG_DATE, // created
        LONG_DATE, // modified
        NO_DATE,   // expires
        NO_DATE,   // in force from
        &[1],
    ]
    .concat()
}

/// ECMA-119, 9.4: the one entry of the root.
fn path_table(root: [u8; 4], parent: [u8; 2]) -> Vec<u8> {
    [&[1, 0][..], &root, &parent, &[0, 0]].concat()
}

fn directory(files: &[(&str, u32, u32)], joliet: bool) -> Vec<u8> {
    let root = if joliet { JOLIET_ROOT } else { ROOT };
    let system_use = |bytes: Vec<u8>| if joliet { Vec::new() } else { bytes };
    let this = system_use([share_protocol(), posix(0o040555, 2), rock_ridge()].concat());
    let parent = system_use(posix(0o040555, 2));
    let mut records = record(b"\0", root, SECTOR as u32, DIRECTORY, &this);
    records.extend(record(b"\x01", root, SECTOR as u32, DIRECTORY, &parent));
    for (name, start, length) in files {
        let identifier = if joliet {
            ucs2(name)
        } else {
            (name.to_ascii_uppercase().replace('-', "_") + ".;1").into_bytes()
        };
        // Readable by root alone: user-data may hold password hashes.
        let details = system_use([posix(0o100400, 1), alternate_name(name)].concat());
        records.extend(record(&identifier, *start, *length, 0, &details));
    }
    records
}

/// ECMA-119, 9.1.
fn record(identifier: &[u8], start: u32, length: u32, flags: u8, system_use: &[u8]) -> Vec<u8> {
    let mut record = [
        &[0, 0][..],
        &both32(start),
        &both32(length),
        &DATE,
        &[flags, 0, 0],
        &both16(1),
        &[identifier.len() as u8],
        identifier,
    ]
    .concat();
    record.resize(record.len().next_multiple_of(2), 0);
    record.extend_from_slice(system_use);
    record.resize(record.len().next_multiple_of(2), 0);
    record[0] = record.len() as u8;
    record
}

/// SUSP 5.3, "SP": system use areas are in use here.
fn share_protocol() -> Vec<u8> {
    b"SP\x07\x01\xbe\xef\0".to_vec()
}

/// SUSP 5.5, "ER": and they are Rock Ridge's.
fn rock_ridge() -> Vec<u8> {
    [&b"ER\x12\x01\x0a\0\0\x01"[..], b"RRIP_1991A"].concat()
}

/// Rock Ridge 4.1.1, "PX": type and permissions, owned by root.
fn posix(mode: u32, links: u32) -> Vec<u8> {
    [&b"PX\x24\x01"[..], &both32(mode), &both32(links), &both32(0), &both32(0)].concat()
}

/// Rock Ridge 4.1.4, "NM".
fn alternate_name(name: &str) -> Vec<u8> {
    [&b"NM"[..], &[5 + name.len() as u8, 1, 0], name.as_bytes()].concat()
}

fn padded(text: &str, length: usize, joliet: bool) -> Vec<u8> {
    let (mut bytes, space) = if joliet { (ucs2(text), &[0, b' '][..]) } else { (text.into(), &b" "[..]) };
    while bytes.len() + space.len() <= length {
        bytes.extend_from_slice(space);
    }
    bytes.resize(length, 0);
    bytes
}

fn ucs2(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_be_bytes).collect()
}

fn both16(value: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (value.to_le_bytes(), value.to_be_bytes());
    [a, b, c, d]
}

fn both32(value: u32) -> [u8; 8] {
    let ([a, b, c, d], [e, f, g, h]) = (value.to_le_bytes(), value.to_be_bytes());
    [a, b, c, d, e, f, g, h]
}
