//! Names for what the kernel calls by numbers: processes, control groups, containers and machines.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kld_core::error::Trying;
use kld_core::{Error, Result, fsio};

/// Every process and its parent.
pub fn parents() -> Vec<(u32, u32)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let stat = |pid: u32| fsio::read_bytes(Path::new(&format!("/proc/{pid}/stat")), 1 << 16).ok()?;
    pids.filter_map(|pid| Some((pid, parent(&String::from_utf8_lossy(&stat(pid)?))?))).collect()
}

/// The parent in /proc/PID/stat: `pid (name) state parent ...`, where the name may hold anything.
fn parent(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// These processes and all that descend from them.
pub fn with_descendants(pids: &[u32], parents: &[(u32, u32)]) -> Vec<u32> {
    let mut all = pids.to_vec();
    let mut at = 0;
    while let Some(parent) = all.get(at).copied() {
        let new = parents.iter().filter(|(pid, own)| *own == parent && *pid != parent);
        let new: Vec<u32> = new.map(|(pid, _)| *pid).filter(|pid| !all.contains(pid)).collect();
        all.extend(new);
        at += 1;
    }
    all
}

/// Fails where a number is no process's. That of a thread is told with its process: tools show both, and what happens is
/// looked for by the process.
pub(crate) fn check_process(pid: u32) -> Result<()> {
    let status = fsio::read_text(Path::new(&format!("/proc/{pid}/status")), 1 << 16).ok().flatten();
    match status.as_deref().and_then(process_of) {
        None => Err(Error::usage(format!("there is no process {pid}"))
            .with_hint("pgrep -a NAME tells the numbers of those that run")),
        Some(process) if process != pid => Err(Error::usage(format!("{pid} is a thread, not a process"))
            .with_hint(format!("its process is {process}; --comm chooses a thread by its name"))),
        Some(_) => Ok(()),
    }
}

/// The process in /proc/PID/status.
fn process_of(status: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

/// Where the second hierarchy of control groups is mounted.
pub fn cgroup_root() -> Option<PathBuf> {
    let text = fsio::read_text(Path::new("/proc/self/mountinfo"), 16 << 20).ok()??;
    mounted(&text, "cgroup2")
}

/// The mount point of a type of file system in /proc/self/mountinfo.
fn mounted(mountinfo: &str, kind: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        source.split(' ').next().filter(|found| *found == kind)?;
        mount.split(' ').nth(4).map(PathBuf::from)
    })
}

/// A control group's id and how deep it lies, by its folder: an absolute path, or one below the hierarchy's root.
pub(crate) fn cgroup(folder: &Path) -> Result<(u64, u32)> {
    let what = || format!("cannot trace the control group {}", folder.display());
    let root = cgroup_root().ok_or_else(|| {
        Error::failed(what(), "no control groups of the second version are mounted")
            .with_hint("mount -t cgroup2 none /sys/fs/cgroup")
    })?;
    // A folder's path below the root may itself begin with a slash, as /proc/PID/cgroup writes it.
    let below = folder.strip_prefix(&root).unwrap_or(folder);
    let below = below.strip_prefix("/").unwrap_or(below);
    let meta = match std::fs::metadata(root.join(below)) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
            return Err(Error::usage(format!("there is no control group {}", folder.display()))
                .with_hint(format!("control groups are the folders below {}", root.display())));
        }
        other => other.trying(what)?,
    };
    Ok((meta.ino(), below.components().count() as u32))
}

/// The control groups that are known by now, by their ids.
#[derive(Debug, Default)]
pub struct Cgroups {
    root: Option<PathBuf>,
    paths: HashMap<u64, PathBuf>,
}

impl Cgroups {
    /// Those that there are now. They are remembered, so that a group has its name when it is gone.
    pub fn look() -> Self {
        let mut all = Cgroups { root: cgroup_root(), paths: HashMap::new() };
        all.learn();
        all
    }

