use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::file::read_start;
use super::header::{
    EXT_BACKING_FORMAT, EXT_END, HEADER_READ, INCOMPAT_EXTENDED_L2, MAX_L1_BYTES, QCOW2_MAGIC, l1_entries,
};
use super::{DiskFormat, Encryption, Extension, HeaderError, ImageError, ImageHeader};

/// 64 KiB clusters, as `qemu-img create` makes them.
///
/// Smaller clusters copy less from the base at a first write, but need more tables: with 64 KiB QEMU's default
/// L2 cache covers a disk of 256 GiB, with 4 KiB sixteen times less. Larger ones make each first write of a clone
/// dearer. 64 KiB is also what every tool is tested with.
pub const DEFAULT_CLUSTER_BITS: u32 = 16;

/// The longest backing file name that the format allows, in bytes.
pub const MAX_BACKING_NAME: usize = 1023;

/// Written by `qemu-img` 5.1 and newer: the fixed fields, the compression type and its padding.
const HEADER_LENGTH: usize = 112;
const REFCOUNT_ORDER: u32 = 4;
/// Bits of the autoclear features that a changed backing file name does not invalidate: bitmaps and raw external
/// data. Others are unknown, and a program that writes the image must clear what it does not know.
const AUTOCLEAR_KNOWN: u64 = 0b11;

/// The file that an overlay stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backing {
    /// Absolute, so that the overlay means the same file wherever it is moved.
    pub path: PathBuf,
    /// Always stated: a backing file's format must never be guessed from what a guest may have written to it.
    pub format: DiskFormat,
}

/// An image to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewImage {
    /// The size of the disk in bytes; rounded up to 512, as `qemu-img` does.
    pub virtual_size: u64,
    /// What it stands on; nothing for an empty disk.
    pub backing: Option<Backing>,
    /// The cluster size is `1 << cluster_bits`: 9 to 21, see [`DEFAULT_CLUSTER_BITS`].
    pub cluster_bits: u32,
    /// L2 entries with 32 subclusters each (QEMU 5.2 and newer; needs `cluster_bits` of 14 at least).
    pub extended_l2: bool,
    /// The file's mode before the umask.
    pub mode: u32,
    /// Whether file and folder are on stable storage when [`create`] returns.
    pub sync: bool,
}

impl NewImage {
    /// An empty disk with the defaults: 64 KiB clusters, plain L2 entries, mode 0600, not synced.
    pub fn disk(virtual_size: u64) -> NewImage {
        NewImage {
            virtual_size,
            backing: None,
            cluster_bits: DEFAULT_CLUSTER_BITS,
            extended_l2: false,
            mode: 0o600,
            sync: false,
        }
    }

    /// The same with a backing file.
    pub fn overlay(virtual_size: u64, backing: Backing) -> NewImage {
        NewImage { backing: Some(backing), ..NewImage::disk(virtual_size) }
    }
}

/// Where everything stands in a new image, in clusters: the header, then `reftable`, `refblocks` and `l1`, with
/// nothing between them.
struct Layout {
    size: u64,
    l1_entries: u64,
    reftable: u64,
    refblocks: u64,
    /// All clusters of the file.
    total: u64,
}

impl Layout {
    fn of(new: &NewImage) -> Result<Layout, String> {
        if !(9..=21).contains(&new.cluster_bits) {
            return Err(format!("cluster bits are 9 to 21, not {}", new.cluster_bits));
        }
        if new.extended_l2 && new.cluster_bits < 14 {
            return Err("extended L2 entries need clusters of 16 KiB at least".into());
        }
        if new.virtual_size == 0 {
            return Err("a disk cannot have the size 0".into());
        }
        let too_large = || {
            format!(
                "a disk of {} bytes is too large for clusters of {} bytes",
                new.virtual_size,
                1u64 << new.cluster_bits
            )
        };
        let size = new.virtual_size.checked_next_multiple_of(512).filter(|size| *size <= i64::MAX as u64);
        let size = size.ok_or_else(too_large)?;
        let l1_entries = l1_entries(size, new.cluster_bits, new.extended_l2);
        if l1_entries * 8 > MAX_L1_BYTES {
            return Err(too_large());
        }
        let cluster = 1u64 << new.cluster_bits;
        let l1 = (l1_entries * 8).div_ceil(cluster);
        // The blocks count themselves and their table, so their number is found by going round until it holds.
        let (mut reftable, mut refblocks) = (1, 1);
        loop {
            let total = 1 + reftable + refblocks + l1;
            let blocks = total.div_ceil(cluster / 2);
            let table = (blocks * 8).div_ceil(cluster);
            if (table, blocks) == (reftable, refblocks) {
                return Ok(Layout { size, l1_entries, reftable, refblocks, total });
            }
            (reftable, refblocks) = (table, blocks);
        }
    }
}

