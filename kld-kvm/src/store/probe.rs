use kld_core::exec::Exec;
use kld_core::{ByteSize, Probe};
use nix::errno::Errno;
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};

use super::layout::Layout;

/// Whether volumes can be made in the store's folder, or the folder itself where it is missing.
pub(super) fn probe(layout: &Layout) -> Probe {
    const SUBJECT: &str = "store dir";
    let root = layout.root();
    let missing = !root.exists();
    let Some(there) = root.ancestors().find(|folder| folder.exists()) else {
        return Probe::absent(
            SUBJECT,
            format!("{} cannot be reached", root.display()),
            "name another folder",
        );
    };
    let shown = there.display();
    if !there.is_dir() {
        return Probe::absent(
            SUBJECT,
            format!("{shown} is not a folder"),
            "move it away, or name another folder",
        );
    }
    if let Err(errno) = access(there, AccessFlags::W_OK | AccessFlags::X_OK) {
        let finding = format!("{shown} cannot be written: {}", errno.desc());
        let remedy = match errno {
            Errno::EROFS => "mount the file system read-write, or name another folder in the configuration",
            _ => "run it as root, or name another folder in the configuration",
        };
        return Probe::absent(SUBJECT, finding, remedy);
    }
    let free = statvfs(there).map_or_else(
        |_| String::new(),
        |free| format!(", {} free", ByteSize::new(free.blocks_available() * free.fragment_size())),
    );
    let made = if missing { " (made when it is needed)" } else { "" };
    let finding = format!("qcow2 files in {}{made}{free}", root.display());
    if Exec::which("qemu-img").is_none() {
        let finding =
            format!("{finding}; without qemu-img there are no full copies, and nothing can be merged");
        return Probe::limited(SUBJECT, finding, "install the package that brings qemu-img (qemu-utils)");
    }
    Probe::serves(SUBJECT, finding)
}
