//! What a new disk starts from.

use std::path::Path;

use kld_core::store::{NewVolume, VolumeFormat};
use kld_core::{ByteSize, Error, MachineName, Result};

use super::{DiskFormat, Image, inspect_as};

/// What a new disk will be.
#[derive(Debug)]
pub struct Start {
    /// The image that is copied, where it is not empty.
    pub image: Option<Image>,
    /// Its size in bytes.
    pub size: u64,
}

impl Start {
    /// Looks whether a disk can be made as it is wanted, whatever the store.
    ///
    /// # Errors
    /// [`Error::Refused`] where the image stands on another file; [`Error::Usage`] where no size is given, or one that
    /// is smaller than the image; [`Error::Failed`] where the image cannot be used.
    pub fn of(new: &NewVolume, machine: &MachineName) -> Result<Start> {
        let disk = || format!("the disk {} of {machine}", new.name);
        let how_large = "say how large it is, such as 10G";
        let (image, size) = match (&new.image, new.size) {
            (None, None) => {
                return Err(Error::usage(format!("{} has no size", disk())).with_hint(how_large));
            }
            (None, Some(size)) if size.bytes() == 0 => {
                return Err(Error::usage(format!("{} has the size 0", disk())).with_hint(how_large));
            }
            (None, Some(size)) => return Ok(Start { image: None, size: size.bytes() }),
            (Some((path, format)), size) => (image_to_copy(path, *format)?, size),
        };
        let size = size.map_or(image.virtual_size, ByteSize::bytes);
        if size < image.virtual_size {
            let path = new.image.iter().map(|(path, _)| path.display().to_string()).collect::<String>();
            let (size, least) = (ByteSize::new(size), ByteSize::new(image.virtual_size));
            return Err(Error::usage(format!(
                "{} would have {size}, and the image {path} has {least}",
                disk()
            ))
            .with_hint("a disk cannot be smaller than its image; leave out the size to take the image's"));
        }
        Ok(Start { image: Some(image), size })
    }
}

/// An image to start from. It must stand alone: what stands behind it is nothing that its owner shows us, and a
/// downloaded image could name any file of the host.
fn image_to_copy(path: &Path, format: VolumeFormat) -> Result<Image> {
    let shown = path.display();
    let format = match format {
        VolumeFormat::Qcow2 => DiskFormat::Qcow2,
        VolumeFormat::Raw => DiskFormat::Raw,
        VolumeFormat::Block => {
            return Err(Error::message(format!(
                "{shown} is a block device, and machines start from image files"
            ))
            .with_hint(format!("copy it into a file: qemu-img convert -O qcow2 {shown} NEW.qcow2")));
        }
    };
    let path = std::path::absolute(path)
        .map_err(|cause| Error::failed(format!("cannot find the image {shown}"), cause))?;
    let image = inspect_as(&path, format)?;
    let backing = image.header().and_then(|header| header.backing_file.as_deref());
    if let Some(backing) = backing {
        let backing: String =
            backing.to_string_lossy().chars().flat_map(char::escape_debug).take(200).collect();
        return Err(Error::refused(format!("the image {shown} stands on another file, '{backing}'"))
            .with_hint(format!("make one file of it: qemu-img convert -O qcow2 {shown} NEW.qcow2")));
    }
    if image.virtual_size == 0 {
        return Err(Error::message(format!("the image {shown} is empty")));
    }
    Ok(image)
}
