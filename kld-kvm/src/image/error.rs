use std::io;
use std::path::PathBuf;

use kld_core::Error;
use kld_core::error::Trying;

use super::DiskFormat;

/// What is wrong with the bytes of a qcow2 header. It knows no path; [`ImageError::Header`] adds it.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum HeaderError {
    /// The first four bytes are not `QFI\xfb`.
    #[error("it does not begin with the qcow2 magic")]
    NotQcow2,
    /// A version other than 2 and 3.
    #[error("its qcow version is {0}, and only 2 and 3 are known")]
    Version(u32),
    /// The bytes end before the header, its extensions or the backing file's name do.
    #[error("it ends in the middle of the {0}")]
    Truncated(&'static str),
    /// A field holds a value that no image can have.
    #[error("its {field} is {value}, but {rule}")]
    Field {
        /// The field's name in the format's description.
        field: &'static str,
        /// What it holds.
        value: u64,
        /// What is allowed.
        rule: &'static str,
    },
    /// Incompatible feature bits that this parser does not know: the format forbids to open such an image.
    #[error("it uses unknown incompatible features (bits {0:#x})")]
    UnknownFeatures(u64),
    /// Its guest data is in another file.
    #[error("its data is in an external data file")]
    ExternalDataFile,
    /// A name that is not one.
    #[error("its backing file name is not usable ({0})")]
    BackingName(&'static str),
}

/// What can go wrong with an image file, one sentence each.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A system call failed.
    #[error("cannot {action} '{}'", path.display())]
    Io {
        /// What was being done, as a verb: "open", "read".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A folder, device, socket, pipe or symbolic link.
    #[error("'{}' is a {kind}, not a regular file", path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// Its header is damaged, or uses what kld does not support.
    #[error("'{}' is not a qcow2 image that kld can use: {source}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: HeaderError,
    },
    /// A known format that is neither qcow2 nor raw.
    #[error("'{}' is a {format} file, not a qcow2 image", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The format's name.
        format: &'static str,
    },
    /// No known magic. It may be raw, but only its owner can say so.
    #[error("'{}' is not a qcow2 image", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
    },
    /// The image is encrypted.
    #[error("'{}' is an encrypted image, which kld does not support", path.display())]
    Encrypted {
        /// The file.
        path: PathBuf,
    },
    /// The backing file is not a file name, but a protocol or a `json:` description.
    #[error("the backing file of '{}' is '{name}', which is not a file of this host", path.display())]
    BackingProtocol {
        /// The overlay.
        path: PathBuf,
        /// What it names, printable.
        name: String,
    },
    /// The overlay names a backing format that is neither qcow2 nor raw.
    #[error("the backing format of '{}' is '{format}', and only qcow2 and raw are supported", path.display())]
    BackingFormat {
        /// The overlay.
        path: PathBuf,
        /// What it names, printable.
        format: String,
    },
    /// The overlay does not say in which format its backing file is, and guessing is not safe.
    #[error("'{}' does not say in which format its backing file '{}' is", path.display(), backing.display())]
    BackingFormatMissing {
        /// The overlay.
        path: PathBuf,
        /// Its backing file.
        backing: PathBuf,
    },
    /// A backing chain that comes back to a file it has been at.
    #[error("the backing chain of '{}' comes back to '{}'", path.display(), again.display())]
    Loop {
        /// The top of the chain.
        path: PathBuf,
        /// The file that was met twice.
        again: PathBuf,
    },
    /// A backing chain longer than [`MAX_CHAIN`](super::MAX_CHAIN).
    #[error("the backing chain of '{}' is longer than {limit} files", path.display())]
    TooDeep {
        /// The top of the chain.
        path: PathBuf,
        /// The limit.
        limit: usize,
    },
    /// The file is there already.
    #[error("'{}' exists already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// What was asked for cannot be an image.
    #[error("cannot make the image '{}': {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The image needs a repair before its header may be changed.
    #[error("'{}' is marked {state} by the program that wrote it last", path.display())]
    Unclean {
        /// The file.
        path: PathBuf,
        /// "dirty" or "corrupt".
        state: &'static str,
    },
    /// The new header does not fit into what may be rewritten in one go.
    #[error("the header of '{}' has no room for the new backing file name", path.display())]
    NoRoom {
        /// The file.
        path: PathBuf,
    },
    /// Another process (a running machine, or a qemu-img) holds QEMU's lock on the image.
    #[error("'{}' is in use by another program", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The operation needs a qcow2 image and was told that the file is raw, or the reverse.
    #[error("'{}' is not {wanted}", path.display())]
    WrongFormat {
        /// The file.
        path: PathBuf,
        /// What was needed.
        wanted: DiskFormat,
    },
}

impl ImageError {
    /// What a person can do about it, where there is something.
    pub fn hint(&self) -> Option<String> {
        let quoted = |path: &PathBuf| format!("'{}'", path.display());
        Some(match self {
            ImageError::Foreign { path, format } => match *format {
                "gzip" => format!("unpack it first: gunzip --keep {}", quoted(path)),
                "xz" => format!("unpack it first: xz --decompress --keep {}", quoted(path)),
                "zstd" => format!("unpack it first: zstd --decompress {}", quoted(path)),
                "bzip2" => format!("unpack it first: bunzip2 --keep {}", quoted(path)),
                "zip" => format!("unpack it first: unzip {}", quoted(path)),
                "ELF program" | "LUKS container" => return None,
                _ => format!("convert it first: qemu-img convert -O qcow2 {} NEW.qcow2", quoted(path)),
            },
            ImageError::Unknown { .. } => {
                "if it is a raw image, say so; kld never guesses that a file is raw".into()
            }
            ImageError::NotAFile { kind: "symbolic link", .. } => {
                "name the file that the link points to".into()
            }
            ImageError::Header { path, source: HeaderError::ExternalDataFile } => {
                format!("make one file of it: qemu-img convert -O qcow2 {} NEW.qcow2", quoted(path))
            }
            ImageError::Encrypted { path } => {
                format!("decrypt it: qemu-img convert with --object secret, from {}", quoted(path))
            }
            ImageError::BackingProtocol { path, .. } => {
                format!("copy it into one file: qemu-img convert -O qcow2 {} NEW.qcow2", quoted(path))
            }
            ImageError::BackingFormatMissing { path, backing } => format!(
                "say it once: qemu-img rebase -u -F qcow2 -b {} {} (or -F raw)",
                quoted(backing),
                quoted(path)
            ),
            ImageError::Unclean { path, .. } => format!("repair it: qemu-img check -r all {}", quoted(path)),
            ImageError::NoRoom { path } => {
                format!("use a shorter path, or qemu-img rebase -u -F FORMAT -b BACKING {}", quoted(path))
            }
            ImageError::InUse { .. } => "stop the machine that uses it first".into(),
            _ => return None,
        })
    }
}

impl From<ImageError> for Error {
    fn from(error: ImageError) -> Error {
        let hint = error.hint();
        let told = match error {
            ImageError::Io { action, path, source } => {
                let what = || format!("cannot {action} {}", path.display());
                Err::<(), _>(source).trying(what).err().unwrap_or_else(|| Error::message(what()))
            }
            error @ ImageError::InUse { .. } => Error::busy(error),
            error => Error::message(error),
        };
        match hint {
            Some(hint) => told.with_hint(hint),
            None => told,
        }
    }
}
