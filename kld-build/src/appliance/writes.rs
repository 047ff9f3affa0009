//! What a power cut leaves of a disk with a cache that it may lose: all that was written before the guest's last flush,
//! and of what came after it as much as chance has it.
//!
//! QEMU records a disk's writes in the format of Linux's dm-log-writes (`blklogwrites`).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use kld_core::error::Trying;
use kld_core::{Error, Result};
use nix::fcntl::{FallocateFlags, fallocate};

use super::qemu::{Disk, disk_file, record_file};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const SECTOR: u64 = 512;

/// An entry of the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    /// Where it was written to, in bytes.
    at: u64,
    /// How many bytes.
    length: u64,
    deed: Deed,
    /// Where the record has what was written.
    data: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Write,
    Discard,
    Flush,
}

/// The record of a disk's writes since its guest was started.
#[derive(Debug)]
pub struct Writes {
    file: File,
    path: PathBuf,
    entries: Vec<Entry>,
}

/// What was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// The writes and discards since the last flush.
    pub unsettled: usize,
    /// How many of them were lost.
    pub lost: usize,
}

impl Writes {
    /// Reads the record of a disk that was [recorded](super::Disks::Recorded) in this folder, after its guest's end.
    ///
    /// # Errors
    /// Also where the guest was killed just as an earlier entry than its last flush was being recorded.
    pub fn read(folder: &Path, disk: &Disk) -> Result<Writes> {
        let path = record_file(folder, disk);
        let what = || format!("cannot read the record of writes {}", path.display());
        let file = File::open(&path).trying(what)?;
        let length = file.metadata().trying(what)?.len();
        let mut entries = Vec::new();
        let sector = |at: u64| -> Result<[u8; 32]> {
            let mut head = [0; 32];
            file.read_exact_at(&mut head, at).trying(what).map(|()| head)
        };
        // Nothing was written.
        if length < SECTOR {
            return Ok(Writes { file, path, entries });
        }
        let (promised, mut at) =
            (super_block(&sector(0)?).ok_or_else(|| Error::failed(what(), "it is none"))?, SECTOR);
        while at + SECTOR <= length {
            let Some((entry, next)) = entry(&sector(at)?, at) else { break };
            if next > length {
                break;
            }
            entries.push(entry);
            at = next;
        }
        match (entries.len() as u64) < promised {
            true => Err(Error::failed(what(), "it ends before the last flush")),
            false => Ok(Writes { file, path, entries }),
        }
    }

    /// Makes of the disk in `base`, as it was at the guest's start, the one in `folder` after the cut: with all up to
    /// the last flush, and of each later write what `kept` says.
    pub fn cut(
        &self,
        base: &Path,
        folder: &Path,
        disk: &Disk,
        mut kept: impl FnMut() -> bool,
    ) -> Result<Loss> {
        let (from, to) = (disk_file(base, disk), disk_file(folder, disk));
        copy_sparse(&from, &to)?;
        let what = || format!("cannot replay {}", self.path.display());
        let disk = File::options().write(true).open(&to).trying(what)?;
        let settled = self.entries.iter().rposition(|entry| entry.deed == Deed::Flush).map_or(0, |at| at + 1);
        let mut loss = Loss { unsettled: 0, lost: 0 };
        for (number, entry) in self.entries.iter().enumerate() {
            if number >= settled {
                loss.unsettled += 1;
                if !kept() {
                    loss.lost += 1;
                    continue;
                }
            }
            self.replay(entry, &disk).trying(what)?;
        }
        Ok(loss)
    }

    fn replay(&self, entry: &Entry, disk: &File) -> std::io::Result<()> {
        match entry.deed {
            Deed::Flush => Ok(()),
            Deed::Discard => {
                let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                Ok(fallocate(disk, hole, entry.at as i64, entry.length as i64)?)
            }
            Deed::Write => {
                let mut bytes = vec![0; entry.length as usize];
                self.file.read_exact_at(&mut bytes, entry.data)?;
                disk.write_all_at(&bytes, entry.at)
            }
        }
    }
}

fn number(bytes: &[u8; 32], field: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[8 * field..8 * field + 8]);
    u64::from_le_bytes(word)
}

