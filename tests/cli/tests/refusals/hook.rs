//! libvirt's hook on a host without ZFS: it stands in nobody's way but where a machine is to run on a volume.

use kld_cli_tests::only_on;
use kld_test_support::Host;
use kld_test_support::host::Store;

fn define(host: &Host, name: &str, disk: &str) {
    let xml = format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>16</memory>\
         <os><type arch='x86_64' machine='q35'>hvm</type></os><devices>{disk}</devices></domain>"
    );
    let file = host.folder().join("domain.xml");
    std::fs::write(&file, xml).unwrap();
    host.virsh(["define", file.to_str().unwrap()]).ok();
}

#[test]
fn plain_virsh_start_is_refused_on_a_volume_that_cannot_be_verified_and_on_nothing_else() {
    if only_on(Store::Dir, "where ZFS is, libvirt itself looks for the device first") {
        return;
    }
    let host = Host::start();
    define(&host, "plain", "");
    define(
        &host,
        "web",
        "<disk type='block'><source dev='/dev/zvol/nowhere/web/vda'/><target dev='vda'/></disk>",
    );
    host.run("kvm-hook", ["--install"]).ok();
    host.signal_libvirtd("HUP");
    // libvirt reads its configuration beside what it does for others.
    std::thread::sleep(std::time::Duration::from_secs(1));

    let refused = host.virsh(["start", "web"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("error: web is not started: "), "{}", refused.stderr);
    assert!(refused.stderr.contains("hint: "), "{}", refused.stderr);
    host.virsh(["start", "plain"]).ok();
    host.virsh(["destroy", "plain"]).ok();

    // Somebody else's hook of the same name stays.
    let hook = host.folder().join("hooks/qemu.d/kld");
    host.run("kvm-hook", ["--remove"]).ok();
    std::fs::write(&hook, "#!/bin/sh\n").unwrap();
    for (options, code) in [(&["--install"][..], 4), (&["--remove"], 4), (&[], 1)] {
        let ran = host.run("kvm-hook", options);
        assert_eq!(ran.code, Some(code), "{ran}");
        assert!(ran.stderr.contains("hint: give it another name"), "{ran}");
    }
    assert_eq!(std::fs::read_to_string(&hook).unwrap(), "#!/bin/sh\n");
}