/// The bytes of a new image's header with its extensions and the backing file's name.
pub(super) fn header_bytes(new: &NewImage) -> Result<Vec<u8>, String> {
    let layout = Layout::of(new)?;
    let cluster = 1u64 << new.cluster_bits;
    let incompatible = if new.extended_l2 { INCOMPAT_EXTENDED_L2 } else { 0 };

    let mut header = Vec::with_capacity(512);
    header.extend_from_slice(&QCOW2_MAGIC);
    header.extend_from_slice(&3u32.to_be_bytes());
    header.extend_from_slice(&[0; 12]); // the backing file's name, set below
    header.extend_from_slice(&new.cluster_bits.to_be_bytes());
    header.extend_from_slice(&layout.size.to_be_bytes());
    header.extend_from_slice(&0u32.to_be_bytes()); // crypt_method
    header.extend_from_slice(&(layout.l1_entries as u32).to_be_bytes());
    header.extend_from_slice(&((1 + layout.reftable + layout.refblocks) * cluster).to_be_bytes());
    header.extend_from_slice(&cluster.to_be_bytes()); // refcount_table_offset
    header.extend_from_slice(&(layout.reftable as u32).to_be_bytes());
    header.extend_from_slice(&[0; 12]); // no snapshots
    header.extend_from_slice(&incompatible.to_be_bytes());
    header.extend_from_slice(&[0; 16]); // no compatible and autoclear features
    header.extend_from_slice(&REFCOUNT_ORDER.to_be_bytes());
    header.extend_from_slice(&(HEADER_LENGTH as u32).to_be_bytes());
    header.resize(HEADER_LENGTH, 0); // compression_type: zlib
    append_names(&mut header, &[], new.backing.as_ref(), cluster as usize)?;
    Ok(header)
}

/// Appends extensions, the backing format among them, and the backing file's name to a header, and sets the fields
/// that point to the name.
fn append_names(
    header: &mut Vec<u8>,
    others: &[Extension],
    backing: Option<&Backing>,
    room: usize,
) -> Result<(), String> {
    let format = backing.map(|backing| Extension {
        kind: EXT_BACKING_FORMAT,
        data: backing.format.as_str().as_bytes().to_vec(),
    });
    for extension in format.iter().chain(others.iter().filter(|other| other.kind != EXT_BACKING_FORMAT)) {
        header.extend_from_slice(&extension.kind.to_be_bytes());
        header.extend_from_slice(&(extension.data.len() as u32).to_be_bytes());
        header.extend_from_slice(&extension.data);
        header.resize(header.len().next_multiple_of(8), 0);
    }
    header.extend_from_slice(&EXT_END.to_be_bytes());
    header.extend_from_slice(&[0; 4]);
    header[8..20].fill(0);
    if let Some(backing) = backing {
        let name = backing.path.as_os_str().as_bytes();
        let name_offset = header.len() as u64;
        header[8..16].copy_from_slice(&name_offset.to_be_bytes());
        header[16..20].copy_from_slice(&(name.len() as u32).to_be_bytes());
        header.extend_from_slice(name);
    }
    if header.len() > room {
        Err("the backing file name does not fit in the first cluster".into())
    } else {
        Ok(())
    }
}

fn check_backing(backing: &Backing) -> Result<(), String> {
    let name = backing.path.as_os_str().as_bytes();
    if !backing.path.is_absolute() {
        Err("the backing file's path is not absolute".into())
    } else if name.contains(&0) {
        Err("the backing file's path holds a NUL byte".into())
    } else if name.len() > MAX_BACKING_NAME {
        Err(format!("the backing file's path has {} bytes, and {MAX_BACKING_NAME} is the limit", name.len()))
    } else {
        Ok(())
    }
}

