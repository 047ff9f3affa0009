use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::str::FromStr;

use super::HeaderError;

/// The first four bytes of every qcow2 image: `QFI\xfb`.
pub const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";

/// How many bytes from the start of a file [`ImageHeader::parse`] wants to see at most. QEMU keeps the whole header
/// in the first cluster, and 64 KiB is the default cluster; a header area that is larger is refused.
pub const HEADER_READ: usize = 64 * 1024;

pub(super) const EXT_END: u32 = 0;
pub(super) const EXT_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXT_DATA_FILE: u32 = 0x4441_5441;

pub(super) const V2_LENGTH: usize = 72;
const V3_LENGTH: usize = 104;
const MAX_NAME: u32 = 1023;
/// QEMU's `QCOW_MAX_L1_SIZE`, in bytes.
pub(super) const MAX_L1_BYTES: u64 = 32 << 20;
/// QEMU's `QCOW_MAX_REFTABLE_SIZE`, in bytes.
const MAX_REFTABLE_BYTES: u64 = 8 << 20;
const MAX_SNAPSHOTS: u32 = 65536;

const INCOMPAT_DIRTY: u64 = 1 << 0;
const INCOMPAT_CORRUPT: u64 = 1 << 1;
const INCOMPAT_DATA_FILE: u64 = 1 << 2;
const INCOMPAT_COMPRESSION: u64 = 1 << 3;
pub(super) const INCOMPAT_EXTENDED_L2: u64 = 1 << 4;
const INCOMPAT_KNOWN: u64 =
    INCOMPAT_DIRTY | INCOMPAT_CORRUPT | INCOMPAT_DATA_FILE | INCOMPAT_COMPRESSION | INCOMPAT_EXTENDED_L2;

/// The two formats that kld gives to machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DiskFormat {
    /// QEMU's copy-on-write format, version 2 or 3.
    Qcow2,
    /// The guest's bytes and nothing else.
    Raw,
}

impl DiskFormat {
    /// The name that QEMU and libvirt use.
    pub fn as_str(self) -> &'static str {
        match self {
            DiskFormat::Qcow2 => "qcow2",
            DiskFormat::Raw => "raw",
        }
    }
}

impl fmt::Display for DiskFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name is neither `qcow2` nor `raw`.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[error("'{0}' is not a disk format that kld knows (qcow2, raw)")]
pub struct UnknownFormat(String);

impl FromStr for DiskFormat {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        match name {
            "qcow2" => Ok(DiskFormat::Qcow2),
            "raw" => Ok(DiskFormat::Raw),
            other => Err(UnknownFormat(other.escape_debug().take(64).collect())),
        }
    }
}

/// How the data clusters are encrypted (`crypt_method`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// Not at all.
    None,
    /// The old AES-CBC scheme.
    Aes,
    /// LUKS.
    Luks,
}

/// How compressed clusters are compressed (`compression_type`). It says nothing about whether there are any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// deflate, the default.
    Zlib,
    /// Zstandard.
    Zstd,
}

/// A header extension, as it stands in the file. The ones that this module does not read are kept when the header
/// is rewritten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    /// Its magic number.
    pub kind: u32,
    /// Its data, without the padding.
    pub data: Vec<u8>,
}

