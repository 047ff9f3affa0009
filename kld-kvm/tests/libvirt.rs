//! What libvirt does for kld, on a libvirt host of the test's own.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kld_core::hypervisor::conformance::{self, Rig};
use kld_core::hypervisor::{Hypervisor, State};
use kld_core::probe::Verdict;
use kld_core::store::{Consistency, Repoint, Volume, VolumeFormat};
use kld_core::ui::Ui;
use kld_core::{ByteSize, Error, MachineName};
use kld_kvm::libvirt::Libvirt;
use kld_test_support::{Guest, Host};
use uuid::Uuid;

const TIMEOUT: Duration = Duration::from_secs(10);

fn connect(host: &Host) -> Libvirt {
    Libvirt::new(&host.uri(), TIMEOUT, &host.state_dir())
}

/// The host's store, which is made by whoever needs it first.
fn store(host: &Host) -> PathBuf {
    fs::create_dir_all(host.store_root()).unwrap();
    host.store_root()
}

/// A machine of a test, gone with it.
struct Machine<'a> {
    libvirt: &'a Libvirt,
    name: String,
    uuid: Uuid,
}

impl<'a> Machine<'a> {
    /// `os` and `devices` go into the definition.
    fn define(libvirt: &'a Libvirt, kind: &str, os: &str, devices: &str) -> Self {
        let uuid = Uuid::new_v4();
        let name = format!("test-{}", uuid.simple());
        let machine = Machine { libvirt, name, uuid };
        assert_eq!(libvirt.define(&machine.definition(kind, os, devices)).unwrap(), uuid);
        machine
    }

    fn definition(&self, kind: &str, os: &str, devices: &str) -> String {
        format!(
            "<domain type='{kind}'><name>{}</name><uuid>{}</uuid><memory unit='MiB'>256</memory><vcpu>1</vcpu>
             <metadata><k:x xmlns:k='urn:test' a='1'>kept</k:x></metadata>
             <os><type arch='x86_64' machine='q35'>hvm</type>{os}</os><features><acpi/></features>
             <on_crash>preserve</on_crash>
             <devices><controller type='usb' model='none'/><memballoon model='none'/>{devices}</devices></domain>",
            self.name, self.uuid
        )
    }

    fn plain(libvirt: &'a Libvirt) -> Self {
        Self::define(libvirt, "qemu", "", "")
    }

    fn state(&self) -> State {
        self.libvirt.domain_by_uuid(self.uuid).unwrap().unwrap().state
    }

    fn next_definition(&self) -> String {
        self.libvirt.domain_by_uuid(self.uuid).unwrap().unwrap().definition
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        let _ = self.libvirt.power_off(self.uuid);
        let _ = self.libvirt.undefine(self.uuid);
    }
}

fn disk(target: &str, path: &Path) -> String {
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{}'/>
         <target dev='{target}' bus='virtio'/></disk>",
        path.display()
    )
}

/// A new qcow2 file in the host's store, on a backing file or by itself.
fn image(host: &Host, backing: Option<&Path>) -> PathBuf {
    let path = store(host).join(format!("{}.qcow2", Uuid::new_v4().simple()));
    let path_text = path.display().to_string();
    let made = match backing {
        None => host.qemu_img(["create", "-q", "-f", "qcow2", &path_text, "8M"]),
        Some(backing) => {
            let backing = backing.display().to_string();
            host.qemu_img(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &backing, &path_text])
        }
    };
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    path
}

fn volume(target: &str, path: &Path) -> Volume {
    Volume {
        name: target.to_string(),
        path: path.to_path_buf(),
        format: VolumeFormat::Qcow2,
        size: ByteSize::default(),
        adopted: false,
    }
}

fn repoint(machine: &Machine<'_>, target: &str, path: &Path) -> Repoint {
    Repoint { set: MachineName::parse(&machine.name).unwrap(), volume: volume(target, path) }
}

/// A folder and a firmware in it, of which QEMU runs the last bytes first.
fn firmware(host: &Host, reset_vector: &[u8]) -> PathBuf {
    let mut rom = vec![0; 64 << 10];
    let at = rom.len() - 16;
    rom[at..at + reset_vector.len()].copy_from_slice(reset_vector);
    let path = store(host).join(format!("{}.rom", Uuid::new_v4().simple()));
    fs::write(&path, rom).unwrap();
    path
}

fn loader(rom: &Path) -> String {
    format!("<loader readonly='yes' type='rom'>{}</loader>", rom.display())
}

