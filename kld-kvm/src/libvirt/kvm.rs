//! Whether guests run on hardware virtualisation here, found out by running one.
//!
//! A /dev/kvm that opens says little: inside another hypervisor, guests may abort at once, or get through their
//! firmware and stand still in their kernel. So a tiny guest of ours (see `rom/probe.s`) goes the way that every
//! kernel goes and reports at its end. Where it does not report under KVM, the same guest in software emulation
//! shows whose fault that is. The verdict holds until the next boot or another emulator.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};
use std::{fs, thread};

use kld_core::{Result, fsio};
use serde::{Deserialize, Serialize};
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::{Error as VirtError, ErrorNumber};
use virt_sys as sys;

use super::{DEED, Libvirt, tell};
use crate::domain::xml::{Document, Element};

/// The end of the probe's firmware, built from `rom/probe.s`.
const ROM: &[u8; 512] = include_bytes!("rom/probe.bin");
/// The size of the whole image: a PC's firmware comes in such units.
const ROM_SIZE: usize = 64 << 10;
/// The probe takes a few ms on hardware and 50 ms in emulation, and longer on a busy host.
const REPORTS_WITHIN: Duration = Duration::from_secs(5);
/// A guest of which nothing better is known than that it has not stopped: so long.
const KEEPS_RUNNING: Duration = Duration::from_secs(1);

/// What was found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kvm {
    /// Guests run under KVM.
    pub(super) runs_guests: bool,
    /// One sentence.
    pub(super) finding: String,
    /// What would make them run.
    pub(super) remedy: Option<String>,
}

/// A verdict, and for what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    boot_id: String,
    uri: String,
    emulator: PathBuf,
    /// Seconds since 1970; `None` where the emulator cannot be seen from here.
    modified: Option<u64>,
    kvm: Kvm,
}

impl Remembered {
    fn holds(&self, boot_id: &str, uri: &str) -> bool {
        self.boot_id == boot_id && self.uri == uri && self.modified == modified(&self.emulator)
    }
}

impl Libvirt {
    /// Whether guests run under KVM; asked once a boot.
    pub(super) fn kvm(&self) -> Result<&Kvm> {
        if let Some(kvm) = self.kvm.get() {
            return Ok(kvm);
        }
        let (boot_id, memory) = (boot_id(), self.state_dir.join("kvm-probe.json"));
        let known = recall(&memory).filter(|known| known.holds(&boot_id, &self.uri));
        let kvm = match known {
            Some(known) => known.kvm,
            None => {
                let (kvm, emulator) = self.find_out()?;
                if let Some(emulator) = emulator {
                    let modified = modified(&emulator);
                    let known =
                        Remembered { boot_id, uri: self.uri.clone(), emulator, modified, kvm: kvm.clone() };
                    remember(&memory, &known);
                }
                kvm
            }
        };
        Ok(self.kvm.get_or_init(|| kvm))
    }

    /// The verdict, and the emulator for which it may be remembered.
    fn find_out(&self) -> Result<(Kvm, Option<PathBuf>)> {
        let Some(offer) = self.call(self.timeout + DEED, offer)? else {
            return Ok((not_offered(), None));
        };
        let rom = offer.is_pc.then(|| Rom::place(&self.state_dir)).flatten();
        let path = rom.as_ref().map(|rom| rom.0.clone());
        let kvm = self.call(self.timeout + DEED, move |connect| {
            Ok(decide(|kind, with_rom| match (with_rom, &path) {
                (true, None) => Outcome::NotTried,
                (true, Some(path)) => run(connect, &guest(kind, Some(path)), REPORTS_WITHIN),
                (false, _) => run(connect, &guest(kind, None), KEEPS_RUNNING),
            }))
        })?;
        Ok((kvm, Some(offer.emulator)))
    }
}

/// How a guest fared.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    /// It came to its end and said so.
    Reported,
    /// It was still running at the end of its time.
    Running,
    /// It stopped, or was not started; why.
    Stopped(String),
    NotTried,
}

