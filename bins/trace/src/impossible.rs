//! Flags that the other tools have, and this one cannot: who gives them is told why, and what serves instead.

use clap::{Arg, ArgAction, ArgMatches, Command};
use kld_core::{Error, Result};

/// Why a tool has not all of the flags that say whose.
#[derive(Debug, Clone, Copy)]
pub struct Impossible {
    /// The flags, by their long names.
    flags: &'static [&'static str],
    /// Why not, in a sentence.
    why: &'static str,
    /// What serves instead.
    instead: &'static str,
}

/// Packets are dropped, or sent again, while anybody runs.
pub const OF_PACKETS: Impossible = Impossible {
    flags: &["pid", "comm"],
    why: "packets have no process: who runs when they come or are sent is a matter of chance",
    instead: "choose by the socket with -u, --cgroup, --container or --machine, or ask tcplife -p for a process's \
              connections",
};

/// Round-trip times are known when a packet comes.
pub const OF_ROUND_TRIPS: Impossible = Impossible {
    flags: ALL,
    why: "packets have no process: who runs when they come is a matter of chance",
    instead: "choose by --lport or --rport; tcpconnect -p and tcplife -p tell a process's ports",
};

/// Processors are looked at, with all that wait for them.
pub const OF_QUEUES: Impossible = Impossible {
    flags: ALL,
    why: "a processor's queue is as long as all that wait make it, whoever they are",
    instead: "runqlat and runqslower take the flag: they tell how long those wait that are meant",
};

/// The whole host is looked at.
pub const OF_HOSTS: Impossible = Impossible {
    flags: ALL,
    why: "it is the whole host that is slow or not",
    instead: "what it finds is told with its process, control group or disk; runqlat, biotop and drsnoop take the flag",
};

/// All that leaves the host is looked at.
pub const OF_LEAKS: Impossible = Impossible {
    flags: ALL,
    why: "what leaves the host leaves it whoever sends it",
    instead: "say what is meant to be outside with --allow; PID, COMM and OWNER tell whose each leak is",
};

const ALL: &[&str] = &["pid", "comm", "user", "cgroup", "container", "machine"];
const SHORT: [(&str, char); 3] = [("pid", 'p'), ("comm", 'c'), ("user", 'u')];

impl Impossible {
    /// The command, which takes these flags and shows them nowhere.
    pub fn of(self, command: Command) -> Command {
        command.args(self.flags.iter().map(|flag| {
            let hidden = Arg::new(*flag).long(*flag).num_args(0..=1).action(ArgAction::Append).hide(true);
            let short = SHORT.iter().find(|(long, _)| long == flag).map(|(_, short)| *short);
            short.into_iter().fold(hidden, Arg::short)
        }))
    }

    /// Refuses those of them that are given.
    pub fn refuse(self, matches: &ArgMatches) -> Result<()> {
        match self.flags.iter().find(|flag| matches.contains_id(flag)) {
            Some(flag) => {
                Err(Error::usage(format!("cannot choose by --{flag}: {}", self.why)).with_hint(self.instead))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_that_cannot_be_is_refused_with_what_serves_instead_and_shown_nowhere() {
        let command = || OF_PACKETS.of(Command::new("tool"));
        for given in [&["tool", "-p", "1"][..], &["tool", "--pid"], &["tool", "--pid=1", "--pid=2"]] {
            let error = OF_PACKETS.refuse(&command().get_matches_from(given)).unwrap_err();
            assert_eq!(error.to_string(), format!("cannot choose by --pid: {}", OF_PACKETS.why));
            assert_eq!((error.exit() as u8, error.hint()), (2, Some(OF_PACKETS.instead)));
        }
        assert!(OF_PACKETS.refuse(&command().get_matches_from(["tool"])).is_ok());
        assert!(!command().render_long_help().to_string().contains("pid"));
    }
}