struct RealRig(Libvirt);

impl Rig for RealRig {
    fn hypervisor(&self) -> &dyn Hypervisor {
        &self.0
    }
    fn domain_type(&self) -> &str {
        "qemu"
    }
    fn guest_obeys(&self) -> bool {
        false
    }
    fn disk(&self) -> Option<Volume> {
        Some(volume("vda", &image(Host::shared(), None)))
    }
    fn overlay(&self, on: &Volume) -> Volume {
        volume(&on.name, &image(Host::shared(), Some(&on.path)))
    }
}

#[test]
fn libvirt_does_what_every_hypervisor_does() {
    conformance::all(&|| Box::new(RealRig(connect(Host::shared()))));
}

#[test]
fn libvirt_does_what_every_hypervisor_does_where_its_library_is_asked_for_everything() {
    conformance::all(&|| Box::new(RealRig(connect(Host::shared()).through_the_library())));
}

#[test]
fn every_call_says_so_where_nobody_listens() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("sock");
    let libvirt =
        Libvirt::new(&format!("qemu:///system?socket={}", socket.display()), TIMEOUT, folder.path());

    let told = |error: Error| {
        let text = format!("{error}\nhint: {}", error.hint().unwrap());
        text.replace(&socket.display().to_string(), "SOCKET")
    };
    insta::assert_snapshot!(told(libvirt.domains().unwrap_err()), @r"
    cannot reach libvirt at qemu:///system?socket=SOCKET: it is not running, or not installed
    hint: install it (`apt install libvirt-daemon-system`) or start it (`systemctl start libvirtd`)
    ");
    // A socket that its daemon left behind.
    drop(UnixListener::bind(&socket).unwrap());
    insta::assert_snapshot!(told(libvirt.start(Uuid::new_v4()).unwrap_err()), @r"
    cannot reach libvirt at qemu:///system?socket=SOCKET: nobody listens on its socket
    hint: start it: `systemctl start libvirtd`
    ");

    assert_eq!(libvirt.guest_kind(), "qemu");
    let probes = libvirt.probes();
    assert_eq!(probes.len(), 1, "{probes:?}");
    assert_eq!(probes[0].verdict, Verdict::Absent);
    assert!(!folder.path().join("kvm-probe.json").exists(), "a verdict without a guest was remembered");
}

#[test]
fn a_socket_that_never_answers_is_given_up_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    let limit = Duration::from_millis(300);
    let libvirt = Libvirt::new(&format!("qemu:///system?socket={}", socket.display()), limit, folder.path());

    let begun = Instant::now();
    let error = libvirt.domains().unwrap_err();

    assert!(begun.elapsed() >= limit && begun.elapsed() < limit * 4, "{:?}", begun.elapsed());
    assert!(error.to_string().ends_with(": it did not answer within 0.3 s"), "{error}");
    assert!(error.hint().unwrap().contains("systemctl status libvirtd"));

    // What follows does not wait again, and neither does the end.
    let begun = Instant::now();
    libvirt.domain("web-5").unwrap_err();
    drop(libvirt);
    assert!(begun.elapsed() < limit, "{:?}", begun.elapsed());
}

#[test]
fn a_daemon_that_hangs_is_given_up_in_time_and_found_again_when_it_goes_on() {
    let host = Host::start();
    let libvirt = Libvirt::new(&host.uri(), Duration::from_millis(500), &host.state_dir());
    libvirt.domains().unwrap();

    host.signal_libvirtd("STOP");
    let begun = Instant::now();
    let error = libvirt.domains().unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(3));
    assert!(error.to_string().ends_with("it did not answer within 0.5 s"), "{error}");

    host.signal_libvirtd("CONT");
    let back = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        libvirt.domains().is_ok()
    });
    assert!(back, "libvirt answers again, but nobody asks it");
}

#[test]
fn a_daemon_that_was_started_again_is_found_again() {
    let mut host = Host::start();
    let libvirt = connect(&host);
    libvirt.domains().unwrap();
    host.stop_libvirtd();
    libvirt.domains().unwrap_err();
    host.start_libvirtd().unwrap();
    libvirt.domains().unwrap();
}

#[test]
fn whoever_may_not_use_the_socket_is_told_how_to() {
    let host = Host::start();
    let uri = host.uri();
    fs::set_permissions(host.folder(), fs::Permissions::from_mode(0o700)).unwrap();
    // The rights of files belong to the thread, and to those that it starts.
    let refused = std::thread::spawn(move || {
        nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65534));
        Libvirt::new(&uri, TIMEOUT, Path::new("/nonexistent")).domains().unwrap_err()
    });
    let error = refused.join().unwrap();
    assert!(error.to_string().ends_with(": permission denied"), "{error}");
    assert!(error.hint().unwrap().contains("group libvirt"));
}

