use std::time::{Duration, Instant};

use super::*;

/// A machine with the guest's disk and a NoCloud medium that names it, whose console goes to a file.
fn define(host: &Host, guest: &Guest, name: &str) -> PathBuf {
    let (seed, disk) = (host.folder().join("seed"), host.folder().join("disk.qcow2"));
    std::fs::create_dir(&seed).unwrap();
    std::fs::write(seed.join("meta-data"), format!("instance-id: i-{name}\nlocal-hostname: {name}\n"))
        .unwrap();
    std::fs::write(seed.join("user-data"), "#cloud-config\n").unwrap();
    let iso = host.folder().join("seed.iso");
    // As small as kld makes them, which not every reader of labels can stand.
    let args = [
        "-quiet",
        "-no-pad",
        "-V",
        "cidata",
        "-J",
        "-R",
        "-o",
        iso.to_str().unwrap(),
        seed.to_str().unwrap(),
    ];
    host.inside("genisoimage", args).ok();
    std::fs::copy(guest.image(), &disk).unwrap();
    let console = host.folder().join("console");
    let xml = format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>256</memory>\
         <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>\
         <devices>\
         <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{}'/><target dev='vda' bus='virtio'/></disk>\
         <disk type='file' device='cdrom'><source file='{}'/><target dev='sda' bus='sata'/></disk>\
         <serial type='file'><source path='{}'/></serial>\
         <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
         </devices></domain>",
        disk.display(),
        iso.display(),
        console.display()
    );
    let file = host.folder().join("domain.xml");
    std::fs::write(&file, xml).unwrap();
    host.virsh(["define", file.to_str().unwrap()]).ok();
    console
}

fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(90);
    while !ready() {
        assert!(Instant::now() < deadline, "not within 90 s: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn the_guest_says_the_name_that_its_medium_gives_it_answers_its_agent_and_shuts_down() {
    let guest = Guest::ensure(&Ui::default()).unwrap();
    let host = Host::start();
    let console = define(&host, &guest, "web-5");
    host.qemu_io(["-c", "write -P 0x61 512 5", host.folder().join("disk.qcow2").to_str().unwrap()]).ok();

    host.virsh(["start", "web-5"]).ok();
    let said = |text: &str| std::fs::read_to_string(&console).unwrap_or_default().contains(text);
    wait_for("the guest's name", || said("kld-guest: I am web-5 (instance i-web-5)"));
    wait_for("the mark", || said("kld-guest: vda bears 'aaaaa'"));
    wait_for("a login prompt", || said("web-5 login: "));

    wait_for("the agent", || host.virsh(["domfsfreeze", "web-5"]).code == Some(0));
    host.virsh(["domfsthaw", "web-5"]).ok();

    host.virsh(["shutdown", "web-5", "--mode", "acpi"]).ok();
    wait_for("the end", || host.virsh(["domstate", "web-5"]).ok().trim() == "shut off");
}