/// Makes an empty qcow2 image of version 3: an overlay, or a disk of zeros.
///
/// Three small writes and a truncation; the tables of zeros stay holes. The header is written last, so that a file
/// from a run that was killed is not taken for an image. The backing file is neither opened nor looked for.
///
/// # Errors
///
/// [`ImageError::Exists`] if there is something at `path` (also a dangling symbolic link), [`ImageError::Invalid`]
/// for a size, cluster size or backing path that the format cannot hold, [`ImageError::Io`] for the rest. A file
/// that could not be completed is removed.
pub fn create(path: &Path, new: &NewImage) -> Result<(), ImageError> {
    let invalid = |reason| ImageError::Invalid { path: path.to_owned(), reason };
    new.backing.as_ref().map_or(Ok(()), check_backing).map_err(invalid)?;
    let layout = Layout::of(new).map_err(invalid)?;
    let header = header_bytes(new).map_err(invalid)?;

    let opened = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(new.mode)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(ImageError::Exists { path: path.to_owned() });
        }
        Err(source) => return Err(ImageError::Io { action: "create", path: path.to_owned(), source }),
    };
    let filled =
        fill(&file, new, &layout, &header).and_then(|()| if new.sync { sync(&file, path) } else { Ok(()) });
    filled.map_err(|source| {
        // Ours alone: create_new made it a moment ago.
        let _ = std::fs::remove_file(path);
        ImageError::Io { action: "write", path: path.to_owned(), source }
    })
}

fn fill(file: &File, new: &NewImage, layout: &Layout, header: &[u8]) -> io::Result<()> {
    let cluster = 1u64 << new.cluster_bits;
    let table: Vec<u8> = (0..layout.refblocks)
        .flat_map(|block| ((1 + layout.reftable + block) * cluster).to_be_bytes())
        .collect();
    // The blocks stand one behind the other, so the counts of all clusters are one run.
    let counts = [0u8, 1].repeat(layout.total as usize);
    file.set_len(layout.total * cluster)?;
    file.write_all_at(&counts, (1 + layout.reftable) * cluster)?;
    file.write_all_at(&table, cluster)?;
    file.write_all_at(header, 0)
}

