//! Starting and stopping.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use kld_core::hypervisor::State;
use kld_core::{Change, Error, Result, fsio};
use uuid::Uuid;
use virt::domain::Domain;
use virt::error::{Error as VirtError, ErrorNumber};
use virt_sys as sys;

use super::{DEED, Libvirt, domains, no_machine, tell};
use crate::domain::Definition;
use crate::domain::xml::Element;

/// Processor time after which a guest counts as started. The kernel counts in ticks of 1 to 10 ms: two.
const RAN: Duration = Duration::from_millis(20);
/// A guest that sleeps at once never uses that much: after so long its running state is believed.
const BELIEVED: Duration = Duration::from_millis(300);
/// Where guests are known not to stay up under KVM they still get through their firmware, slowly: a machine of
/// that kind is watched for so long, however well it begins.
const DISTRUSTED: Duration = Duration::from_secs(15);
/// How often a guest that may not have listened is asked again to shut down.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// A look at a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) state: State,
    /// Why it is in that state, in words.
    pub(super) reason: String,
    /// True where it went off because its guest wanted to.
    pub(super) by_itself: bool,
    /// The processor time of the first virtual processor.
    pub(super) ran: Duration,
}

impl Look {
    pub(super) fn at(domain: &Domain) -> Result<Self, VirtError> {
        let (code, reason) = domain.get_state()?;
        let state = domains::state(code, reason);
        let ran = if state == State::Running { processor_time(domain) } else { Duration::ZERO };
        let by_itself = code == sys::VIR_DOMAIN_SHUTOFF && reason == sys::VIR_DOMAIN_SHUTOFF_SHUTDOWN as i32;
        Ok(Look { state, reason: tell::reason(code, reason), by_itself, ran })
    }
}

fn processor_time(domain: &Domain) -> Duration {
    let mut info = sys::virVcpuInfo { number: 0, state: 0, cpuTime: 0, cpu: 0 };
    // SAFETY: the domain is alive; room for one entry is given and said; no CPU map is asked for.
    let filled = unsafe { sys::virDomainGetVcpus(domain.as_ptr(), &mut info, 1, std::ptr::null_mut(), 0) };
    if filled == 1 { Duration::from_nanos(info.cpuTime) } else { Duration::ZERO }
}

/// What a look says of a start.
#[derive(Debug, PartialEq, Eq)]
enum Started {
    Yes,
    No,
    NotYet,
}

/// A guest has started once its processor has run and stands by the state `running`, or once it has kept that
/// state for a while. `distrusted`: it must keep it for long.
fn judge(look: &Look, elapsed: Duration, distrusted: bool) -> Started {
    match look.state {
        State::Running if distrusted && elapsed < DISTRUSTED => Started::NotYet,
        State::Running if look.ran >= RAN || elapsed >= BELIEVED => Started::Yes,
        State::Running => Started::NotYet,
        // A guest that powered itself off has run.
        State::ShuttingDown => Started::Yes,
        State::Off if look.by_itself => Started::Yes,
        State::Paused | State::Off | State::Crashed => Started::No,
    }
}

pub(super) fn start(libvirt: &Libvirt, uuid: Uuid) -> Result<Change<()>> {
    let before = look(libvirt, uuid)?.ok_or_else(|| no_machine(uuid))?;
    match before.0.state {
        State::Running => return Ok(Change::Unchanged(())),
        State::Off | State::Crashed => {}
        State::Paused | State::ShuttingDown => {
            let (look, name) = before;
            return Err(Error::failed(format!("cannot start {name}"), look.reason).with_hint(format!(
                "`virsh resume {name}` lets it go on; `kvm-stop --force {name}` turns it off"
            )));
        }
    }
    let kind = libvirt
        .on(uuid, "start", libvirt.timeout + DEED, |domain| {
            domain.create_with_flags(0).map(|_| ()).or_else(|error| already_running(domain, error))?;
            domain.get_xml_desc(0)
        })?
        .and_then(|live| Definition::parse(&live).ok().map(|live| live.kind().to_string()));
    let distrusted = kind.as_deref() == Some("kvm") && libvirt.kvm().is_ok_and(|kvm| !kvm.runs_guests);

    let begun = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        let seen = look(libvirt, uuid)?;
        let verdict = seen.as_ref().map_or(Started::No, |(look, _)| judge(look, begun.elapsed(), distrusted));
        match verdict {
            Started::Yes => return Ok(Change::Changed(())),
            Started::NotYet => thread::sleep(pause),
            Started::No => return Err(give_up(libvirt, uuid, seen)),
        }
        pause = (pause * 2).min(Duration::from_millis(if begun.elapsed() > BELIEVED { 200 } else { 20 }));
    }
}

/// Somebody else was faster: as wanted, and watched all the same.
fn already_running(domain: &Domain, error: VirtError) -> Result<(), VirtError> {
    let raced = error.code() == ErrorNumber::OperationInvalid && domain.is_active().unwrap_or(false);
    if raced { Ok(()) } else { Err(error) }
}

