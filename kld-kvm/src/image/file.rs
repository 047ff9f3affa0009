use std::ffi::OsStr;
use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use kld_core::lock;
use nix::fcntl::OFlag;

use super::header::HEADER_READ;
use super::{DiskFormat, Encryption, HeaderError, ImageError, ImageHeader, QCOW2_MAGIC};

/// The longest backing chain that [`chain`] follows.
pub const MAX_CHAIN: usize = 64;

/// Which file it is, whatever its names are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId {
    /// The file system's device number.
    pub device: u64,
    /// The inode.
    pub inode: u64,
}

/// What an image file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageFormat {
    /// A qcow2 image, with its header.
    Qcow2(ImageHeader),
    /// The guest's bytes.
    Raw,
}

/// An image file, looked at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The path that it was opened by.
    pub path: PathBuf,
    /// Its format, with the header of a qcow2 image.
    pub format: ImageFormat,
    /// The size of the disk that a guest sees, in bytes.
    pub virtual_size: u64,
    /// The file's length in bytes.
    pub file_len: u64,
    /// The bytes that the file takes on disk.
    pub allocated: u64,
    /// The permission bits.
    pub mode: u32,
    /// Which file it is.
    pub id: FileId,
}

impl Image {
    /// The format's name.
    pub fn disk_format(&self) -> DiskFormat {
        match self.format {
            ImageFormat::Qcow2(_) => DiskFormat::Qcow2,
            ImageFormat::Raw => DiskFormat::Raw,
        }
    }

    /// The header, if it is a qcow2 image.
    pub fn header(&self) -> Option<&ImageHeader> {
        match &self.format {
            ImageFormat::Qcow2(header) => Some(header),
            ImageFormat::Raw => None,
        }
    }
}

/// Looks at a qcow2 image. A file that is not one is refused: whether a file is raw cannot be seen from its content,
/// which a guest may have written, so only [`inspect_as`] accepts raw images.
///
/// Symbolic links are not followed, and nothing but a regular file is opened.
///
/// # Errors
///
/// [`ImageError::Foreign`] for a known other format, [`ImageError::Unknown`] for any other content,
/// [`ImageError::Header`] and [`ImageError::Encrypted`] for a qcow2 image that kld cannot use,
/// [`ImageError::NotAFile`] and [`ImageError::Io`].
pub fn inspect(path: &Path) -> Result<Image, ImageError> {
    look(path, None)
}

/// Looks at an image whose format is known from elsewhere: a person's word, a machine's definition or an overlay's
/// header. A raw image is raw whatever it begins with.
///
/// # Errors
///
/// As [`inspect`].
pub fn inspect_as(path: &Path, format: DiskFormat) -> Result<Image, ImageError> {
    look(path, Some(format))
}

fn look(path: &Path, format: Option<DiskFormat>) -> Result<Image, ImageError> {
    let (_, metadata, bytes) = read_start(path, false)?;
    let file_len = metadata.len();
    let (format, virtual_size) = if format == Some(DiskFormat::Raw) {
        (ImageFormat::Raw, file_len)
    } else {
        if !bytes.starts_with(&QCOW2_MAGIC) {
            return Err(match foreign_format(&bytes) {
                Some(format) => ImageError::Foreign { path: path.to_owned(), format },
                None if format.is_some() => {
                    ImageError::WrongFormat { path: path.to_owned(), wanted: DiskFormat::Qcow2 }
                }
                None => ImageError::Unknown { path: path.to_owned() },
            });
        }
        let header = ImageHeader::parse(&bytes, file_len).map_err(|source| match source {
            HeaderError::Version(1) => {
                ImageError::Foreign { path: path.to_owned(), format: "qcow version 1" }
            }
            source => ImageError::Header { path: path.to_owned(), source },
        })?;
        if header.encryption != Encryption::None {
            return Err(ImageError::Encrypted { path: path.to_owned() });
        }
        let size = header.virtual_size;
        (ImageFormat::Qcow2(header), size)
    };
    Ok(Image {
        path: path.to_owned(),
        format,
        virtual_size,
        file_len,
        allocated: metadata.blocks() * 512,
        mode: metadata.mode() & 0o7777,
        id: FileId { device: metadata.dev(), inode: metadata.ino() },
    })
}

