//! Definitions on the disk. libvirt's daemon writes a definition's file there before it takes the place of the old one,
//! but leaves the change of names to the file system, which may take seconds.

use std::fs::File;
use std::path::{Path, PathBuf};

use kld_core::Result;
use kld_core::error::Trying;

/// Makes the names in the daemon's folder of definitions durable. Whoever may not look into it leaves it to time.
pub(super) fn settle(uri: &str) -> Result<()> {
    let Some(folder) = folder(uri, std::env::var_os("HOME").map(PathBuf::from)) else { return Ok(()) };
    let Ok(open) = File::open(&folder) else { return Ok(()) };
    open.sync_all().trying(|| format!("cannot write the folder {} to the disk", folder.display()))
}

/// Where the daemon keeps definitions; `None` where it is one of another host.
fn folder(uri: &str, home: Option<PathBuf>) -> Option<PathBuf> {
    let (scheme, rest) = uri.split_once("://")?;
    let (host, path) = rest.split_once('/')?;
    let driver = scheme.split('+').next()?;
    match path.split('?').next()? {
        "system" if host.is_empty() => Some(Path::new("/etc/libvirt").join(driver)),
        "session" if host.is_empty() => Some(home?.join(".config/libvirt").join(driver)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_a_daemon_s_definitions_is_known_by_its_uri() {
        let of = |uri: &str| folder(uri, Some("/root".into())).map(|folder| folder.display().to_string());
        assert_eq!(of("qemu:///system").as_deref(), Some("/etc/libvirt/qemu"));
        assert_eq!(of("qemu+unix:///system?socket=/run/s").as_deref(), Some("/etc/libvirt/qemu"));
        assert_eq!(of("qemu:///session").as_deref(), Some("/root/.config/libvirt/qemu"));
        assert_eq!(of("qemu+ssh://root@other/system"), None);
        assert_eq!(of("nonsense"), None);
    }
}