fn sync(file: &File, path: &Path) -> io::Result<()> {
    file.sync_all()?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

/// Changes the name and the format of an image's backing file, and nothing else: what `qemu-img rebase -u` does.
/// The guest sees the same disk only if the new backing file holds what the old one held.
///
/// Everything else in the header is kept. The new header area is written at once, so a killed run leaves the old or
/// the new name; the write is synced before the function returns.
///
/// # Errors
///
/// [`ImageError::InUse`] if a program holds QEMU's lock on the image, [`ImageError::Unclean`] if the image is dirty
/// or corrupt, [`ImageError::NoRoom`] if the name does not fit in the first cluster (or the first 64 KiB), and what
/// [`inspect`](super::inspect) answers for a file that is not a usable qcow2 image.
pub fn rewrite_backing(path: &Path, backing: &Backing) -> Result<(), ImageError> {
    check_backing(backing).map_err(|reason| ImageError::Invalid { path: path.to_owned(), reason })?;
    let (file, metadata, bytes) = read_start(path, true)?;
    let header = ImageHeader::parse(&bytes, metadata.len()).map_err(|source| match source {
        HeaderError::NotQcow2 => ImageError::WrongFormat { path: path.to_owned(), wanted: DiskFormat::Qcow2 },
        source => ImageError::Header { path: path.to_owned(), source },
    })?;
    if header.encryption != Encryption::None {
        return Err(ImageError::Encrypted { path: path.to_owned() });
    }
    if header.dirty || header.corrupt {
        let state = if header.corrupt { "corrupt" } else { "dirty" };
        return Err(ImageError::Unclean { path: path.to_owned(), state });
    }
    let io_error = |action| move |source| ImageError::Io { action, path: path.to_owned(), source };
    if kld_core::lock::held_by_qemu(&file).map_err(io_error("ask for locks on"))? {
        return Err(ImageError::InUse { path: path.to_owned() });
    }

    let mut area = bytes[..header.header_length].to_vec();
    if header.version >= 3 {
        area[88..96].copy_from_slice(&(header.autoclear_features & AUTOCLEAR_KNOWN).to_be_bytes());
    }
    let room = (header.cluster_size() as usize).min(HEADER_READ);
    append_names(&mut area, &header.extensions, Some(backing), room)
        .map_err(|_| ImageError::NoRoom { path: path.to_owned() })?;
    // Zeros over what is left of a longer old name.
    area.resize(area.len().max(header.area_end), 0);
    file.write_all_at(&area, 0).map_err(io_error("write"))?;
    file.sync_data().map_err(io_error("sync"))
}

#[cfg(test)]
#[allow(clippy::disallowed_types)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::process::Command;

    use super::super::{ImageFormat, chain, inspect, is_empty_overlay};
    use super::*;

    /// Runs a program of QEMU, which the tests require, and returns what it printed.
    fn qemu(program: &str, args: &[&str]) -> String {
        let output = Command::new(program).args(args).output().expect("the tests need qemu-utils");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {args:?}\n{text}\n{error}");
        text
    }

    fn base(path: PathBuf) -> Backing {
        Backing { path, format: DiskFormat::Qcow2 }
    }

    #[test]
    fn qemu_finds_nothing_to_complain_about_in_any_shape() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.qcow2");
        let name = path.to_str().unwrap();
        for (size, cluster_bits, extended_l2) in [
            (512, 16, false),
            (10 << 30, 16, false),
            (64 << 40, 16, false),
            (10 << 30, 16, true),
            (64 << 40, 17, true),
            (100 << 30, 9, false),
            (1 << 30, 12, false),
            (64 << 40, 21, false),
            ((10 << 30) + 1, 16, false),
        ] {
            let new = NewImage { cluster_bits, extended_l2, ..NewImage::disk(size) };
            create(&path, &new).unwrap();
            let checked = qemu("qemu-img", &["check", "-f", "qcow2", name]);
            assert!(checked.contains("No errors were found"), "{checked}");
            let info = qemu("qemu-img", &["info", "--output=json", name]);
            let size = size.next_multiple_of(512);
            assert!(info.contains(&format!("\"virtual-size\": {size}")), "{info}");
            assert!(
                info.contains("\"compat\": \"1.1\"") && info.contains("\"lazy-refcounts\": false"),
                "{info}"
            );
            assert!(std::fs::metadata(&path).unwrap().blocks() * 512 <= 1 << 20, "the image is sparse");
            assert!(is_empty_overlay(&path).unwrap());
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn an_overlay_shows_its_base_and_takes_writes() {
        let folder = tempfile::tempdir().unwrap();
        let (below, above) = (folder.path().join("base.qcow2"), folder.path().join("over lay.qcow2"));
        let (base_name, name) = (below.to_str().unwrap(), above.to_str().unwrap());
        create(&below, &NewImage::disk(1 << 30)).unwrap();
        qemu("qemu-io", &["-f", "qcow2", "-c", "write -P 7 0 1M", base_name]);
        create(&above, &NewImage { sync: true, ..NewImage::overlay(2 << 30, base(below.clone())) }).unwrap();
        assert!(is_empty_overlay(&above).unwrap());

        qemu("qemu-io", &["-f", "qcow2", "-c", "write -P 9 64k 64k", "-c", "write -P 3 1536M 4k", name]);
        let read = qemu(
            "qemu-io",
            &[
                "-f",
                "qcow2",
                "-c",
                "read -P 7 0 64k",
                "-c",
                "read -P 9 64k 64k",
                "-c",
                "read -P 3 1536M 4k",
                name,
            ],
        );
        assert!(!read.contains("verification failed"), "{read}");
        assert!(qemu("qemu-img", &["check", name]).contains("No errors were found"));
        assert!(!is_empty_overlay(&above).unwrap());
        let images = chain(&above).unwrap();
        assert_eq!(images.iter().map(|image| image.path.clone()).collect::<Vec<_>>(), [above, below]);
    }

    #[test]
    fn what_exists_is_never_touched_not_even_a_dangling_link() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.qcow2");
        std::fs::write(&path, "mine").unwrap();
        assert!(matches!(create(&path, &NewImage::disk(512)), Err(ImageError::Exists { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path().join("nowhere"), &link).unwrap();
        assert!(matches!(create(&link, &NewImage::disk(512)), Err(ImageError::Exists { .. })));
    }

    #[test]
    fn a_new_image_is_its_owner_s_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.qcow2");
        create(&path, &NewImage::disk(512)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_the_format_cannot_hold_is_refused_and_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.qcow2");
        let refusal = |new: NewImage| {
            let error = create(&path, &new).unwrap_err().to_string();
            assert!(!path.exists());
            error.split_once(": ").unwrap().1.to_owned()
        };
        assert_eq!(refusal(NewImage::disk(0)), "a disk cannot have the size 0");
        assert!(refusal(NewImage::disk(u64::MAX)).contains("too large"));
        assert!(refusal(NewImage { cluster_bits: 9, ..NewImage::disk(1 << 40) }).contains("too large"));
        assert!(refusal(NewImage { cluster_bits: 22, ..NewImage::disk(512) }).contains("9 to 21"));
        assert!(
            refusal(NewImage { cluster_bits: 13, extended_l2: true, ..NewImage::disk(512) })
                .contains("16 KiB")
        );
        assert!(refusal(NewImage::overlay(512, base("base.qcow2".into()))).contains("not absolute"));
        let long = PathBuf::from(format!("/{}", "a".repeat(1023)));
        assert!(refusal(NewImage::overlay(512, base(long.clone()))).contains("1024 bytes"));
        let small = NewImage {
            cluster_bits: 9,
            ..NewImage::overlay(512, base(format!("/{}", "a".repeat(500)).into()))
        };
        assert!(refusal(small).contains("does not fit"));
    }

    #[test]
    fn rewriting_the_backing_file_changes_the_name_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let long = at(&format!("base-{}", "x".repeat(200)));
        for path in [at("a.qcow2"), long.clone()] {
            create(&path, &NewImage::disk(1 << 30)).unwrap();
        }
        std::fs::write(at("raw"), vec![5; 1 << 20]).unwrap();
        let top = at("top.qcow2");
        // qemu-img's own overlay: it carries a feature name table, which must survive.
        qemu(
            "qemu-img",
            &[
                "create",
                "-qf",
                "qcow2",
                "-F",
                "qcow2",
                "-b",
                at("a.qcow2").to_str().unwrap(),
                top.to_str().unwrap(),
            ],
        );
        qemu("qemu-io", &["-f", "qcow2", "-c", "write -P 1 0 64k", top.to_str().unwrap()]);
        let header = |path: &Path| match inspect(path).unwrap().format {
            ImageFormat::Qcow2(header) => header,
            ImageFormat::Raw => unreachable!(),
        };
        let before = header(&top);
        for (path, format) in
            [(long, DiskFormat::Qcow2), (at("raw"), DiskFormat::Raw), (at("a.qcow2"), DiskFormat::Qcow2)]
        {
            rewrite_backing(&top, &Backing { path: path.clone(), format }).unwrap();
            let after = header(&top);
            assert_eq!(after.backing_file.as_deref(), Some(path.as_os_str()));
            assert_eq!(after.backing_format.as_deref().unwrap(), format.as_str());
            assert_eq!(after.extensions.len(), before.extensions.len());
            assert!(qemu("qemu-img", &["check", top.to_str().unwrap()]).contains("No errors"));
            assert_eq!(chain(&top).unwrap().len(), 2);
        }
        assert_eq!(header(&top).l1_table_offset, before.l1_table_offset);
        let read = qemu("qemu-io", &["-f", "qcow2", "-c", "read -P 1 0 64k", top.to_str().unwrap()]);
        assert!(!read.contains("verification failed"), "{read}");
    }

    #[test]
    fn a_disk_without_a_backing_file_can_be_given_one() {
        let folder = tempfile::tempdir().unwrap();
        let (below, above) = (folder.path().join("a"), folder.path().join("b"));
        create(&below, &NewImage::disk(1 << 20)).unwrap();
        create(&above, &NewImage::disk(1 << 20)).unwrap();
        rewrite_backing(&above, &base(below)).unwrap();
        assert!(qemu("qemu-img", &["check", above.to_str().unwrap()]).contains("No errors"));
        assert_eq!(chain(&above).unwrap().len(), 2);
    }

    #[test]
    fn a_name_that_does_not_fit_the_first_cluster_is_refused_and_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("small.qcow2");
        create(&path, &NewImage { cluster_bits: 9, ..NewImage::disk(1 << 20) }).unwrap();
        let before = std::fs::read(&path).unwrap();
        let error = rewrite_backing(&path, &base(format!("/{}", "a".repeat(500)).into())).unwrap_err();
        assert!(matches!(error, ImageError::NoRoom { .. }));
        assert!(error.hint().unwrap().contains("qemu-img rebase -u"));
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn a_dirty_image_and_a_raw_one_keep_their_headers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.qcow2");
        create(&path, &NewImage::disk(1 << 20)).unwrap();
        OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&[1], 79).unwrap();
        let error = rewrite_backing(&path, &base("/b".into())).unwrap_err().to_string();
        assert!(error.ends_with("is marked dirty by the program that wrote it last"), "{error}");
        std::fs::write(&path, [0; 4096]).unwrap();
        let error = rewrite_backing(&path, &base("/b".into())).unwrap_err().to_string();
        assert!(error.ends_with("is not qcow2"), "{error}");
    }

    #[test]
    fn a_clone_s_overlay_is_made_in_no_time() {
        let folder = tempfile::tempdir().unwrap();
        let start = std::time::Instant::now();
        for number in 0..100 {
            let new = NewImage::overlay(10 << 30, base("/base.qcow2".into()));
            create(&folder.path().join(number.to_string()), &new).unwrap();
        }
        let each = start.elapsed() / 100;
        println!("one overlay: {each:?}");
        assert!(each < std::time::Duration::from_millis(5), "{each:?}");
    }
}