/// How many entries there are at least; `None` where this is no record, or one of other sectors. QEMU writes it with
/// the first flush: until then there are entries alone.
fn super_block(head: &[u8; 32]) -> Option<u64> {
    if *head == [0; 32] {
        return Some(0);
    }
    let sector = number(head, 3) & 0xffff_ffff;
    (number(head, 0) == MAGIC && number(head, 1) == 1 && sector == SECTOR).then(|| number(head, 2))
}

/// The entry whose head is at `at`, and where the next one is; `None` at the end.
fn entry(head: &[u8; 32], at: u64) -> Option<(Entry, u64)> {
    let [place, count, flags] = [0, 1, 2].map(|field| number(head, field));
    let deed = match flags {
        0 | 2 if count > 0 => Deed::Write,
        1 => Deed::Flush,
        4 => Deed::Discard,
        _ => return None,
    };
    let (at_byte, length) = (place.checked_mul(SECTOR)?, count.checked_mul(SECTOR)?);
    let data = at.checked_add(SECTOR)?;
    let next = if deed == Deed::Write { data.checked_add(length)? } else { data };
    Some((Entry { at: at_byte, length, deed, data }, next))
}

/// Copies a file without its holes.
pub(super) fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    kld_core::exec::Exec::new("cp")
        .args(["--sparse=always", "--"])
        .args([from, to])
        .limit(std::time::Duration::from_secs(600))
        .run()
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kld_core::ByteSize;

    fn head(fields: [u64; 4]) -> Vec<u8> {
        let mut sector: Vec<u8> = fields.iter().flat_map(|field| field.to_le_bytes()).collect();
        sector.resize(SECTOR as usize, 0);
        sector
    }

    fn write(place: u64, byte: u8) -> Vec<u8> {
        [head([place, 1, 0, 0]), vec![byte; SECTOR as usize]].concat()
    }

    /// A disk of two sectors that hold 0, the record of what was written to them, and what a cut leaves.
    fn cut(promised: u64, entries: &[Vec<u8>], kept: bool) -> Result<(Vec<u8>, Loss)> {
        cut_with(head([MAGIC, 1, promised, SECTOR]), entries, kept)
    }

    fn cut_with(first: Vec<u8>, entries: &[Vec<u8>], kept: bool) -> Result<(Vec<u8>, Loss)> {
        let disk = Disk { serial: "data".into(), size: ByteSize::new(2 * SECTOR) };
        let (base, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(disk_file(base.path(), &disk), vec![0; 2 * SECTOR as usize]).unwrap();
        let record = [vec![first], entries.to_vec()].concat().concat();
        std::fs::write(record_file(after.path(), &disk), record).unwrap();
        let loss = Writes::read(after.path(), &disk)?.cut(base.path(), after.path(), &disk, || kept)?;
        let bytes = std::fs::read(disk_file(after.path(), &disk)).unwrap();
        Ok((vec![bytes[0], bytes[SECTOR as usize]], loss))
    }

    #[test]
    fn what_was_flushed_stays_and_the_rest_is_left_to_chance() {
        let entries = [write(0, 1), head([0, 0, 1, 0]), write(1, 2), write(0, 3)];
        assert_eq!(cut(2, &entries, false).unwrap(), (vec![1, 0], Loss { unsettled: 2, lost: 2 }));
        assert_eq!(cut(2, &entries, true).unwrap(), (vec![3, 2], Loss { unsettled: 2, lost: 0 }));
        let discarded = [write(0, 1), head([0, 1, 4, 0]), head([0, 0, 1, 0])];
        assert_eq!(cut(3, &discarded, false).unwrap().0, [0, 0]);
    }

    #[test]
    fn before_the_first_flush_all_is_left_to_chance() {
        let lost = cut_with(head([0; 4]), &[write(0, 1)], false).unwrap();
        assert_eq!(lost, (vec![0, 0], Loss { unsettled: 1, lost: 1 }));
        assert!(cut_with(head([1, 1, 0, SECTOR]), &[], true).is_err());
    }

    #[test]
    fn an_entry_that_was_being_recorded_ends_the_record() {
        let entries = [write(0, 1), head([0; 4]), write(1, 2)];
        assert_eq!(cut(1, &entries, true).unwrap().0, [1, 0]);
        let error = cut(3, &entries, true).unwrap_err().to_string();
        assert!(error.ends_with("it ends before the last flush"), "{error}");
    }
}
