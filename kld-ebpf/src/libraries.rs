//! The files whose functions probes hang on: the libraries that processes have mapped, as those processes see them.

use std::path::{Path, PathBuf};

use kld_core::{Error, Result};

use crate::names;

/// Where bash is.
pub const BASH: &str = "/bin/bash";

/// Whether a file's name is that of a C library, GNU's or musl's.
pub fn is_libc(name: &str) -> bool {
    name.starts_with("libc.so") || name.starts_with("libc-") || name.starts_with("ld-musl-")
}

/// The files that fit of those that these processes have mapped, each once; where no process is given, this one's. Those of
/// a container are found in its root.
pub fn of_processes(pids: &[u32], fits: fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let own = [std::process::id()];
    let mut found = Vec::new();
    for pid in if pids.is_empty() { &own } else { pids } {
        let path = format!("/proc/{pid}/maps");
        names::check_process(*pid)?;
        let maps = std::fs::read_to_string(&path).map_err(|cause| {
            Error::failed(format!("cannot tell which libraries process {pid} uses"), cause)
                .with_hint("run it as root, or name the library's file")
        })?;
        let root = Path::new("/proc").join(pid.to_string()).join("root");
        for mapped in mapped(&maps, fits) {
            let inside = root.join(mapped.strip_prefix("/").unwrap_or(mapped));
            // What lies at the same place here needs no way through the process, which may end.
            let path = if is_same(mapped, &inside) { mapped.to_path_buf() } else { inside };
            if !found.contains(&path) {
                found.push(path);
            }
        }
    }
    match found.is_empty() {
        true => Err(Error::usage("no such library is mapped there").with_hint("name the library's file")),
        false => Ok(found),
    }
}

/// The files that fit in what /proc/PID/maps says, each once.
fn mapped(maps: &str, fits: fn(&str) -> bool) -> Vec<&Path> {
    let path = |line| Some(Path::new(str::splitn(line, 6, ' ').nth(5)?.trim_start()));
    let wanted = |path: &&Path| path.file_name().is_some_and(|name| fits(&name.to_string_lossy()));
    let mut found: Vec<&Path> = maps.lines().filter_map(path).filter(wanted).collect();
    found.dedup();
    found
}

/// Whether two paths lead to one file.
fn is_same(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let number = |path: &Path| std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    number(one).is_some_and(|own| number(other) == Some(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_is_found_once_in_what_is_mapped() {
        let maps = "7f00-7f10 r--p 00000000 fe:00 12  /usr/lib/libc.so.6\n\
                    7f10-7f20 r-xp 00010000 fe:00 12  /usr/lib/libc.so.6\n\
                    7f30-7f40 r--p 00000000 fe:00 13  /usr/lib/a folder/libm.so.6\n\
                    7f50-7f60 rw-p 00000000 00:00 0 \n\
                    7f70-7f80 rw-p 00000000 00:00 0  [heap]\n";
        assert_eq!(mapped(maps, is_libc), [Path::new("/usr/lib/libc.so.6")]);
        assert_eq!(mapped(maps, |name| name.starts_with("libm")), [Path::new("/usr/lib/a folder/libm.so.6")]);
    }

    #[test]
    fn libraries_that_nobody_has_mapped_are_told_of() {
        assert!(of_processes(&[], |_| false).unwrap_err().hint().is_some());
        assert!(of_processes(&[0x7fff_fff0], is_libc).is_err());
    }
}
