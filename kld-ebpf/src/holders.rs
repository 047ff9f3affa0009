//! Which process holds a socket: the join of its inode with the descriptors in /proc.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use kld_core::fsio;

/// A process that holds a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its main thread's name.
    pub comm: String,
}

/// The holders of sockets that are known by now.
#[derive(Debug, Default)]
pub struct Holders {
    by_inode: HashMap<u64, u32>,
    /// Those that nobody held when they were looked for.
    unheld: HashSet<u64>,
}

impl Holders {
    /// Those that there are now.
    pub fn look() -> Holders {
        let mut all = Holders::default();
        all.learn();
        all
    }

    fn learn(&mut self) {
        self.by_inode.clear();
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let mut pids: Vec<u32> =
            entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        // Of several that hold a socket the oldest, as a rule, is the one who opened it.
        pids.sort_unstable();
        for pid in pids {
            for inode in held_by(pid) {
                self.by_inode.entry(inode).or_insert(pid);
            }
        }
    }

    /// Looks again where one of these sockets is of nobody who is known. One that nobody held is not looked for again
    /// and again.
    pub fn refresh(&mut self, inodes: impl IntoIterator<Item = u64>) {
        let is_new =
            |inode: &u64| *inode != 0 && !self.unheld.contains(inode) && self.holder(*inode).is_none();
        let new: Vec<u64> = inodes.into_iter().filter(is_new).collect();
        if new.is_empty() {
            return;
        }
        self.learn();
        self.unheld.extend(new.into_iter().filter(|inode| !self.by_inode.contains_key(inode)));
    }

    /// The holder, where it still is one: its number may be another's by now.
    fn holder(&self, inode: u64) -> Option<u32> {
        let pid = *self.by_inode.get(&inode)?;
        held_by(pid).any(|held| held == inode).then_some(pid)
    }

    /// Who holds a socket.
    pub fn of(&self, inode: u64) -> Option<Process> {
        let pid = self.holder(inode)?;
        let comm = fsio::read_text(Path::new(&format!("/proc/{pid}/comm")), 64).ok()??;
        Some(Process { pid, comm: comm.trim_end_matches('\n').to_string() })
    }
}

/// The inodes of a process's sockets.
fn held_by(pid: u32) -> impl Iterator<Item = u64> {
    let folder = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    folder.filter_map(|entry| inode(&std::fs::read_link(entry.path()).ok()?))
}

/// The inode in `socket:[123]`.
fn inode(target: &Path) -> Option<u64> {
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_socket_of_ours_is_found_also_when_it_is_opened_later() {
        let mut holders = Holders::look();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let link = std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let own = inode(&link).unwrap();
        assert_eq!(holders.of(own), None);
        holders.refresh([own]);
        assert_eq!(holders.of(own).map(|process| process.pid), Some(std::process::id()));
    }

    #[test]
    fn only_sockets_have_inodes_here() {
        assert_eq!(inode(Path::new("socket:[77]")), Some(77));
        assert_eq!(["pipe:[77]", "socket:[x]", "/dev/null"].map(|name| inode(Path::new(name))), [None; 3]);
    }
}