/// Turns a machine that did not start off again, and says why it did not.
fn give_up(libvirt: &Libvirt, uuid: Uuid, seen: Option<(Look, String)>) -> Error {
    let Some((look, name)) = seen else {
        return Error::failed(format!("cannot start {uuid}"), "it was gone again at once");
    };
    let told = libvirt.on(uuid, "ask for the messages of", libvirt.timeout, |domain| Ok(messages(domain)));
    let mut cause = look.reason;
    for line in told.ok().flatten().unwrap_or_default().into_iter().chain(log_end(&name)) {
        cause = format!("{cause} ({line})");
    }
    let error = Error::failed(format!("cannot start {name}"), cause);
    match power_off(libvirt, uuid) {
        Ok(_) if look.state == State::Paused => error.with_hint(
            "it was turned off again; if this host cannot run it under KVM, give it the domain type 'qemu' \
             (software emulation); `kld doctor` says more",
        ),
        Ok(_) => error.with_hint(format!("see /var/log/libvirt/qemu/{name}.log")),
        Err(also) => error.with_hint(format!("it could not be turned off again: {also}")),
    }
}

/// libvirt's own notes of I/O errors.
fn messages(domain: &Domain) -> Vec<String> {
    let mut list: *mut *mut std::ffi::c_char = std::ptr::null_mut();
    // SAFETY: the domain is alive; libvirt stores a list that it allocated, which is freed below.
    let count =
        unsafe { sys::virDomainGetMessages(domain.as_ptr(), &mut list, sys::VIR_DOMAIN_MESSAGE_IOERRORS) };
    let mut found = Vec::new();
    for index in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: libvirt returned `count` strings, each allocated by malloc and owned by the caller.
        unsafe {
            let text = *list.add(index);
            found.push(std::ffi::CStr::from_ptr(text).to_string_lossy().into_owned());
            nix::libc::free(text.cast());
        }
    }
    if count >= 0 {
        // SAFETY: the list itself was allocated by malloc (or is null) and is not used again.
        unsafe { nix::libc::free(list.cast()) };
    }
    found
}

/// The emulator's last complaint, where the log can be read.
fn log_end(name: &str) -> Option<String> {
    if name.contains('/') {
        return None;
    }
    let path = PathBuf::from(format!("/var/log/libvirt/qemu/{name}.log"));
    let log = fsio::read_text(&path, 16 << 20).ok()??;
    complaint(&log)
}

/// The last line of a domain's log that an emulator or the kernel's KVM wrote in this run.
fn complaint(log: &str) -> Option<String> {
    let run = log.rfind(": starting up ").map_or(log, |at| &log[at..]);
    let spoken = |line: &&str| line.contains("qemu-system-") || line.starts_with("KVM");
    let line =
        run.lines().skip(1).filter(|line| !line.contains("terminating on signal")).filter(spoken).last()?;
    Some(tell::untimed(line))
}

fn look(libvirt: &Libvirt, uuid: Uuid) -> Result<Option<(Look, String)>> {
    libvirt.on(uuid, "look at", libvirt.timeout, |domain| Ok((Look::at(domain)?, domain.get_name()?)))
}

pub(super) fn shutdown(libvirt: &Libvirt, uuid: Uuid, patience: Duration) -> Result<Change<()>> {
    let (mut now, name) = look(libvirt, uuid)?.ok_or_else(|| no_machine(uuid))?;
    if !now.state.is_active() {
        return Ok(Change::Unchanged(()));
    }
    let begun = Instant::now();
    let mut asked: Option<Instant> = None;
    let mut pause = Duration::from_millis(20);
    while now.state.is_active() {
        if begun.elapsed() >= patience {
            let waited = tell::seconds(patience);
            return Err(Error::busy(format!("{name} is still {} after {waited} s", now.state))
                .with_hint("wait longer, or take its power away with --force"));
        }
        // A guest that is still booting does not hear the power button.
        if now.state == State::Running && asked.is_none_or(|asked| asked.elapsed() >= ASK_AGAIN) {
            asked = Some(Instant::now());
            ask(libvirt, uuid)?;
        }
        thread::sleep(pause.min(patience.saturating_sub(begun.elapsed())));
        pause = (pause * 2).min(Duration::from_millis(250));
        match look(libvirt, uuid)? {
            Some((look, _)) => now = look,
            None => break, // It was transient.
        }
    }
    Ok(Change::Changed(()))
}

/// Presses the power button, and tells the guest's agent where it answers.
fn ask(libvirt: &Libvirt, uuid: Uuid) -> Result<()> {
    libvirt.on(uuid, "shut down", libvirt.timeout + DEED, |domain| {
        let pressed = domain.shutdown_flags(sys::VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN);
        let told =
            agent_answers(domain) && domain.shutdown_flags(sys::VIR_DOMAIN_SHUTDOWN_GUEST_AGENT).is_ok();
        match pressed {
            // Off already, or nobody but the agent to ask.
            Err(error) if error.code() != ErrorNumber::OperationInvalid && !told => Err(error),
            _ => Ok(()),
        }
    })?;
    Ok(())
}

