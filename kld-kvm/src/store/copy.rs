use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use kld_core::error::Trying;
use kld_core::exec::Exec;
use kld_core::{Error, Result, fsio};

use super::told;
use super::work::{Layer, disk_format};
use crate::image::{DiskFormat, in_use, inspect_as};

/// Large disks on slow storage take hours.
const LIMIT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Copies an image with all that it stands on to a new qcow2 file that stands alone, and grows its disk to `size`.
/// Shares the blocks where the file system can.
pub(super) fn copy(from: &Layer, to: &Path, size: Option<u64>) -> Result<()> {
    let target = fsio::create_new(to, 0o600)?;
    let copied = fill(from, to, &target).and_then(|()| match size {
        Some(size) => {
            run(Exec::new("qemu-img").args(["resize", "-q", "-f", "qcow2"]).arg(to).arg(size.to_string()))
        }
        None => Ok(()),
    });
    copied.inspect_err(|_| drop(std::fs::remove_file(to)))
}

fn fill(from: &Layer, to: &Path, target: &File) -> Result<()> {
    let image = inspect_as(&from.path, disk_format(from.format)).map_err(told)?;
    // Whatever a running guest writes could be torn; qemu-img asks for QEMU's locks and refuses that.
    let plain = image.header().is_some_and(|header| {
        header.backing_file.is_none() && header.snapshots == 0 && !header.dirty && !header.corrupt
    });
    if plain && !in_use(&from.path).map_err(told)? && reflink(&from.path, target)? {
        return Ok(());
    }
    let format = disk_format(from.format).as_str();
    run(Exec::new("qemu-img").args(["convert", "-q", "-f", format, "-O", "qcow2"]).arg(&from.path).arg(to))
}

/// Lets the target share all blocks of the source. False where the file system cannot, and nothing was done.
fn reflink(from: &Path, target: &File) -> Result<bool> {
    let source = File::open(from).trying(|| format!("cannot read {}", from.display()))?;
    // SAFETY: FICLONE takes a file descriptor by value and touches no memory of ours; both are open.
    let answer = unsafe { nix::libc::ioctl(target.as_raw_fd(), nix::libc::FICLONE, source.as_raw_fd()) };
    Ok(answer == 0)
}

/// Lets `child` stand on `onto`, or on nothing, with the same content.
pub(super) fn rebase(child: &Path, onto: Option<&Layer>) -> Result<()> {
    let rebase = Exec::new("qemu-img").args(["rebase", "-q", "-f", DiskFormat::Qcow2.as_str()]);
    run(match onto {
        Some(base) => {
            rebase.arg("-F").arg(disk_format(base.format).as_str()).arg("-b").arg(&base.path).arg(child)
        }
        None => rebase.args(["-b", ""]).arg(child),
    })
}

fn run(program: Exec) -> Result<()> {
    program.limit(LIMIT).run().map(drop).map_err(|error| {
        let text = error.to_string();
        if text.contains("No space left on device") {
            return error.with_hint("free some space there and try again");
        }
        if text.contains("Failed to get") {
            return Error::busy(text).with_hint("stop the machine that uses the file first");
        }
        error
    })
}