/// The image and everything that it stands on, top first.
///
/// Relative names are taken from the folder of the overlay that names them. A backing file without a stated format
/// is accepted only if it is a qcow2 image that stands on nothing: a guest can write a header into a raw disk, but
/// such a header then reaches no other file.
///
/// # Errors
///
/// As [`inspect`] for each file, and [`ImageError::Loop`], [`ImageError::TooDeep`], [`ImageError::BackingProtocol`],
/// [`ImageError::BackingFormat`], [`ImageError::BackingFormatMissing`].
pub fn chain(path: &Path) -> Result<Vec<Image>, ImageError> {
    follow(inspect(path)?)
}

/// As [`chain`], from a top image whose format is known.
///
/// # Errors
///
/// As [`chain`].
pub fn chain_as(path: &Path, format: DiskFormat) -> Result<Vec<Image>, ImageError> {
    follow(inspect_as(path, format)?)
}

fn follow(top: Image) -> Result<Vec<Image>, ImageError> {
    let mut images = vec![top];
    while let Some(next) = backing_of(images.last().expect("the top is there"))? {
        let path = || images[0].path.clone();
        if images.iter().any(|image| image.id == next.id) {
            return Err(ImageError::Loop { path: path(), again: next.path });
        }
        if images.len() == MAX_CHAIN {
            return Err(ImageError::TooDeep { path: path(), limit: MAX_CHAIN });
        }
        images.push(next);
    }
    Ok(images)
}

fn backing_of(image: &Image) -> Result<Option<Image>, ImageError> {
    let Some((header, name)) =
        image.header().and_then(|header| Some((header, header.backing_file.as_deref()?)))
    else {
        return Ok(None);
    };
    if has_protocol(name) {
        return Err(ImageError::BackingProtocol { path: image.path.clone(), name: printable(name) });
    }
    let path = image.path.parent().unwrap_or(Path::new("")).join(name);
    let format = match header.backing_format.as_deref().map(OsStr::as_bytes) {
        Some(b"qcow2") => Some(DiskFormat::Qcow2),
        Some(b"raw") => Some(DiskFormat::Raw),
        Some(b"") | None => None,
        Some(other) => {
            let format = printable(OsStr::from_bytes(other));
            return Err(ImageError::BackingFormat { path: image.path.clone(), format });
        }
    };
    let missing = || ImageError::BackingFormatMissing { path: image.path.clone(), backing: path.clone() };
    let backing = match (look(&path, format), format) {
        (Err(ImageError::Unknown { .. } | ImageError::Foreign { .. }), None) => return Err(missing()),
        (backing, _) => backing?,
    };
    if format.is_none() && backing.header().is_some_and(|header| header.backing_file.is_some()) {
        return Err(missing());
    }
    Ok(Some(backing))
}

/// QEMU's `path_has_protocol`: a colon before the first slash.
fn has_protocol(name: &OsStr) -> bool {
    name.as_bytes().iter().find(|byte| matches!(byte, b':' | b'/')) == Some(&b':')
}

fn printable(name: &OsStr) -> String {
    name.to_string_lossy().chars().take(200).flat_map(char::escape_debug).collect()
}

/// Whether nothing was ever written to the top image: its L1 table is all zeros and it has no internal snapshots.
/// Its backing files are not looked at. An answer about an image that a machine has open is out of date at once.
///
/// # Errors
///
/// As [`inspect`].
pub fn is_empty_overlay(path: &Path) -> Result<bool, ImageError> {
    let image = inspect(path)?;
    let Some(header) = image.header() else { return Ok(false) };
    if header.snapshots > 0 {
        return Ok(false);
    }
    let io_error = |source| ImageError::Io { action: "read", path: path.to_owned(), source };
    let (file, ..) = read_start(path, false)?;
    let (mut at, mut left) = (header.l1_table_offset, header.l1_size as usize * 8);
    let mut buffer = vec![0; left.min(HEADER_READ)];
    while left > 0 {
        let part = &mut buffer[..left.min(HEADER_READ)];
        file.read_exact_at(part, at).map_err(io_error)?;
        if part.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        (at, left) = (at + part.len() as u64, left - part.len());
    }
    Ok(true)
}

