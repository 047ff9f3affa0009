//! Whose events are wanted. The kernel side tests it, so that what is not wanted costs next to nothing.

use std::path::PathBuf;

use kld_core::Result;
use kld_ebpf_events::filter::{self as wire, BY_CGROUP, BY_COMM, BY_PID, BY_UID};

use crate::{names, privilege};

/// Whose events are wanted; the default is everybody's. All that is given must hold.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// These processes, and those that descend from them.
    pub pids: Vec<u32>,
    /// Processes of this real user.
    pub uid: Option<u32>,
    /// Threads of exactly this name; the kernel keeps the first 15 bytes of a name.
    pub comm: Option<String>,
    /// Tasks in this control group or below it, by its folder.
    pub cgroup: Option<PathBuf>,
    /// The probe's own switches, which it documents.
    pub switches: u32,
    /// The probe's own number, which it documents, such as a port; 0: none.
    pub argument: u64,
    /// Numbers that the probe takes, by their variables' names, which it documents.
    pub numbers: Vec<(&'static str, u32)>,
    /// How often a probe that samples does so on each processor, in Hz; 0: [49](Self::FREQUENCY).
    pub frequency: u32,
    /// How many different stacks a probe that tells stacks can keep, where not as many as it says.
    pub stacks: Option<u32>,
    /// The programs and libraries whose functions the probe is for, where it is for any.
    pub files: Vec<PathBuf>,
}

/// A filter as the kernel side takes it.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) filter: wire::Filter,
    pub(crate) pids: Vec<u32>,
}

impl Filter {
    /// How often a probe samples that is not told: seldom, and out of step with what is done a hundred times a second.
    pub const FREQUENCY: u32 = 49;

    /// Everybody's.
    pub fn all() -> Self {
        Self::default()
    }

    /// One process's, and those of its descendants.
    pub fn pid(pid: u32) -> Self {
        Filter { pids: vec![pid], ..Self::default() }
    }

    pub(crate) fn frequency(&self) -> u32 {
        if self.frequency == 0 { Self::FREQUENCY } else { self.frequency }
    }

    /// Looks up what only the running host knows: descendants and cgroups.
    pub(crate) fn resolve(&self) -> Result<Resolved> {
        let mut filter =
            wire::Filter { switches: self.switches, argument: self.argument, ..Default::default() };
        let mut pids = Vec::new();
        if !self.pids.is_empty() {
            filter.by |= BY_PID;
            privilege::check_pid_namespace()?;
            self.pids.iter().try_for_each(|pid| names::check_process(*pid))?;
            pids = names::with_descendants(&self.pids, &names::parents());
        }
        if let Some(uid) = self.uid {
            filter.by |= BY_UID;
            filter.uid = uid;
        }
        if let Some(comm) = &self.comm {
            filter.by |= BY_COMM;
            let kept = comm.len().min(filter.comm.len() - 1);
            filter.comm[..kept].copy_from_slice(&comm.as_bytes()[..kept]);
        }
        if let Some(folder) = &self.cgroup {
            filter.by |= BY_CGROUP;
            (filter.cgroup, filter.level) = names::cgroup(folder)?;
        }
        Ok(Resolved { filter, pids })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_cut_as_the_kernel_cuts_it() {
        let filter = Filter { comm: Some("a-name-that-is-far-too-long".into()), ..Filter::default() };
        let resolved = filter.resolve().unwrap();
        assert_eq!((&resolved.filter.comm, resolved.filter.by), (b"a-name-that-is-\0", BY_COMM));
    }

    #[test]
    fn a_process_that_is_gone_is_refused() {
        if privilege::check_pid_namespace().is_err() {
            return;
        }
        let error = Filter::pid(0x7fff_fff0).resolve().unwrap_err();
        assert_eq!(error.to_string(), "there is no process 2147483632");
        assert_eq!(
            (error.exit() as u8, error.hint()),
            (2, Some("pgrep -a NAME tells the numbers of those that run"))
        );
    }

    #[test]
    fn a_thread_is_refused_and_its_process_is_named() {
        if privilege::check_pid_namespace().is_err() {
            return;
        }
        // SAFETY: it takes nothing.
        let (own, thread) = (std::process::id(), unsafe { libc::gettid() } as u32);
        assert_ne!(own, thread, "tests run in threads of their own");
        let error = Filter::pid(thread).resolve().unwrap_err();
        assert_eq!(error.to_string(), format!("{thread} is a thread, not a process"));
        let hint = format!("its process is {own}; --comm chooses a thread by its name");
        assert_eq!((error.exit() as u8, error.hint()), (2, Some(hint.as_str())));
    }

    #[test]
    fn the_children_of_a_wanted_process_are_wanted() {
        if privilege::check_pid_namespace().is_err() {
            return;
        }
        let resolved = Filter::pid(1).resolve().unwrap();
        assert!(resolved.pids.contains(&std::process::id()), "all descend from process 1");
    }
}
