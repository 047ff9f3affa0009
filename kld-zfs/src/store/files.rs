//! The files in a machine's state.

use std::fs::File;

use kld_core::error::Trying;
use kld_core::store::StateFile;
use kld_core::timing::phase;
use kld_core::{Error, MachineName, Result, fsio};
use uuid::Uuid;

use super::layout::Layout;
use super::marker::Marker;
use super::work::Work;

/// Before anything is begun that could not be written down.
pub(super) fn refuse_read_only(layout: &Layout, name: &MachineName) -> Result<()> {
    let place = layout.state_dir(name);
    match nix::sys::statvfs::statvfs(&place) {
        Ok(state) if state.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY) => {
            let cause = "the pool is imported read-only, or the property readonly is on";
            Err(Error::failed(format!("cannot change {}", layout.machine(name)?), cause)
                .with_hint("import it without readonly=on"))
        }
        _ => Ok(()),
    }
}

/// Writes the state files of one machine; they are on the disk when this returns.
pub(super) fn write_files(
    layout: &Layout,
    work: &Work,
    name: &MachineName,
    files: &[StateFile],
) -> Result<()> {
    let files = || files.iter().filter(|file| file.set == *name);
    let before = Marker::read(layout, name, work.id)?;
    let listed = before.as_ref().map(|marker| marker.files.clone()).unwrap_or_default();
    // All that is in a born machine's state was made by this change.
    let born = work.is_born(name);
    for file in files().filter(|file| !born && !listed.contains(&file.path)) {
        let path = layout.state_file(name, &file.path)?;
        if path.symlink_metadata().is_ok() {
            return Err(Error::failed(format!("cannot create {}", path.display()), "it exists already")
                .with_hint("kld did not make it for this machine; move it away"));
        }
    }
    if !born {
        let mut marker = before.unwrap_or_default();
        marker.files.extend(files().map(|file| file.path.clone()));
        marker.write(layout, name, work.id)?;
    }
    for file in files() {
        let path = layout.state_file(name, &file.path)?;
        if let Some(folder) = path.parent() {
            fsio::create_dir_all(folder, 0o711)?;
        }
        fsio::remove_if_exists(&path)?;
        layout.deed()?;
        file.content.write_new(&path)?;
    }
    let place = layout.state_dir(name);
    let folder = File::open(&place).trying(|| format!("cannot open {}", place.display()))?;
    nix::unistd::syncfs(folder).trying(|| format!("cannot write {} to the disk", place.display()))
}

/// Removes what a change has put into the state of a machine that was there before.
pub(super) fn remove_files(layout: &Layout, name: &MachineName, id: Uuid) -> Result<()> {
    let place = layout.state_dir(name);
    for path in Marker::read(layout, name, id)?.unwrap_or_default().files {
        let path = layout.state_file(name, &path)?;
        if path.symlink_metadata().is_ok() {
            layout.deed()?;
            fsio::remove_if_exists(&path)?;
        }
        for folder in path.ancestors().skip(1).take_while(|above| *above != place) {
            fsio::remove_dir_if_empty(folder)?;
        }
    }
    Marker::remove(layout, name, id)?;
    settle_state(layout, name)
}

/// What was written to a machine's state survives a power cut when this returns: records and their like are renamed
/// into their place, and ZFS takes seconds to write that of its own accord.
pub(super) fn settle_state(layout: &Layout, name: &MachineName) -> Result<()> {
    let place = layout.state_dir(name);
    if place.is_dir() { phase("settle", || fsio::sync_dir(&place)) } else { Ok(()) }
}