/// What the header of a qcow2 image says. Field names follow QEMU's `docs/interop/qcow2.rst`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageHeader {
    /// 2 or 3.
    pub version: u32,
    /// The size of the disk that the guest sees, in bytes.
    pub virtual_size: u64,
    /// The cluster size is `1 << cluster_bits` bytes; 9 to 21.
    pub cluster_bits: u32,
    /// The backing file as the overlay names it: absolute, relative to the overlay's folder, or a protocol.
    pub backing_file: Option<OsString>,
    /// The content of the backing format extension.
    pub backing_format: Option<OsString>,
    /// Encryption of the guest's data.
    pub encryption: Encryption,
    /// Compression of compressed clusters.
    pub compression: Compression,
    /// The number of entries in the L1 table.
    pub l1_size: u32,
    /// Where the L1 table is, in bytes from the start of the file.
    pub l1_table_offset: u64,
    /// Where the refcount table is.
    pub refcount_table_offset: u64,
    /// How many clusters it has.
    pub refcount_table_clusters: u32,
    /// Reference counts have `1 << refcount_order` bits.
    pub refcount_order: u32,
    /// The number of internal snapshots.
    pub snapshots: u32,
    /// The reference counts may be wrong: the image was not closed cleanly under lazy_refcounts.
    pub dirty: bool,
    /// QEMU found inconsistent metadata; it opens the image read-only until it is repaired.
    pub corrupt: bool,
    /// L2 entries of 128 bits, with subclusters.
    pub extended_l2: bool,
    /// Compatible feature bits (bit 0: lazy reference counts).
    pub compatible_features: u64,
    /// Autoclear feature bits (bit 0: persistent bitmaps).
    pub autoclear_features: u64,
    /// The length of the fixed part of the header: 72 in version 2.
    pub header_length: usize,
    /// All extensions in the order of the file.
    pub extensions: Vec<Extension>,
    /// Where extensions and the backing file's name end, in bytes from the start of the file.
    pub(super) area_end: usize,
}

