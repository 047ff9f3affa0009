//! libvirt's errors and reasons in words.

use std::time::Duration;

use kld_core::Error;
use virt::error::{Error as VirtError, ErrorNumber as Number};
use virt_sys as sys;

/// Advice for a daemon that does not answer.
pub(super) const IS_IT_RUNNING: &str = "is libvirtd (or virtqemud) running? see `systemctl status libvirtd`";

/// The connection could not be opened; `cause` is libvirt's message.
pub(super) fn unreachable(uri: &str, cause: &str) -> Error {
    let what = format!("cannot reach libvirt at {uri}");
    let has = |text: &str| cause.contains(text);
    if has("Permission denied") || has("authentication") || has("polkit") {
        Error::failed(what, "permission denied")
            .with_hint("run it as root, or add your user to the group libvirt and log in again")
    } else if has("No such file or directory") {
        Error::failed(what, "it is not running, or not installed").with_hint(
            "install it (`apt install libvirt-daemon-system`) or start it (`systemctl start libvirtd`)",
        )
    } else if has("Connection refused") {
        Error::failed(what, "nobody listens on its socket").with_hint("start it: `systemctl start libvirtd`")
    } else {
        Error::failed(what, plain(cause)).with_hint(IS_IT_RUNNING)
    }
}

/// A call that was given up; the daemon does not answer, and `cause` says for how long.
pub(super) fn silent(uri: &str, cause: impl std::fmt::Display) -> Error {
    Error::failed(format!("cannot reach libvirt at {uri}"), cause).with_hint(IS_IT_RUNNING)
}

/// A cause for [`silent`]: the time limit is over.
pub(super) fn not_within(limit: Duration) -> String {
    format!("it did not answer within {} s", seconds(limit))
}

/// A cause for [`silent`]: it was not even asked.
pub(super) const STILL_SILENT: &str = "it still does not answer an earlier call";

/// What libvirt says of a call that failed, whichever way it was asked.
pub(super) trait Told {
    /// The kind of the failure.
    fn code(&self) -> Number;
    /// libvirt's message.
    fn message(&self) -> &str;
}

impl Told for VirtError {
    fn code(&self) -> Number {
        VirtError::code(self)
    }

    fn message(&self) -> &str {
        VirtError::message(self)
    }
}

/// A call failed; `what` is a phrase such as "cannot start the machine web-5".
pub(super) fn failure(what: impl std::fmt::Display, error: &impl Told) -> Error {
    let told = Error::failed(what, plain(error.message()));
    match hint(error.code(), error.message()) {
        Some(hint) => told.with_hint(hint),
        None => told,
    }
}

fn hint(code: Number, message: &str) -> Option<&'static str> {
    let has = |text: &str| message.contains(text);
    if matches!(code, Number::AuthFailed | Number::AccessDenied | Number::OperationDenied) {
        Some("run it as root, or add your user to the group libvirt")
    } else if has("already exists with uuid") || has("already defined with uuid") {
        Some("choose another name, or delete the machine that has it")
    } else if has("Could not access KVM")
        || has("failed to initialize kvm")
        || has("accel 'kvm' is not")
        || has("/kvm/kvm.c")
    {
        Some("this host has no usable KVM: define the machine for software emulation (domain type 'qemu')")
    } else if has("Permission denied") {
        Some(
            "the user that QEMU runs as (libvirt-qemu) must be able to open the file and every folder above it",
        )
    } else if has("etwork") && has("is not active") {
        Some("start it: `virsh net-start NAME`")
    } else if has("Cannot allocate memory") || has("cannot set up guest memory") {
        Some("the host has too little free memory for this machine")
    } else if has("Unknown error 512") {
        // ERESTARTSYS, which OpenZFS lets out to whoever opens a volume.
        Some(
            "OpenZFS was too busy to open its disk: start it again, or raise zvol_open_timeout_ms \
             (see the page on troubles with ZFS)",
        )
    } else {
        None
    }
}

/// A message on one line, without the words that say nothing.
pub(super) fn plain(message: &str) -> String {
    let lines: Vec<_> = message.lines().map(untimed).filter(|line| !line.is_empty()).collect();
    let text = lines.join("; ");
    let mut text = text.as_str();
    for noise in ["internal error: ", "operation failed: ", "Requested operation is not valid: "] {
        text = text.strip_prefix(noise).unwrap_or(text);
    }
    // Which of the two libvirt says is a matter of chance.
    let ended = ["QEMU unexpectedly closed the monitor", "process exited while connecting to monitor"];
    match text.find("qemu-system-").filter(|_| ended.iter().any(|words| text.starts_with(words))) {
        Some(at) => format!("its emulator ended: {}", &text[at..]),
        None => text.to_string(),
    }
}