/// Whether the guest's agent answers at once. libvirt knows where there is no channel or nobody at its end, so
/// that only an agent that hangs costs the second.
pub(super) fn agent_answers(domain: &Domain) -> bool {
    domain.qemu_agent_command(r#"{"execute":"guest-ping"}"#, 1, 0).is_ok()
}

pub(super) fn power_off(libvirt: &Libvirt, uuid: Uuid) -> Result<Change<()>> {
    let done =
        libvirt.on(uuid, "take the power from", libvirt.timeout + DEED, |domain| match domain.destroy() {
            Ok(()) => Ok(Change::Changed(())),
            Err(error) if error.code() == ErrorNumber::OperationInvalid && !domain.is_active()? => {
                Ok(Change::Unchanged(()))
            }
            Err(error) => Err(error),
        })?;
    done.ok_or_else(|| no_machine(uuid))
}

pub(super) fn console(libvirt: &Libvirt, uuid: Uuid) -> Result<PathBuf> {
    let asked = libvirt.on(uuid, "ask for the console of", libvirt.timeout, |domain| {
        let live = if domain.is_active()? { Some(domain.get_xml_desc(0)?) } else { None };
        Ok((domain.get_name()?, live))
    })?;
    let (name, live) = asked.ok_or_else(|| no_machine(uuid))?;
    let live = live.ok_or_else(|| {
        Error::message(format!("{name} is off: it has no console"))
            .with_hint(format!("start it: `kvm-start {name}`"))
    })?;
    terminal(&Definition::parse(&live)?).ok_or_else(|| {
        Error::message(format!("{name} has no serial console on a terminal"))
            .with_hint("add <console type='pty'/> to its definition")
    })
}

/// The terminal of the first serial port or console that has one.
fn terminal(live: &Definition) -> Option<PathBuf> {
    let device =
        |element: &&Element| matches!(element.name(), "serial" | "console") && element.is("type", "pty");
    let devices = live.root().child("devices")?;
    devices
        .elements()
        .filter(device)
        .find_map(|element| element.child("source")?.get("path"))
        .map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(state: State, ran: u64) -> Look {
        Look { state, reason: String::new(), by_itself: false, ran: Duration::from_millis(ran) }
    }

    #[test]
    fn a_guest_has_started_once_its_processor_has_run() {
        let at = |millis| Duration::from_millis(millis);
        assert_eq!(judge(&seen(State::Running, 0), at(0), false), Started::NotYet);
        assert_eq!(judge(&seen(State::Running, 20), at(5), false), Started::Yes);
        assert_eq!(judge(&seen(State::Running, 0), at(300), false), Started::Yes);
        assert_eq!(judge(&seen(State::Running, 5000), at(5000), true), Started::NotYet);
        assert_eq!(judge(&seen(State::Running, 5000), at(15000), true), Started::Yes);
        for state in [State::Paused, State::Off, State::Crashed] {
            assert_eq!(judge(&seen(state, 0), at(0), false), Started::No);
        }
        assert_eq!(judge(&Look { by_itself: true, ..seen(State::Off, 0) }, at(9), false), Started::Yes);
    }

    #[test]
    fn the_emulators_last_complaint_is_found_in_its_log() {
        let log = "2026-03-01 1: starting up libvirt version\nqemu-system-x86_64: old\n\
                   2026-03-02 1: starting up libvirt version\nPATH=/bin \\\n/usr/bin/qemu-system-x86_64 \\\n\
                   KVM internal error. Suberror: 1\nRAX=0\n\
                   2026-03-02T01:02:03.123456Z qemu-system-x86_64: terminating on signal 15 from pid 1\n";
        assert_eq!(complaint(log).as_deref(), Some("KVM internal error. Suberror: 1"));
        let log = "x: starting up \n2026-03-02T01:02:03.123456Z qemu-system-x86_64: cannot open a\n";
        assert_eq!(complaint(log).as_deref(), Some("qemu-system-x86_64: cannot open a"));
        assert_eq!(complaint(""), None);
    }

    #[test]
    fn the_console_is_the_first_that_is_a_terminal() {
        let live = |devices: &str| {
            Definition::parse(&format!("<domain><name>a</name><devices>{devices}</devices></domain>"))
                .unwrap()
        };
        let several = live(
            "<serial type='file'><source path='/log'/></serial><serial type='pty'><source path='/dev/pts/4'/></serial>
             <console type='pty' tty='/dev/pts/5'><source path='/dev/pts/5'/></console>",
        );
        assert_eq!(terminal(&several), Some("/dev/pts/4".into()));
        assert_eq!(terminal(&live("<serial type='pty'/>")), None);
        assert_eq!(terminal(&live("")), None);
    }
}