/// Whether another process holds one of QEMU's locks on the file: a machine that runs from it or stands on it, or a
/// `qemu-img` at work. A program that takes no locks is not seen.
///
/// # Errors
///
/// [`ImageError::NotAFile`] and [`ImageError::Io`].
pub fn in_use(path: &Path) -> Result<bool, ImageError> {
    let (file, _) = open(path, false)?;
    lock::held_by_qemu(&file).map_err(|source| ImageError::Io {
        action: "ask for locks on",
        path: path.to_owned(),
        source,
    })
}

/// The name of a known format that is neither qcow2 nor raw, from the first bytes of a file.
pub fn foreign_format(bytes: &[u8]) -> Option<&'static str> {
    const MAGICS: [(usize, &[u8], &str); 18] = [
        (0, b"KDMV", "VMDK"),
        (0, b"COWD", "VMDK"),
        (0, b"# Disk DescriptorFile", "VMDK"),
        (0, b"vhdxfile", "VHDX"),
        (0, b"conectix", "VHD"),
        (0x40, &[0x7f, 0x10, 0xda, 0xbe], "VDI"),
        (0x40, &[0xbe, 0xda, 0x10, 0x7f], "VDI"),
        (0, b"QED\0", "QED"),
        (0, b"WithoutFreeSpace", "Parallels"),
        (0, b"WithouFreSpacExt", "Parallels"),
        (0, &[0x1f, 0x8b], "gzip"),
        (0, b"\xfd7zXZ\0", "xz"),
        (0, &[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
        (0, b"BZh", "bzip2"),
        (0, b"PK\x03\x04", "zip"),
        (0, b"\x7fELF", "ELF program"),
        (0, b"LUKS\xba\xbe", "LUKS container"),
        (0x8001, b"CD001", "ISO 9660"),
    ];
    let known =
        MAGICS.iter().find(|(at, magic, _)| bytes.get(*at..).is_some_and(|rest| rest.starts_with(magic)));
    known.map(|(.., name)| *name)
}

/// Opens a regular file, and nothing else, and reads its first [`HEADER_READ`] bytes.
pub(super) fn read_start(path: &Path, write: bool) -> Result<(File, Metadata, Vec<u8>), ImageError> {
    let (file, metadata) = open(path, write)?;
    let mut bytes = vec![0; metadata.len().min(HEADER_READ as u64) as usize];
    let mut have = 0;
    while have < bytes.len() {
        match file.read_at(&mut bytes[have..], have as u64) {
            Ok(0) => break,
            Ok(count) => have += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(ImageError::Io { action: "read", path: path.to_owned(), source }),
        }
    }
    bytes.truncate(have);
    Ok((file, metadata, bytes))
}

fn open(path: &Path, write: bool) -> Result<(File, Metadata), ImageError> {
    let io_error = |source| ImageError::Io { action: "open", path: path.to_owned(), source };
    // Looked at before it is opened, because opening a device can have effects, and after, because the name may
    // have come to mean another file in between.
    regular(path, std::fs::symlink_metadata(path).map_err(io_error)?.file_type())?;
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file =
        OpenOptions::new().read(true).write(write).custom_flags(flags.bits()).open(path).map_err(io_error)?;
    let metadata = file.metadata().map_err(io_error)?;
    regular(path, metadata.file_type())?;
    Ok((file, metadata))
}

fn regular(path: &Path, kind: FileType) -> Result<(), ImageError> {
    let kind = match kind {
        kind if kind.is_file() => return Ok(()),
        kind if kind.is_dir() => "folder",
        kind if kind.is_symlink() => "symbolic link",
        kind if kind.is_block_device() => "block device",
        kind if kind.is_char_device() => "character device",
        kind if kind.is_fifo() => "pipe",
        _ => "socket",
    };
    Err(ImageError::NotAFile { path: path.to_owned(), kind })
}

#[cfg(test)]
mod tests {
    use super::super::{Backing, NewImage, create};
    use nix::fcntl::{FcntlArg, fcntl};
    use nix::libc;

    use super::*;

    fn overlay(path: &Path, name: &[u8], format: &[u8]) {
        // Made by hand: `create` refuses such names.
        let backing = Backing { path: "/".into(), format: DiskFormat::Qcow2 };
        create(path, &NewImage::overlay(1 << 20, backing)).unwrap();
        let file = OpenOptions::new().write(true).open(path).unwrap();
        let at = 112 + 8 + 8 + 8;
        file.write_all_at(name, at).unwrap();
        file.write_all_at(&(name.len() as u32).to_be_bytes(), 16).unwrap();
        file.write_all_at(&(format.len() as u32).to_be_bytes(), 116).unwrap();
        file.write_all_at(format, 120).unwrap();
        if format.is_empty() {
            file.write_all_at(&[0; 16], 112).unwrap();
        }
    }

    fn message(result: Result<Vec<Image>, ImageError>, folder: &Path) -> String {
        result.unwrap_err().to_string().replace(folder.to_str().unwrap(), "DIR")
    }

    #[test]
    fn relative_names_are_taken_from_the_overlay_s_folder() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::create_dir(root.join("sub")).unwrap();
        create(&root.join("base"), &NewImage::disk(1 << 20)).unwrap();
        overlay(&root.join("sub/top"), b"../base", b"qcow2");
        let images = chain(&root.join("sub/top")).unwrap();
        assert_eq!(images[1].path, root.join("sub/../base"));
        assert_eq!(images[1].virtual_size, 1 << 20);
        assert_eq!(images[1].mode, 0o600);
        assert!(images[1].allocated < images[1].file_len);
    }

    #[test]
    fn a_stated_raw_file_is_raw_even_if_it_begins_like_qcow2() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        overlay(&root.join("inner"), b"/etc/shadow", b"raw");
        overlay(&root.join("top"), b"inner", b"raw\0\0");
        let file = OpenOptions::new().write(true).open(root.join("top")).unwrap();
        file.write_all_at(&3u32.to_be_bytes(), 116).unwrap();
        let images = chain(&root.join("top")).unwrap();
        assert_eq!(images.len(), 2);
        assert_eq!(images[1].format, ImageFormat::Raw);
    }

    #[test]
    fn a_missing_format_is_accepted_only_where_the_header_reaches_no_other_file() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        create(&root.join("base"), &NewImage::disk(1 << 20)).unwrap();
        overlay(&root.join("top"), b"base", b"");
        assert_eq!(chain(&root.join("top")).unwrap().len(), 2);

        overlay(&root.join("top2"), b"top", b"");
        assert_eq!(
            message(chain(&root.join("top2")), root),
            "'DIR/top2' does not say in which format its backing file 'DIR/top' is"
        );
        std::fs::write(root.join("raw"), [0; 512]).unwrap();
        overlay(&root.join("top3"), b"raw", b"");
        assert!(message(chain(&root.join("top3")), root).contains("does not say"));
    }

    #[test]
    fn loops_and_depth_end() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        overlay(&root.join("a"), b"b", b"qcow2");
        overlay(&root.join("b"), b"./a", b"qcow2");
        assert_eq!(
            message(chain(&root.join("a")), root),
            "the backing chain of 'DIR/a' comes back to 'DIR/./a'"
        );

        create(&root.join("0"), &NewImage::disk(1 << 20)).unwrap();
        for number in 1..=MAX_CHAIN {
            overlay(&root.join(number.to_string()), (number - 1).to_string().as_bytes(), b"qcow2");
        }
        assert_eq!(chain(&root.join("63")).unwrap().len(), MAX_CHAIN);
        assert_eq!(
            message(chain(&root.join("64")), root),
            "the backing chain of 'DIR/64' is longer than 64 files"
        );
    }

    #[test]
    fn protocols_and_json_are_no_files() {
        let folder = tempfile::tempdir().unwrap();
        for (number, name) in
            ["nbd://host/x", "json:{\"driver\":\"raw\"}", "https://h/x", "file:/x"].iter().enumerate()
        {
            let path = folder.path().join(number.to_string());
            overlay(&path, name.as_bytes(), b"raw");
            assert!(matches!(chain(&path), Err(ImageError::BackingProtocol { .. })), "{name}");
        }
        assert!(!has_protocol(OsStr::new("./a:b")) && !has_protocol(OsStr::new("/a:b")));
    }

    #[test]
    fn a_backing_format_that_kld_does_not_know_is_named() {
        let folder = tempfile::tempdir().unwrap();
        overlay(&folder.path().join("top"), b"base", b"vmdk");
        assert_eq!(
            message(chain(&folder.path().join("top")), folder.path()),
            "the backing format of 'DIR/top' is 'vmdk', and only qcow2 and raw are supported"
        );
    }

    #[test]
    fn other_formats_are_refused_by_name_with_a_hint() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        for (content, format, hint) in [
            (&b"KDMV"[..], "VMDK", "qemu-img convert"),
            (b"vhdxfile", "VHDX", "qemu-img convert"),
            (b"\x1f\x8b\x08", "gzip", "gunzip"),
            (b"QFI\xfb\0\0\0\x01", "qcow version 1", "qemu-img convert"),
        ] {
            std::fs::write(&path, content).unwrap();
            let error = inspect(&path).unwrap_err();
            assert!(error.to_string().contains(&format!("is a {format} file")), "{error}");
            assert!(error.hint().unwrap().contains(hint));
        }
        std::fs::write(&path, [0; 4096]).unwrap();
        let error = inspect(&path).unwrap_err();
        assert!(matches!(error, ImageError::Unknown { .. }));
        assert!(error.hint().unwrap().contains("raw"));
        assert_eq!(inspect_as(&path, DiskFormat::Raw).unwrap().virtual_size, 4096);
        assert!(matches!(inspect_as(&path, DiskFormat::Qcow2), Err(ImageError::WrongFormat { .. })));
    }

    #[test]
    fn only_regular_files_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::os::unix::fs::symlink("x", root.join("link")).unwrap();
        nix::unistd::mkfifo(&root.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        for (path, kind) in [
            (root.join("link"), "symbolic link"),
            (root.join("pipe"), "pipe"),
            (root.to_owned(), "folder"),
            ("/dev/null".into(), "character device"),
        ] {
            let error = inspect_as(&path, DiskFormat::Raw).unwrap_err().to_string();
            assert!(error.ends_with(&format!("is a {kind}, not a regular file")), "{error}");
        }
        let error = inspect(&root.join("none")).unwrap_err().to_string();
        assert!(error.starts_with("cannot open '"), "{error}");
    }

    #[test]
    fn a_lock_like_qemu_s_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        create(&path, &NewImage::disk(1 << 20)).unwrap();
        assert!(!in_use(&path).unwrap());
        let holder = File::open(&path).unwrap();
        let lock = libc::flock {
            l_type: libc::F_RDLCK as i16,
            l_whence: libc::SEEK_SET as i16,
            l_start: 201,
            l_len: 1,
            l_pid: 0,
        };
        fcntl(&holder, FcntlArg::F_OFD_SETLK(&lock)).unwrap();
        assert!(in_use(&path).unwrap());
        let backing = Backing { path: "/b".into(), format: DiskFormat::Qcow2 };
        assert!(matches!(super::super::rewrite_backing(&path, &backing), Err(ImageError::InUse { .. })));
        drop(holder);
        assert!(!in_use(&path).unwrap());
    }
}