#[test]
fn a_definition_keeps_its_secrets_and_what_others_wrote_into_it() {
    let libvirt = connect(Host::shared());
    let machine = Machine::define(&libvirt, "qemu", "", "<graphics type='vnc' port='-1' passwd='sesame'/>");
    let definition = machine.next_definition();
    assert!(definition.contains("passwd='sesame'"), "{definition}");
    assert!(definition.contains("kept</k:x>"), "{definition}");
}

#[test]
fn a_zero_byte_is_refused_before_it_reaches_libvirt() {
    let libvirt = connect(Host::shared());
    assert!(matches!(libvirt.domain("a\0b"), Err(Error::Usage { .. })));
    assert!(matches!(libvirt.define("<domain>\0"), Err(Error::Usage { .. })));
    assert!(matches!(libvirt.network("\0"), Err(Error::Usage { .. })));
}

#[test]
fn a_refused_name_says_what_to_do() {
    let libvirt = connect(Host::shared());
    let machine = Machine::plain(&libvirt);
    let other =
        machine.definition("qemu", "", "").replace(&machine.uuid.to_string(), &Uuid::new_v4().to_string());
    let error = libvirt.define(&other).unwrap_err();
    let expected = format!(
        "cannot define the machine: domain '{}' already exists with uuid {}",
        machine.name, machine.uuid
    );
    assert_eq!(error.to_string(), expected);
    assert_eq!(error.hint(), Some("choose another name, or delete the machine that has it"));
}

#[test]
fn forgetting_a_machine_leaves_its_files_and_takes_libvirts_notes_of_it() {
    let host = Host::shared();
    let libvirt = connect(host);
    let image = image(host, None);
    let nvram = store(host).join("kept.nvram");
    fs::write(&nvram, "variables").unwrap();
    let code = "/usr/share/OVMF/OVMF_CODE_4M.fd";
    let os =
        format!("<loader readonly='yes' type='pflash'>{code}</loader><nvram>{}</nvram>", nvram.display());
    let machine = Machine::define(&libvirt, "qemu", &os, &disk("vda", &image));
    let note = store(host).join("snapshot.xml");
    let snapshot = format!(
        "<domainsnapshot><name>before</name><creationTime>1</creationTime><state>shutoff</state>
         <disks><disk name='vda' snapshot='internal'/></disks>{}</domainsnapshot>",
        machine.next_definition()
    );
    fs::write(&note, snapshot).unwrap();
    let noted = host.virsh(["snapshot-create", &machine.name, &note.display().to_string(), "--redefine"]);
    assert_eq!(noted.code, Some(0), "{}", noted.stderr);

    assert!(libvirt.undefine(machine.uuid).unwrap().is_changed());

    assert_eq!(libvirt.domain(&machine.name).unwrap(), None);
    assert_eq!(fs::read_to_string(&nvram).unwrap(), "variables");
    assert!(image.exists());
}

#[test]
fn a_running_machine_has_a_console_on_a_terminal() {
    let libvirt = connect(Host::shared());
    let machine = Machine::define(&libvirt, "qemu", "", "<serial type='pty'/>");
    libvirt.start(machine.uuid).unwrap();
    assert!(libvirt.console(machine.uuid).unwrap().starts_with("/dev/pts"));
    assert_eq!(libvirt.addresses(machine.uuid).unwrap(), []);

    let mute = Machine::plain(&libvirt);
    libvirt.start(mute.uuid).unwrap();
    let error = libvirt.console(mute.uuid).unwrap_err();
    assert_eq!(error.to_string(), format!("{} has no serial console on a terminal", mute.name));
}

#[test]
fn a_machine_whose_processor_stops_at_once_is_not_started_and_is_off_again() {
    let host = Host::shared();
    let libvirt = connect(host);
    // mov $0x505,%dx; mov $1,%al; out %al,(%dx); hlt: tells the panic device, upon which QEMU stops it.
    let rom = firmware(host, &[0xba, 0x05, 0x05, 0xb0, 0x01, 0xee, 0xf4]);
    let machine = Machine::define(&libvirt, "qemu", &loader(&rom), "<panic model='isa'/>");

    let error = libvirt.start(machine.uuid).unwrap_err();

    assert!(
        error.to_string().starts_with(&format!("cannot start {}: its guest crashed", machine.name)),
        "{error}"
    );
    assert!(error.hint().unwrap().starts_with("it was turned off again"), "{error:?}");
    assert_eq!(machine.state(), State::Off);
}