/// A line without the times that QEMU writes before its words, as in `2026-03-01T12:00:00.123456Z qemu: ...`.
pub(super) fn untimed(line: &str) -> String {
    let time = |word: &&str| {
        word.len() > 19
            && word.ends_with('Z')
            && word.contains('T')
            && word.bytes().all(|byte| byte.is_ascii_digit() || b"-:.TZ".contains(&byte))
    };
    line.trim().split(' ').filter(|word| !time(word)).collect::<Vec<_>>().join(" ")
}

/// Why a domain's processors stand still, in words that end a sentence.
pub(super) fn reason(state: sys::virDomainState, reason: i32) -> String {
    let reason = reason.unsigned_abs();
    let words = match state {
        sys::VIR_DOMAIN_PAUSED => match reason {
            sys::VIR_DOMAIN_PAUSED_UNKNOWN => "its processor stopped with an internal error",
            sys::VIR_DOMAIN_PAUSED_USER => "paused by somebody",
            sys::VIR_DOMAIN_PAUSED_MIGRATION => "paused for a migration",
            sys::VIR_DOMAIN_PAUSED_SAVE | sys::VIR_DOMAIN_PAUSED_DUMP => "paused while it is saved",
            sys::VIR_DOMAIN_PAUSED_IOERROR => "paused by an I/O error on a disk",
            sys::VIR_DOMAIN_PAUSED_WATCHDOG => "paused by its watchdog",
            sys::VIR_DOMAIN_PAUSED_CRASHED => "its guest crashed",
            sys::VIR_DOMAIN_PAUSED_STARTING_UP => "still being started",
            _ => "paused",
        },
        sys::VIR_DOMAIN_SHUTOFF => match reason {
            sys::VIR_DOMAIN_SHUTOFF_CRASHED | sys::VIR_DOMAIN_SHUTOFF_FAILED => "its emulator failed",
            sys::VIR_DOMAIN_SHUTOFF_DESTROYED => "somebody took its power away",
            _ => "it is off",
        },
        sys::VIR_DOMAIN_CRASHED => "its guest crashed",
        sys::VIR_DOMAIN_PMSUSPENDED => "it is asleep",
        sys::VIR_DOMAIN_SHUTDOWN => "it is shutting down",
        _ => "it does not run",
    };
    words.to_string()
}

/// Seconds for people: `5`, `0.05`.
pub(super) fn seconds(limit: Duration) -> f64 {
    (limit.as_secs_f64() * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_of_not_reaching_libvirt_has_its_sentence_and_its_advice() {
        let told = |cause: &str| {
            let error = unreachable("qemu:///system", cause);
            format!("{error}\n{}", error.hint().unwrap())
        };
        insta::assert_snapshot!(told("Failed to connect socket to '/var/run/libvirt/libvirt-sock': No such file or directory"), @r"
        cannot reach libvirt at qemu:///system: it is not running, or not installed
        install it (`apt install libvirt-daemon-system`) or start it (`systemctl start libvirtd`)
        ");
        insta::assert_snapshot!(told("Failed to connect socket to '/s': Connection refused"), @r"
        cannot reach libvirt at qemu:///system: nobody listens on its socket
        start it: `systemctl start libvirtd`
        ");
        insta::assert_snapshot!(told("Failed to connect socket to '/s': Permission denied"), @r"
        cannot reach libvirt at qemu:///system: permission denied
        run it as root, or add your user to the group libvirt and log in again
        ");
        insta::assert_snapshot!(told("authentication unavailable: no polkit agent available to authenticate action 'org.libvirt.unix.manage'"), @r"
        cannot reach libvirt at qemu:///system: permission denied
        run it as root, or add your user to the group libvirt and log in again
        ");
        insta::assert_snapshot!(told("no connection driver available for nope:///system"), @r"
        cannot reach libvirt at qemu:///system: no connection driver available for nope:///system
        is libvirtd (or virtqemud) running? see `systemctl status libvirtd`
        ");
    }

    #[test]
    fn an_emulator_that_ended_is_told_in_the_same_words_however_libvirt_noticed() {
        for noticed in [
            "process exited while connecting to monitor: ",
            "QEMU unexpectedly closed the monitor (vm='a'): ",
        ] {
            let message = format!("internal error: {noticed}qemu-system-x86_64: -device x: no");
            assert_eq!(plain(&message), "its emulator ended: qemu-system-x86_64: -device x: no");
        }
    }

    #[test]
    fn a_volume_that_could_not_be_opened_in_time_is_no_riddle() {
        let message = "qemu-system-x86_64: -blockdev x: Could not open '/dev/zvol/a': Unknown error 512";
        let hint = hint(Number::InternalError, message).unwrap();
        assert!(hint.starts_with("OpenZFS was too busy to open its disk: start it again"), "{hint}");
    }

    #[test]
    fn a_message_becomes_one_line() {
        assert_eq!(plain("internal error: process exited:\n qemu: bad\n\n"), "process exited:; qemu: bad");
    }
}