    fn learn(&mut self) {
        let Some(root) = &self.root else { return };
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            let Ok(meta) = std::fs::metadata(&folder) else { continue };
            let path = folder.strip_prefix(root).map_or_else(|_| folder.clone(), Path::to_path_buf);
            self.paths.insert(meta.ino(), path);
            let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
            let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            folders.extend(below.map(|entry| entry.path()));
        }
    }

    /// A group's path below the root. Looks again for one that is not known yet.
    pub fn path(&mut self, id: u64) -> Option<&Path> {
        if !self.paths.contains_key(&id) {
            self.learn();
            // One that is gone by now is not looked for again and again.
            self.paths.entry(id).or_default();
        }
        self.paths.get(&id).map(PathBuf::as_path)
    }

    /// The outermost group of a container or machine, by the name that [`owner`] gives or a longer id.
    pub fn of(&self, name: &str) -> Option<PathBuf> {
        // An id is known by its first 12 digits, and may be given by fewer or by all.
        let is_id = name.len() >= 4 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        let cut = if is_id { &name[..name.len().min(12)] } else { name };
        let fits = |owner: String| owner == name || is_id && owner.len() == 12 && owner.starts_with(cut);
        let is_of = |path: &&PathBuf| owner(path).is_some_and(fits);
        let short = |path: &PathBuf| path.components().count();
        self.paths.values().filter(is_of).min_by_key(|path| short(path)).cloned()
    }

    /// The container or the machine that a group is of.
    pub fn owner(&mut self, id: u64) -> Option<String> {
        self.path(id).and_then(owner)
    }
}

/// The container or machine in a control group's path: the first 12 digits of a container's id, as the tools show
/// it, or a machine's name.
pub fn owner(path: &Path) -> Option<String> {
    path.components().rev().find_map(|part| {
        let part = part.as_os_str().to_str()?;
        let name = part.strip_suffix(".scope").or_else(|| part.strip_suffix(".slice")).unwrap_or(part);
        // systemd-machined's names: machine-qemu\x2d3\x2dweb.scope is libvirt's third, web.
        if let Some(machine) = name.strip_prefix("machine-") {
            let name = machine.replace("\\x2d", "-");
            let tail = name.strip_prefix("qemu-").and_then(|tail| tail.split_once('-'));
            return Some(tail.map_or(name.clone(), |(_, name)| name.to_string()));
        }
        let id = name.rsplit(['-', ':']).next().unwrap_or(name);
        let is_id = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_id.then(|| id[..12].to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_read_behind_any_name() {
        assert_eq!(parent("12 (a) b) c) S 7 12 12 0"), Some(7));
        assert_eq!(parent("nonsense"), None);
    }

    #[test]
    fn descendants_are_found_at_any_depth_and_once() {
        let parents = [(2, 1), (3, 2), (4, 3), (5, 1), (9, 8), (1, 0)];
        assert_eq!(with_descendants(&[2, 3], &parents), [2, 3, 4]);
        assert_eq!(with_descendants(&[7], &parents), [7]);
    }

    #[test]
    fn a_folder_that_is_no_control_group_is_refused() {
        if cgroup_root().is_none() {
            return;
        }
        let error = cgroup(Path::new("/no-such/group")).unwrap_err();
        assert_eq!(error.to_string(), "there is no control group /no-such/group");
        assert!(error.exit() as u8 == 2 && error.hint().is_some_and(|hint| hint.contains("below /")));
    }

    #[test]
    fn the_process_of_a_thread_is_in_its_status() {
        assert_eq!(process_of("Name:\tTgid: 3\nTgid:\t12\nPid:\t13\n"), Some(12));
        assert_eq!(process_of(""), None);
    }

    #[test]
    fn containers_and_machines_are_known_by_their_groups() {
        let id = "0123456789ab".to_string() + &"c".repeat(52);
        for (path, wanted) in [
            (format!("system.slice/docker-{id}.scope"), Some("0123456789ab")),
            (format!("machine.slice/libpod-{id}.scope/container"), Some("0123456789ab")),
            (format!("kubepods.slice/cri-containerd-{id}.scope"), Some("0123456789ab")),
            (format!("docker/{id}"), Some("0123456789ab")),
            ("machine.slice/machine-qemu\\x2d3\\x2dweb\\x2d5.scope/libvirt".into(), Some("web-5")),
            ("user.slice/user-0.slice".into(), None),
            (String::new(), None),
        ] {
            assert_eq!(owner(Path::new(&path)).as_deref(), wanted, "{path}");
        }
    }

    #[test]
    fn the_second_hierarchy_is_found_among_the_mounts() {
        let text = "30 2 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n40 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 none rw\n";
        assert_eq!(mounted(text, "cgroup2"), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mounted("", "cgroup2"), None);
    }
}
