//! Disk image files: reading qcow2 headers, walking backing chains, and making empty images without starting a
//! program.
//!
//! The format is QEMU's `docs/interop/qcow2.rst`. The parser ([`ImageHeader::parse`]) is pure and bounded; the
//! functions that open files stand beside it. What this module writes is the smallest image that `qemu-img check`
//! accepts: a header, a refcount table, its blocks and an L1 table of zeros.

mod create;
mod error;
mod file;
mod header;
mod start;

pub use create::{Backing, DEFAULT_CLUSTER_BITS, MAX_BACKING_NAME, NewImage, create, rewrite_backing};
pub use error::{HeaderError, ImageError};
pub use file::{
    FileId, Image, ImageFormat, MAX_CHAIN, chain, chain_as, foreign_format, in_use, inspect, inspect_as,
    is_empty_overlay,
};
pub use header::{Compression, DiskFormat, Encryption, Extension, HEADER_READ, ImageHeader, QCOW2_MAGIC};
pub use start::Start;