impl ImageHeader {
    /// Reads the header of a qcow2 image from the first bytes of the file: all of it, or the first
    /// [`HEADER_READ`] bytes. `file_len` is the length of the whole file.
    ///
    /// The function reads nothing but `bytes`, and its work and memory are bounded by them.
    ///
    /// # Errors
    ///
    /// [`HeaderError`] for what is not a qcow2 image of version 2 or 3, cannot be right, or uses an external data
    /// file or unknown incompatible features. An encrypted, dirty or corrupt image is no error here; the fields say
    /// so.
    pub fn parse(bytes: &[u8], file_len: u64) -> Result<ImageHeader, HeaderError> {
        let bytes = &bytes[..bytes.len().min(HEADER_READ)];
        if bytes.get(..4) != Some(&QCOW2_MAGIC[..]) {
            return Err(HeaderError::NotQcow2);
        }
        let cut = HeaderError::Truncated("header");
        let version = be32(bytes, 4).ok_or(cut.clone())?;
        if !(2..=3).contains(&version) {
            return Err(HeaderError::Version(version));
        }
        let fixed = if version == 2 { V2_LENGTH } else { V3_LENGTH };
        if bytes.len() < fixed {
            return Err(cut);
        }
        let word = |at| be32(bytes, at).ok_or(HeaderError::Truncated("header"));
        let long = |at| be64(bytes, at).ok_or(HeaderError::Truncated("header"));

        let cluster_bits = word(20)?;
        check((9..=21).contains(&cluster_bits), "cluster_bits", cluster_bits.into(), "an image has 9 to 21")?;
        let cluster = 1u64 << cluster_bits;

        let (incompatible, compatible_features, autoclear_features, refcount_order, header_length) =
            if version == 2 {
                (0, 0, 0, 4, V2_LENGTH)
            } else {
                (long(72)?, long(80)?, long(88)?, word(96)?, word(100)? as usize)
            };
        if incompatible & !INCOMPAT_KNOWN != 0 {
            return Err(HeaderError::UnknownFeatures(incompatible & !INCOMPAT_KNOWN));
        }
        if incompatible & INCOMPAT_DATA_FILE != 0 {
            return Err(HeaderError::ExternalDataFile);
        }
        check(refcount_order <= 6, "refcount_order", refcount_order.into(), "the largest is 6")?;
        check(
            header_length >= fixed && header_length as u64 <= cluster,
            "header_length",
            header_length as u64,
            "it must hold the fixed fields and fit in a cluster",
        )?;
        if header_length > bytes.len() {
            return Err(HeaderError::Truncated("header"));
        }
        let extended_l2 = incompatible & INCOMPAT_EXTENDED_L2 != 0;
        check(
            !extended_l2 || cluster_bits >= 14,
            "cluster_bits",
            cluster_bits.into(),
            "extended L2 entries need at least 14",
        )?;

        let compression_type = if version == 3 && header_length > V3_LENGTH { bytes[V3_LENGTH] } else { 0 };
        let compression = match (compression_type, incompatible & INCOMPAT_COMPRESSION != 0) {
            (0, false) => Compression::Zlib,
            (1, true) => Compression::Zstd,
            (other, _) => {
                return Err(HeaderError::Field {
                    field: "compression_type",
                    value: other.into(),
                    rule: "it must be 0 or 1 and agree with the feature bit",
                });
            }
        };
        let encryption = match word(32)? {
            0 => Encryption::None,
            1 => Encryption::Aes,
            2 => Encryption::Luks,
            other => {
                return Err(HeaderError::Field {
                    field: "crypt_method",
                    value: other.into(),
                    rule: "the known ones are 0, 1 and 2",
                });
            }
        };

        let virtual_size = long(24)?;
        check(
            virtual_size <= i64::MAX as u64,
            "size",
            virtual_size,
            "no disk is larger than 2^63 - 1 bytes",
        )?;
        let (l1_size, l1_table_offset) = (word(36)?, long(40)?);
        let l1_bytes = u64::from(l1_size) * 8;
        check(l1_bytes <= MAX_L1_BYTES, "l1_size", l1_size.into(), "an L1 table has at most 32 MiB")?;
        check(
            u64::from(l1_size) >= l1_entries(virtual_size, cluster_bits, extended_l2),
            "l1_size",
            l1_size.into(),
            "it is too small for the disk's size",
        )?;
        if l1_size > 0 {
            table_offset("l1_table_offset", l1_table_offset, cluster)?;
            check(
                l1_table_offset.checked_add(l1_bytes).is_some_and(|end| end <= file_len),
                "l1_table_offset",
                l1_table_offset,
                "the L1 table must end before the file does",
            )?;
        }
        let (refcount_table_offset, refcount_table_clusters) = (long(48)?, word(56)?);
        table_offset("refcount_table_offset", refcount_table_offset, cluster)?;
        check(
            refcount_table_offset < file_len,
            "refcount_table_offset",
            refcount_table_offset,
            "it must be inside the file",
        )?;
        check(
            refcount_table_clusters > 0 && u64::from(refcount_table_clusters) <= MAX_REFTABLE_BYTES / cluster,
            "refcount_table_clusters",
            refcount_table_clusters.into(),
            "a refcount table has one cluster at least and 8 MiB at most",
        )?;
        let snapshots = word(60)?;
        check(snapshots <= MAX_SNAPSHOTS, "nb_snapshots", snapshots.into(), "the largest is 65536")?;

        let (name_offset, name_size) = (long(8)?, word(16)?);
        let backing_file = if name_offset == 0 {
            None
        } else {
            check(
                name_offset >= header_length as u64 && name_offset <= cluster,
                "backing_file_offset",
                name_offset,
                "the name stands behind the header, in the first cluster",
            )?;
            check(
                name_size <= MAX_NAME && name_offset + u64::from(name_size) <= cluster,
                "backing_file_size",
                name_size.into(),
                "a name has at most 1023 bytes and ends in the first cluster",
            )?;
            let (start, length) = (name_offset as usize, name_size as usize);
            let name = bytes.get(start..start + length).ok_or(HeaderError::Truncated("backing file name"))?;
            if name.contains(&0) {
                return Err(HeaderError::BackingName("it holds a NUL byte"));
            }
            if name.is_empty() { None } else { Some(OsString::from_vec(name.to_vec())) }
        };

        let limit = if name_offset == 0 { cluster } else { name_offset } as usize;
        let (extensions, extensions_end) = parse_extensions(bytes, header_length, limit)?;
        if extensions.iter().any(|extension| extension.kind == EXT_DATA_FILE) {
            return Err(HeaderError::ExternalDataFile);
        }
        let backing_format = extensions
            .iter()
            .find(|extension| extension.kind == EXT_BACKING_FORMAT)
            .map(|extension| OsStr::from_bytes(&extension.data).to_owned());
        let area_end =
            extensions_end.max((name_offset + u64::from(name_size)) as usize * usize::from(name_offset != 0));

        Ok(ImageHeader {
            version,
            virtual_size,
            cluster_bits,
            backing_file,
            backing_format,
            encryption,
            compression,
            l1_size,
            l1_table_offset,
            refcount_table_offset,
            refcount_table_clusters,
            refcount_order,
            snapshots,
            dirty: incompatible & INCOMPAT_DIRTY != 0,
            corrupt: incompatible & INCOMPAT_CORRUPT != 0,
            extended_l2,
            compatible_features,
            autoclear_features,
            header_length,
            extensions,
            area_end,
        })
    }