#[test]
fn a_machine_that_does_nothing_is_believed_after_a_moment() {
    let host = Host::shared();
    let libvirt = connect(host);
    let rom = firmware(host, &[0xf4, 0xeb, 0xfd]); // hlt, for ever
    let machine = Machine::define(&libvirt, "qemu", &loader(&rom), "");
    assert!(libvirt.start(machine.uuid).unwrap().is_changed());
    assert_eq!(machine.state(), State::Running);
}

#[test]
fn a_machine_that_somebody_paused_is_neither_started_nor_turned_off() {
    let host = Host::shared();
    let libvirt = connect(host);
    let machine = Machine::plain(&libvirt);
    libvirt.start(machine.uuid).unwrap();
    host.virsh(["suspend", &machine.name]);

    let error = libvirt.start(machine.uuid).unwrap_err();

    assert_eq!(error.to_string(), format!("cannot start {}: paused by somebody", machine.name));
    assert_eq!(machine.state(), State::Paused);
}

#[test]
fn a_disk_that_cannot_be_opened_is_named() {
    let host = Host::shared();
    let libvirt = connect(host);
    let gone = store(host).join("gone.qcow2");
    let machine = Machine::define(&libvirt, "qemu", "", &disk("vda", &gone));
    let error = libvirt.start(machine.uuid).unwrap_err();
    assert!(error.to_string().contains("gone.qcow2"), "{error}");
    assert_eq!(machine.state(), State::Off);
}

#[test]
fn all_disks_of_a_running_machine_are_switched_at_one_moment() {
    let host = Host::shared();
    let libvirt = connect(host);
    let (a, b, c) = (image(host, None), image(host, None), image(host, None));
    let disks = [disk("vda", &a), disk("vdb", &b), disk("vdc", &c)].concat();
    let machine = Machine::define(&libvirt, "qemu", "", &disks);
    libvirt.start(machine.uuid).unwrap();
    let (over_a, over_b) = (image(host, Some(&a)), image(host, Some(&b)));
    let repoints = [repoint(&machine, "vda", &over_a), repoint(&machine, "vdb", &over_b)];

    assert_eq!(libvirt.switch_disks(machine.uuid, &repoints).unwrap(), Consistency::CrashConsistent);

    let live = host.virsh(["domblklist", &machine.name]).stdout;
    for file in [&over_a, &over_b, &c] {
        assert!(live.contains(&file.display().to_string()), "{live}");
        assert!(machine.next_definition().contains(&format!("'{}'", file.display())));
    }
    assert_eq!(host.virsh(["snapshot-list", "--name", &machine.name]).stdout.trim(), "");
}

#[test]
fn a_definition_that_went_its_own_way_follows_the_switch_too() {
    let host = Host::shared();
    let libvirt = connect(host);
    let (a, other) = (image(host, None), image(host, None));
    let machine = Machine::define(&libvirt, "qemu", "", &disk("vda", &a));
    libvirt.start(machine.uuid).unwrap();
    libvirt.define(&machine.definition("qemu", "", &disk("vda", &other))).unwrap();
    let over = image(host, Some(&a));

    libvirt.switch_disks(machine.uuid, &[repoint(&machine, "vda", &over)]).unwrap();

    assert!(machine.next_definition().contains(&format!("'{}'", over.display())));
}

#[test]
fn a_machine_that_is_off_is_pointed_at_its_new_disks() {
    let host = Host::shared();
    let libvirt = connect(host);
    let (a, b) = (image(host, None), image(host, None));
    let machine = Machine::define(&libvirt, "qemu", "", &disk("vda", &a));
    for _ in 0..2 {
        let consistency = libvirt.switch_disks(machine.uuid, &[repoint(&machine, "vda", &b)]).unwrap();
        assert_eq!(consistency, Consistency::Stopped);
        let definition = machine.next_definition();
        assert!(definition.contains(&format!("'{}'", b.display())), "{definition}");
        assert!(definition.contains("kept</k:x>"), "{definition}");
    }
}