/// The verdict from what guests do. `try_guest(kind, with_rom)` runs one.
fn decide(mut try_guest: impl FnMut(&'static str, bool) -> Outcome) -> Kvm {
    let serves = |finding: &str| Kvm { runs_guests: true, finding: finding.to_string(), remedy: None };
    let under_kvm = try_guest("kvm", true);
    if under_kvm == Outcome::Reported {
        return serves("guests run on hardware virtualisation");
    }
    if under_kvm != Outcome::NotTried {
        // A control that is merely slow has shown that the firmware can be used.
        match (under_kvm, try_guest("qemu", true)) {
            (Outcome::Stopped(why), Outcome::Reported | Outcome::Running) => return fails(why),
            (_, Outcome::Reported) => return fails("it gets nowhere".to_string()),
            _ => {}
        }
    }
    // The probe's own firmware cannot be used here: any guest, and whether it keeps running.
    match try_guest("kvm", false) {
        Outcome::Stopped(why) => fails(why),
        _ => serves("a guest keeps running on hardware virtualisation"),
    }
}

fn fails(why: String) -> Kvm {
    Kvm {
        runs_guests: false,
        finding: format!("KVM is offered but a guest does not stay up ({why}): machines run under software emulation"),
        remedy: Some(
            "on real hardware look at `dmesg | grep -i kvm`; in a virtual machine, its host must offer nested \
             virtualisation"
                .to_string(),
        ),
    }
}

fn not_offered() -> Kvm {
    Kvm {
        runs_guests: false,
        finding: "libvirt offers no KVM: machines run under software emulation".to_string(),
        remedy: Some(
            "enable virtualisation (VT-x, AMD-V) in the firmware, load kvm_intel or kvm_amd, and see that /dev/kvm \
             is there"
                .to_string(),
        ),
    }
}

/// The emulator that libvirt offers for KVM.
struct Offer {
    emulator: PathBuf,
    is_pc: bool,
}

fn offer(connect: &Connect) -> Result<Option<Offer>> {
    let told = match connect.get_domain_capabilities(None, None, None, Some("kvm"), 0) {
        Ok(told) => told,
        Err(error) if refuses(&error) => return Ok(None),
        Err(error) => return Err(tell::failure("cannot ask libvirt what it offers", &error)),
    };
    let told = Document::parse(&told)?;
    let text = |path| told.root().text_at(path).unwrap_or_default();
    Ok(Some(Offer { emulator: text("path").into(), is_pc: text("arch") == "x86_64" }))
}

fn refuses(error: &VirtError) -> bool {
    use ErrorNumber::{ArgumentUnsupported, ConfigUnsupported, InvalidArg, NoSupport, OperationUnsupported};
    matches!(
        error.code(),
        ArgumentUnsupported | ConfigUnsupported | InvalidArg | NoSupport | OperationUnsupported
    )
}

/// A guest that needs nothing. It reports through pvpanic, after which libvirt is to keep it; a reset means that
/// it fell over.
fn guest(kind: &str, rom: Option<&Path>) -> String {
    let text = |name: &str, text: &str| Element::new(name).with_text(text);
    let mut os = Element::new("os").with_child(match rom {
        Some(_) => text("type", "hvm").with("arch", "x86_64").with("machine", "q35"),
        None => text("type", "hvm"),
    });
    let mut devices = Element::new("devices")
        .with_child(Element::new("controller").with("type", "usb").with("model", "none"))
        .with_child(Element::new("memballoon").with("model", "none"));
    // What kld's machines get: hosts that do run guests may still fall over this.
    let cpu = (kind == "kvm").then(|| Element::new("cpu").with("mode", "host-passthrough"));
    if let Some(rom) = rom {
        let loader = text("loader", &rom.to_string_lossy()).with("readonly", "yes").with("type", "rom");
        os = os.with_child(loader);
        devices = devices.with_child(Element::new("panic").with("model", "isa"));
    }
    let domain = Element::new("domain")
        .with("type", kind)
        .with_child(text("name", &format!("kld-probe-{}", std::process::id())))
        .with_child(text("memory", "64").with("unit", "MiB"))
        .with_child(text("vcpu", "1"))
        .with_child(os)
        .with_child(Element::new("features").with_child(Element::new("acpi")))
        .with_some(cpu)
        .with_child(text("on_poweroff", "destroy"))
        .with_child(text("on_reboot", "destroy"))
        .with_child(text("on_crash", "preserve"))
        .with_child(devices);
    Document::new(domain).to_string()
}

/// Runs a guest and takes it away again; libvirt does so too where this process ends before.
fn run(connect: &Connect, guest: &str, limit: Duration) -> Outcome {
    let domain = match Domain::create_xml(connect, guest, sys::VIR_DOMAIN_START_AUTODESTROY) {
        Ok(domain) => domain,
        Err(error) => return Outcome::Stopped(complaint(error.message())),
    };
    let outcome = watch(&domain, limit);
    let _ = domain.destroy();
    outcome
}

fn watch(domain: &Domain, limit: Duration) -> Outcome {
    let begun = Instant::now();
    loop {
        let Ok((state, reason)) = domain.get_state() else {
            return Outcome::Stopped("its emulator ended".to_string());
        };
        match state {
            sys::VIR_DOMAIN_CRASHED => return Outcome::Reported,
            // On the way to the state above.
            sys::VIR_DOMAIN_PAUSED if reason == sys::VIR_DOMAIN_PAUSED_CRASHED as i32 => {
                return Outcome::Reported;
            }
            sys::VIR_DOMAIN_RUNNING | sys::VIR_DOMAIN_BLOCKED if begun.elapsed() < limit => {}
            sys::VIR_DOMAIN_RUNNING | sys::VIR_DOMAIN_BLOCKED => return Outcome::Running,
            _ => return Outcome::Stopped(tell::reason(state, reason)),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// What an emulator said first: what follows is a consequence.
fn complaint(message: &str) -> String {
    let words = message.lines().find_map(|line| line.split_once("qemu-system-")?.1.split_once(": "));
    let line = words.map_or(message.trim(), |(_, words)| words.trim());
    let line = line.lines().next().unwrap_or("it was not started");
    line.trim_start_matches("error: ").chars().take(160).collect()
}

/// The firmware as a file, which is removed when it has served.
struct Rom(PathBuf);

impl Rom {
    /// `None` where it cannot be written.
    fn place(folder: &Path) -> Option<Self> {
        let mut image = vec![0; ROM_SIZE - ROM.len()];
        image.extend_from_slice(ROM);
        let path = folder.join(format!("kvm-probe-{}.rom", std::process::id()));
        fsio::create_dir_all(folder, 0o755).and_then(|()| fsio::replace(&path, &image, 0o644)).ok()?;
        Some(Rom(path))
    }
}

impl Drop for Rom {
    fn drop(&mut self) {
        let _ = fsio::remove_if_exists(&self.0);
    }
}

fn recall(memory: &Path) -> Option<Remembered> {
    serde_json::from_str(&fsio::read_text(memory, 64 << 10).ok()??).ok()
}

/// Forgetting costs a second at the next call: no failure.
fn remember(memory: &Path, known: &Remembered) {
    if let Ok(text) = serde_json::to_vec(known) {
        let _ = fsio::replace(memory, &text, 0o644);
    }
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_string()
}

fn modified(path: &Path) -> Option<u64> {
    Some(fs::metadata(path).ok()?.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

#[cfg(test)]
#[allow(clippy::disallowed_types)]
mod tests {
    use super::*;
    use std::process::Command;

    fn verdict(kvm_rom: Outcome, qemu_rom: Outcome, kvm_plain: Outcome) -> Kvm {
        decide(|kind, rom| match (kind, rom) {
            ("kvm", true) => kvm_rom.clone(),
            ("qemu", true) => qemu_rom.clone(),
            _ => kvm_plain.clone(),
        })
    }

    fn stopped(why: &str) -> Outcome {
        Outcome::Stopped(why.to_string())
    }

    #[test]
    fn kvm_is_blamed_only_where_the_same_guest_runs_in_emulation() {
        use Outcome::{NotTried, Reported, Running};
        assert!(verdict(Reported, NotTried, NotTried).runs_guests);
        assert!(!verdict(stopped("x"), Reported, Running).runs_guests);
        assert!(!verdict(Running, Reported, Running).runs_guests);
        // So busy a host that emulation does not come to its end in time.
        assert!(!verdict(stopped("x"), Running, Running).runs_guests);
        assert!(verdict(Running, Running, Running).runs_guests);
        // The firmware's file cannot be opened by the emulator: neither guest starts.
        assert!(verdict(stopped("no file"), stopped("no file"), Running).runs_guests);
        assert!(verdict(NotTried, NotTried, Running).runs_guests);
        assert!(!verdict(NotTried, NotTried, stopped("x")).runs_guests);
    }

    #[test]
    fn a_failing_kvm_is_told_with_its_reason() {
        let told = verdict(
            stopped("its processor stopped with an internal error"),
            Outcome::Reported,
            Outcome::NotTried,
        );
        insta::assert_snapshot!(told.finding, @"KVM is offered but a guest does not stay up (its processor stopped with an internal error): machines run under software emulation");
    }

    #[test]
    fn a_verdict_holds_for_one_boot_one_libvirt_and_one_emulator() {
        let folder = tempfile::tempdir().unwrap();
        let emulator = folder.path().join("qemu");
        fs::write(&emulator, "").unwrap();
        let memory = folder.path().join("kvm-probe.json");
        let known = Remembered {
            boot_id: "b".into(),
            uri: "u".into(),
            modified: modified(&emulator),
            emulator: emulator.clone(),
            kvm: not_offered(),
        };
        remember(&memory, &known);
        let recalled = recall(&memory).unwrap();
        assert_eq!(recalled, known);
        assert!(recalled.holds("b", "u"));
        assert!(!recalled.holds("other", "u"));
        assert!(!recalled.holds("b", "other"));
        fs::remove_file(&emulator).unwrap();
        assert!(!recalled.holds("b", "u"));
        fs::write(&memory, "{").unwrap();
        assert_eq!(recall(&memory), None);
    }

    #[test]
    fn what_an_emulator_said_first_is_kept() {
        let message = "internal error: QEMU closed the monitor: 2026Z qemu-system-x86_64: error: failed to set MSR\n\
                       qemu-system-x86_64: target/i386/kvm/kvm.c:3877: Assertion failed.";
        assert_eq!(complaint(message), "failed to set MSR");
        assert_eq!(complaint("no emulator\nat all"), "no emulator");
        assert_eq!(complaint(""), "it was not started");
    }

    #[test]
    fn the_firmware_is_what_its_source_says() {
        let folder = tempfile::tempdir().unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/libvirt/rom/probe.s");
        let run = |program: &str, args: &[&str]| {
            assert!(Command::new(program).args(args).current_dir(&folder).status().unwrap().success());
        };
        run("as", &["-o", "probe.o", source]);
        run("ld", &["-Ttext=0xfffffe00", "--oformat=binary", "-o", "probe.bin", "probe.o"]);
        assert_eq!(fs::read(folder.path().join("probe.bin")).unwrap(), ROM);
    }
}