    /// The cluster size in bytes.
    pub fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }
}

/// How many L1 entries a disk of `size` bytes needs. One entry stands for one L2 table, which is a cluster of
/// entries of 8 bytes, or 16 when they are extended.
pub(super) fn l1_entries(size: u64, cluster_bits: u32, extended_l2: bool) -> u64 {
    let entry_bits = if extended_l2 { 4 } else { 3 };
    size.div_ceil(1 << (2 * cluster_bits - entry_bits))
}

/// Reads the extensions from `start`, to their end mark or `limit`; also says where they end.
fn parse_extensions(
    bytes: &[u8],
    start: usize,
    limit: usize,
) -> Result<(Vec<Extension>, usize), HeaderError> {
    let cut = HeaderError::Truncated("header extensions");
    let mut extensions = Vec::new();
    let mut at = start;
    while at < limit {
        if limit - at < 8 {
            // QEMU writes no such thing, but version 2 images may have a name close behind the header.
            break;
        }
        let (kind, length) = (be32(bytes, at).ok_or(cut.clone())?, be32(bytes, at + 4).ok_or(cut.clone())?);
        at += 8;
        if kind == EXT_END {
            break;
        }
        let length = length as usize;
        check(
            length <= limit - at,
            "header extension length",
            length as u64,
            "it must end before the backing file name and in the first cluster",
        )?;
        let data = bytes.get(at..at + length).ok_or(cut.clone())?;
        extensions.push(Extension { kind, data: data.to_vec() });
        at += length.next_multiple_of(8);
    }
    Ok((extensions, at.min(limit)))
}

fn table_offset(field: &'static str, offset: u64, cluster: u64) -> Result<(), HeaderError> {
    check(
        offset >= cluster && offset.is_multiple_of(cluster) && offset <= i64::MAX as u64,
        field,
        offset,
        "a table begins at a cluster behind the header",
    )
}