#[test]
fn an_overlay_that_is_not_there_fails_and_nothing_moves() {
    let host = Host::shared();
    let libvirt = connect(host);
    let a = image(host, None);
    let machine = Machine::define(&libvirt, "qemu", "", &disk("vda", &a));
    libvirt.start(machine.uuid).unwrap();
    let gone = store(host).join("no-overlay.qcow2");

    libvirt.switch_disks(machine.uuid, &[repoint(&machine, "vda", &gone)]).unwrap_err();

    assert!(host.virsh(["domblklist", &machine.name]).stdout.contains(&a.display().to_string()));
    assert!(machine.next_definition().contains(&format!("'{}'", a.display())));
}

/// A machine with a real guest: its disk, the channel of its agent, and its console on a socket.
fn guest<'a>(host: &Host, libvirt: &'a Libvirt, more: &str) -> (Machine<'a>, PathBuf, PathBuf) {
    let guest = Guest::ensure(&Ui::default()).unwrap();
    let base = store(host).join(format!("{}.qcow2", Uuid::new_v4().simple()));
    fs::copy(guest.image(), &base).unwrap();
    let console = host.folder().join("console");
    let devices = format!(
        "{}<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
         <serial type='unix'><source mode='bind' path='{}'/></serial>{more}",
        disk("vda", &base),
        console.display()
    );
    let machine = Machine::define(libvirt, "qemu", "", &devices);
    libvirt.start(machine.uuid).unwrap();
    (machine, base, console)
}

fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !ready() {
        assert!(Instant::now() < deadline, "not within 120 s: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Logs in on a console and runs a command there.
fn type_into(console: &Path, command: &str) {
    let mut console = UnixStream::connect(console).unwrap();
    for line in ["root", command] {
        console.write_all(format!("{line}\n").as_bytes()).unwrap();
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn signal_agent(signal: &str) -> String {
    format!("for p in /proc/[0-9]*; do grep -q bin/agent $p/cmdline && kill -{signal} ${{p#/proc/}}; done")
}

fn agent_answers(host: &Host, machine: &Machine<'_>) -> bool {
    let ping = ["qemu-agent-command", "--timeout", "1", &machine.name, r#"{"execute":"guest-ping"}"#];
    host.virsh(ping).code == Some(0)
}

#[test]
fn a_guest_with_an_agent_is_frozen_for_the_switch_has_addresses_and_shuts_down_when_asked() {
    let host = Host::start();
    let libvirt = connect(&host);
    let lan = host.folder().join("lan.xml");
    fs::write(
        &lan,
        "<network><name>lan</name><bridge name='lan0'/><ip address='10.9.8.1' netmask='255.255.255.0'>
         <dhcp><range start='10.9.8.20' end='10.9.8.30'/></dhcp></ip></network>",
    )
    .unwrap();
    host.virsh(["net-create", &lan.display().to_string()]).ok();
    let (machine, base, console) = guest(
        &host,
        &libvirt,
        "<interface type='network'><source network='lan'/><model type='virtio'/></interface>",
    );
    wait_for("the agent", || agent_answers(&host, &machine));

    let over = image(&host, Some(&base));
    let first = [repoint(&machine, "vda", &over)];
    assert_eq!(libvirt.switch_disks(machine.uuid, &first).unwrap(), Consistency::Frozen);

    // An agent that answers but cannot freeze.
    let signal = signal_agent("KILL");
    type_into(&console, &format!("{signal}; sed s/fsfreeze-freeze/never/ /bin/agent >/tmp/a; sh /tmp/a &"));
    wait_for("the other agent", || {
        let frozen = host.virsh(["domfsfreeze", &machine.name]).code == Some(0);
        !frozen && agent_answers(&host, &machine)
    });
    let again = image(&host, Some(&over));
    let second = [repoint(&machine, "vda", &again)];
    assert_eq!(libvirt.switch_disks(machine.uuid, &second).unwrap(), Consistency::CrashConsistent);

    wait_for("a lease", || !libvirt.addresses(machine.uuid).unwrap().is_empty());
    let addresses = libvirt.addresses(machine.uuid).unwrap();
    assert_eq!(addresses.len(), 1, "{addresses:?}");
    assert!(addresses[0].address.to_string().starts_with("10.9.8."), "{addresses:?}");
    assert_eq!(addresses[0].source, "lease");
    assert!(machine.next_definition().contains(&addresses[0].mac));

    assert!(libvirt.shutdown(machine.uuid, Duration::from_secs(60)).unwrap().is_changed());
    assert_eq!(machine.state(), State::Off);
}

#[test]
fn a_guest_whose_agent_hangs_is_switched_and_shut_down_all_the_same() {
    let host = Host::start();
    let libvirt = connect(&host);
    let (machine, base, console) = guest(&host, &libvirt, "");
    wait_for("the agent", || agent_answers(&host, &machine));
    type_into(&console, &signal_agent("STOP"));
    wait_for("the agent to hang", || !agent_answers(&host, &machine));

    let begun = Instant::now();
    let over = image(&host, Some(&base));
    let consistency = libvirt.switch_disks(machine.uuid, &[repoint(&machine, "vda", &over)]).unwrap();
    assert_eq!(consistency, Consistency::CrashConsistent);
    assert_eq!(libvirt.addresses(machine.uuid).unwrap(), []);
    assert!(begun.elapsed() < TIMEOUT, "{:?}", begun.elapsed());

    libvirt.shutdown(machine.uuid, Duration::from_secs(60)).unwrap();
    assert_eq!(machine.state(), State::Off);
}

#[test]
fn a_network_is_down_until_it_is_started() {
    let host = Host::start();
    let libvirt = connect(&host);
    assert_eq!(libvirt.network("lan").unwrap(), None);
    let file = host.folder().join("lan.xml");
    fs::write(&file, "<network><name>lan</name><bridge name='lan0'/><ip address='10.9.8.1' netmask='255.255.255.0'/></network>")
        .unwrap();
    assert_eq!(host.virsh(["net-define", &file.display().to_string()]).code, Some(0));
    assert_eq!(libvirt.network("lan").unwrap(), Some(false));
    let started = host.virsh(["net-start", "lan"]);
    assert_eq!(started.code, Some(0), "{}", started.stderr);
    assert_eq!(libvirt.network("lan").unwrap(), Some(true));
}

#[test]
fn the_probe_runs_a_guest_leaves_nothing_and_remembers_its_verdict() {
    let host = Host::start();
    let libvirt = connect(&host);
    let kind = libvirt.guest_kind();
    let hardware =
        libvirt.probes().into_iter().find(|probe| probe.subject == "hardware virtualisation").unwrap();
    assert_eq!(hardware.verdict == Verdict::Serves, kind == "kvm", "{hardware:?}");
    assert_eq!(libvirt.capabilities().hardware, kind == "kvm");
    assert_eq!(libvirt.domains().unwrap(), []);
    assert!(
        fs::read_dir(host.state_dir()).unwrap().flatten().all(|entry| entry.file_name() == "kvm-probe.json")
    );

    let memory = host.state_dir().join("kvm-probe.json");
    let Ok(verdict) = fs::read_to_string(&memory) else {
        // Without an offer of KVM no guest is run, and nothing is worth remembering.
        assert!(hardware.finding.contains("offers no KVM"), "{hardware:?}");
        return;
    };
    let (was, other) = if kind == "kvm" { ("true", "false") } else { ("false", "true") };
    fs::write(
        &memory,
        verdict.replace(&format!("\"runs_guests\":{was}"), &format!("\"runs_guests\":{other}")),
    )
    .unwrap();
    assert_ne!(connect(&host).guest_kind(), kind, "the verdict was found out again");
    fs::write(&memory, verdict.replace("\"boot_id\":\"", "\"boot_id\":\"other")).unwrap();
    assert_eq!(connect(&host).guest_kind(), kind);
}

#[test]
fn a_kvm_machine_starts_where_guests_stay_up_and_is_off_again_where_they_do_not() {
    let host = Host::shared();
    let libvirt = connect(host);
    // The kernel's way up, as the probe goes it; one that comes to its end stays there.
    let mut rom = vec![0; (64 << 10) - 512];
    rom.extend_from_slice(include_bytes!("../src/libvirt/rom/probe.bin"));
    let path = store(host).join("way-up.rom");
    fs::write(&path, rom).unwrap();
    if libvirt.probes().iter().any(|probe| probe.finding.contains("offers no KVM")) {
        let machine = Machine::define(&libvirt, "qemu", &loader(&path), "");
        libvirt.start(machine.uuid).unwrap();
        return;
    }
    let machine = Machine::define(&libvirt, "kvm", &loader(&path), "");

    let started = libvirt.start(machine.uuid);

    if libvirt.guest_kind() == "kvm" {
        assert!(started.unwrap().is_changed());
        assert_eq!(machine.state(), State::Running);
    } else {
        let error = started.unwrap_err();
        assert!(error.to_string().contains("internal error"), "{error}");
        assert!(error.hint().unwrap().contains("'qemu'"), "{error:?}");
        assert_eq!(machine.state(), State::Off);
    }
}
