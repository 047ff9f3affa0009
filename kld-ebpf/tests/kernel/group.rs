//! A control group of a test's own, of whichever version this host has.

use std::path::{Path, PathBuf};

/// A group, gone with its value.
#[derive(Debug)]
pub struct Group {
    folder: PathBuf,
    is_first: bool,
}

impl Group {
    /// A group that this controller limits; `None`, with the reason told, where none can be made here.
    pub fn new(controller: &str, name: &str) -> Option<Group> {
        let first = Path::new("/sys/fs/cgroup").join(controller);
        let is_first = first.join("cgroup.clone_children").exists();
        let root = if is_first { first } else { kld_ebpf::names::cgroup_root()? };
        let folder = root.join(format!("kld-{name}-{}", std::process::id()));
        if let Err(error) = std::fs::create_dir(&folder) {
            eprintln!("not tested: no control group can be made here: {error}");
            return None;
        }
        Some(Group { folder, is_first })
    }

    /// Writes a limit: the first version's file and what stands in it, or the second's. Whether that can be done here.
    pub fn limit(&self, first: (&str, &str), second: (&str, &str)) -> bool {
        let (file, value) = if self.is_first { first } else { second };
        let written = std::fs::write(self.folder.join(file), value);
        if let Err(error) = &written {
            eprintln!("not tested: {file} cannot be set here: {error}");
        }
        written.is_ok()
    }

    /// Its limit of memory, with none of swap.
    pub fn limit_memory(&self, bytes: u64) -> bool {
        let _ = std::fs::write(self.folder.join("memory.swap.max"), "0");
        let bytes = bytes.to_string();
        self.limit(("memory.limit_in_bytes", &bytes), ("memory.max", &bytes))
    }

    pub fn take(&self, pid: u32) {
        std::fs::write(self.folder.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    /// Its path below the hierarchy's root.
    pub fn path(&self) -> String {
        format!("/{}", self.folder.file_name().unwrap().to_str().unwrap())
    }

    /// Whether it is of the first version.
    pub fn is_first(&self) -> bool {
        self.is_first
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Processes that were killed leave it a moment later.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}
