//! What is told where the kernel cannot do what is asked of it, or will not.

use std::io;

use kld_core::Error;

use crate::btf::Btf;
use crate::loader::Parts;
use crate::probe::{Hook, Point};
use crate::{perf, privilege};

/// What is lacking where a hook cannot be had.
pub(crate) fn missing(parts: &Parts, hook: &Hook, btf: &Btf) -> Error {
    let modules = parts.modules.join(" or ");
    let (what, hint) = match hook.point {
        Point::UserEntry(name) | Point::UserReturn(name) if perf::has("uprobe") => {
            let files: Vec<String> = parts.files.iter().map(|path| path.display().to_string()).collect();
            return Error::usage(format!("there is no function {name} in {}", files.join(", ")))
                .with_hint("name the file that has it");
        }
        Point::UserEntry(_) | Point::UserReturn(_) => (
            "no probes on programs' functions (uprobes)".to_string(),
            "boot a kernel that is built with CONFIG_UPROBE_EVENTS".to_string(),
        ),
        Point::Entry(_) | Point::Return(_) if !perf::has("kprobe") => {
            let instead =
                |better| format!(", or one of {} or later, with the tracepoint {better}", hook.since);
            let instead = hook.replaced_by.map(instead).unwrap_or_default();
            (
                "no probes on its functions (kprobes)".to_string(),
                format!("boot a kernel that is built with CONFIG_KPROBE_EVENTS{instead}"),
            )
        }
        Point::Entry(name) | Point::Return(name) if modules.is_empty() => (
            format!("no function {name}"),
            "it is newer or older than the kernels that kld knows: please tell us".to_string(),
        ),
        Point::Entry(name) | Point::Return(name) => {
            (format!("no function {name}"), format!("load its module {modules}"))
        }
        Point::Tracepoint(name) if btf.tracepoint(name).is_some() => (
            format!("no tracepoint {name} that tells enough"),
            format!("kernels have it since {}", hook.since),
        ),
        point if modules.is_empty() => {
            (format!("no tracepoint {point}"), format!("kernels have it since {}", hook.since))
        }
        point => (
            format!("no tracepoint {point}"),
            format!(
                "load its modules ({}); they describe their types since {}",
                parts.modules.join(", "),
                hook.since
            ),
        ),
    };
    Error::failed(format!("cannot run {}", parts.name), format!("this kernel has {what}")).with_hint(hint)
}

/// What the verifier said before it counted.
pub(crate) fn last_words(log: &[u8]) -> Option<String> {
    let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
    let text = String::from_utf8_lossy(&log[..end]);
    let said = |line: &&str| !line.starts_with("processed ") && !line.trim().is_empty();
    text.lines().rfind(said).map(str::to_string)
}

/// A refusal by the kernel, with what is known of its reason.
pub(crate) fn denied(what: String, cause: &io::Error, words: Option<String>) -> Error {
    let known = match (cause.kind(), words) {
        (_, Some(words)) => words,
        (io::ErrorKind::PermissionDenied, None) => match privilege::lockdown() {
            Some(level) => format!("the kernel is locked down ({level})"),
            None => "the kernel does not permit it".to_string(),
        },
        (_, None) => cause.to_string(),
    };
    Error::failed(what, known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_verifier_s_log_the_last_finding_is_told() {
        let log = b"0: R1=ctx()\n12: (85) call 113\nR2 min value is negative\nprocessed 13 insns\n\0\0";
        assert_eq!(last_words(log).as_deref(), Some("R2 min value is negative"));
        assert_eq!(last_words(b"\0"), None);
    }
}