fn check(good: bool, field: &'static str, value: u64, rule: &'static str) -> Result<(), HeaderError> {
    if good { Ok(()) } else { Err(HeaderError::Field { field, value, rule }) }
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn be64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::create::{Backing, NewImage, header_bytes};
    use super::*;

    const LENGTH: u64 = 1 << 20;

    fn overlay() -> Vec<u8> {
        let backing = Backing { path: "/base.qcow2".into(), format: DiskFormat::Qcow2 };
        header_bytes(&NewImage::overlay(10 << 30, backing)).unwrap()
    }

    fn with(at: usize, bytes: &[u8]) -> Vec<u8> {
        let mut header = overlay();
        header[at..at + bytes.len()].copy_from_slice(bytes);
        header
    }

    fn refusal(header: &[u8]) -> String {
        ImageHeader::parse(header, LENGTH).unwrap_err().to_string()
    }

    #[test]
    fn an_overlay_tells_its_size_backing_file_and_format() {
        let header = ImageHeader::parse(&overlay(), LENGTH).unwrap();
        assert_eq!(header.version, 3);
        assert_eq!(header.virtual_size, 10 << 30);
        assert_eq!(header.cluster_size(), 65536);
        assert_eq!(header.backing_file.as_deref(), Some(OsStr::new("/base.qcow2")));
        assert_eq!(header.backing_format.as_deref(), Some(OsStr::new("qcow2")));
        assert_eq!(header.l1_size, 20);
        assert!(!header.dirty && !header.corrupt && !header.extended_l2);
    }

    #[test]
    fn version_2_has_a_shorter_header() {
        let mut header = vec![0; 4096];
        header[..V2_LENGTH].copy_from_slice(&overlay()[..V2_LENGTH]);
        header[4..8].copy_from_slice(&2u32.to_be_bytes());
        header[8..20].fill(0);
        let parsed = ImageHeader::parse(&header, LENGTH).unwrap();
        assert_eq!((parsed.version, parsed.header_length, parsed.refcount_order), (2, 72, 4));
        assert_eq!(parsed.backing_file, None);
    }

    #[test]
    fn dirty_and_corrupt_are_flags_and_no_errors() {
        let header = ImageHeader::parse(&with(79, &[3]), LENGTH).unwrap();
        assert!(header.dirty && header.corrupt);
    }

    #[test]
    fn encryption_is_told() {
        let header = ImageHeader::parse(&with(32, &2u32.to_be_bytes()), LENGTH).unwrap();
        assert_eq!(header.encryption, Encryption::Luks);
    }

    #[test]
    fn what_cannot_be_right_is_refused_with_the_field_s_name() {
        assert_eq!(refusal(b"KDMV"), "it does not begin with the qcow2 magic");
        assert_eq!(refusal(&with(7, &[1])), "its qcow version is 1, and only 2 and 3 are known");
        assert_eq!(refusal(&overlay()[..80]), "it ends in the middle of the header");
        assert_eq!(
            refusal(&with(20, &8u32.to_be_bytes())),
            "its cluster_bits is 8, but an image has 9 to 21"
        );
        assert_eq!(refusal(&with(79, &[4])), "its data is in an external data file");
        assert_eq!(refusal(&with(78, &[1])), "it uses unknown incompatible features (bits 0x100)");
        assert!(refusal(&with(24, &[0x80])).starts_with("its size is "));
        assert!(refusal(&with(36, &19u32.to_be_bytes())).starts_with("its l1_size is 19"));
        assert!(refusal(&with(36, &u32::MAX.to_be_bytes())).starts_with("its l1_size is "));
        assert!(refusal(&with(40, &[0; 8])).starts_with("its l1_table_offset is 0"));
        assert!(refusal(&with(40, &[0x7f, 0xff])).starts_with("its l1_table_offset is "));
        assert!(refusal(&with(48, &[0; 8])).starts_with("its refcount_table_offset is 0"));
        assert!(refusal(&with(16, &2000u32.to_be_bytes())).starts_with("its backing_file_size is 2000"));
        assert!(refusal(&with(96, &7u32.to_be_bytes())).starts_with("its refcount_order is 7"));
        assert!(refusal(&with(104, &[1])).starts_with("its compression_type is 1"));
    }

    #[test]
    fn a_backing_name_with_a_nul_is_refused() {
        let mut header = overlay();
        let at = header.len() - 3;
        header[at] = 0;
        assert_eq!(refusal(&header), "its backing file name is not usable (it holds a NUL byte)");
    }

    #[test]
    fn a_header_whose_name_is_cut_off_is_refused() {
        let header = overlay();
        assert_eq!(refusal(&header[..header.len() - 1]), "it ends in the middle of the backing file name");
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), len in any::<u64>()) {
            let _ = ImageHeader::parse(&bytes, len);
            let mut header = QCOW2_MAGIC.to_vec();
            header.extend_from_slice(&[0, 0, 0, 3]);
            header.extend_from_slice(&bytes);
            let _ = ImageHeader::parse(&header, len);
        }

        #[test]
        fn mutated_headers_never_panic(
            changes in prop::collection::vec((0usize..200, any::<u8>()), 1..8), cut in 0usize..200, len in any::<u64>()
        ) {
            let mut header = overlay();
            for (at, value) in changes {
                if let Some(byte) = header.get_mut(at) { *byte = value; }
            }
            let _ = ImageHeader::parse(&header, len);
            header.truncate(cut);
            let _ = ImageHeader::parse(&header, len);
        }
    }
}
