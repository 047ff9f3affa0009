//! Whether this process may ask the kernel, and what it lacks if not.

use kld_core::{Error, Result, fsio};

/// What a program on a raw tracepoint needs, by its bit in the capability sets (linux/capability.h).
const NEEDED: [(&str, u32); 2] = [("CAP_PERFMON", 38), ("CAP_BPF", 39)];
/// It stands for both, and is all there was before kernel 5.8.
const SYS_ADMIN: u32 = 21;

/// Fails where this process lacks what tracing needs, and names it.
pub fn check() -> Result<()> {
    let status = fsio::read_text(std::path::Path::new("/proc/self/status"), 1 << 20)?;
    let lacking = status.as_deref().and_then(effective).map_or(vec![], lacking);
    match lacking.is_empty() {
        true => Ok(()),
        false => Err(refusal(&format!("this process lacks {}", lacking.join(" and ")))),
    }
}

/// Fails where this process lacks what programs that look at packets need besides.
pub fn check_network() -> Result<()> {
    const NET_ADMIN: u32 = 12;
    let status = fsio::read_text(std::path::Path::new("/proc/self/status"), 1 << 20)?;
    match status.as_deref().and_then(effective) {
        Some(has) if has >> NET_ADMIN & 1 == 0 => {
            Err(Error::failed("cannot look at what leaves the host", "this process lacks CAP_NET_ADMIN")
                .with_hint("run it as root, or give it CAP_NET_ADMIN, CAP_BPF and CAP_PERFMON"))
        }
        _ => Ok(()),
    }
}

/// The sentence and the hint for a refusal.
pub fn refusal(cause: &str) -> Error {
    Error::failed("cannot look into the kernel", cause).with_hint(
        "run it as root, or give it CAP_BPF and CAP_PERFMON (setpriv, systemd's AmbientCapabilities)",
    )
}

/// The effective set, out of /proc/PID/status.
fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// The capabilities that are not in the set.
fn lacking(effective: u64) -> Vec<&'static str> {
    let has = |bit: u32| effective >> bit & 1 == 1;
    let lacking = NEEDED.iter().filter(|(_, bit)| !has(*bit) && !has(SYS_ADMIN));
    lacking.map(|(name, _)| *name).collect()
}

/// Fails in a PID namespace of its own, as a container has: the kernel's programs see the host's numbers of processes,
/// and this process sees others.
///
/// The host's namespace is told by its number, which is always the same (`PROC_PID_INIT_INO` in linux/proc_ns.h).
pub fn check_pid_namespace() -> Result<()> {
    const OF_HOST: &str = "pid:[4026531836]";
    match std::fs::read_link("/proc/self/ns/pid") {
        Ok(namespace) if namespace.as_os_str() != OF_HOST => Err(Error::failed(
            "cannot tell processes by their numbers",
            "this is a PID namespace of its own, and the kernel tells the host's numbers",
        )
        .with_hint(
            "choose by --comm, --user or --cgroup, or share the host's namespace (podman run --pid=host)",
        )),
        _ => Ok(()),
    }
}

/// What the kernel is locked down to, where it is.
pub fn lockdown() -> Option<String> {
    let text = fsio::read_text(std::path::Path::new("/sys/kernel/security/lockdown"), 4096).ok()??;
    chosen(&text).filter(|level| *level != "none").map(str::to_string)
}

/// The word in brackets: `none [integrity] confidentiality`.
fn chosen(text: &str) -> Option<&str> {
    text.split_once('[')?.1.split_once(']').map(|(word, _)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking_is_named() {
        let both = 1 << 38 | 1 << 39;
        for (status, wanted) in [
            ("CapEff:\t0000000000000000\n", vec!["CAP_PERFMON", "CAP_BPF"]),
            ("CapEff:\t0000008000000000\n", vec!["CAP_PERFMON"]),
            ("CapEff:\t0000004000000000\n", vec!["CAP_BPF"]),
            ("CapEff:\t0000000000200000\n", vec![]),
        ] {
            assert_eq!(effective(status).map(lacking), Some(wanted), "{status}");
        }
        assert_eq!(lacking(both), Vec::<&str>::new());
    }

    #[test]
    fn the_level_of_lockdown_is_the_word_in_brackets() {
        assert_eq!(chosen("none [integrity] confidentiality\n"), Some("integrity"));
        assert_eq!(chosen(""), None);
    }
}
