//! What other tools did to kld's machines, and what stands on kld's files without its knowledge.

use kld_cli_tests::{eye, only_on};
use kld_test_support::host::Store;
use kld_test_support::{Host, Ran};

use crate::table::host;

/// The tool ends with this code and says all of this, and the machines are as before.
#[track_caller]
fn refuses(host: &Host, code: i32, words: &[&str], tool: &str, args: &[&str]) {
    let before = host.virsh(["list", "--all"]).ok();
    let ran: Ran = host.run(tool, args);
    assert_eq!(ran.code, Some(code), "{ran}");
    for word in words {
        assert!(ran.stderr.contains(word), "'{word}' is not said:\n{ran}");
    }
    assert_eq!(host.virsh(["list", "--all"]).ok(), before);
}

#[track_caller]
fn disk(host: &Host, machine: &str) -> String {
    let shown = host.run("kvm-show", [machine, "--json"]).json();
    shown["machine"]["disks"][0]["path"].as_str().unwrap().to_string()
}

#[test]
fn a_machine_that_virsh_renamed_keeps_its_disks() {
    let (host, _) = host();
    host.run("kvm-clone", ["src", "web"]).ok();
    let disk = disk(&host, "web");
    host.virsh(["domrename", "web", "www"]).ok();

    refuses(&host, 4, &["www was called web", "virsh domrename www web"], "kvm-delete", &["web"]);
    refuses(&host, 4, &["www was called web"], "kvm-clone", &["www", "new"]);
    assert!(std::path::Path::new(&disk).exists());
    let listed = host.run("kvm-list", ["--names"]).ok();
    assert_eq!(listed, "src\nwww\n");

    host.virsh(["domrename", "www", "web"]).ok();
    host.run("kvm-delete", ["web"]).ok();
    assert!(!std::path::Path::new(&disk).exists());
}

#[test]
fn a_base_that_a_machine_of_another_tool_stands_on_is_not_removed() {
    if only_on(Store::Dir, "QEMU overlays stand on files") {
        return;
    }
    let (host, _) = host();
    host.run("kvm-clone", ["src", "web"]).ok();
    // What people write in a shell: an overlay on the clone's disk, and a domain on that.
    let (base, overlay) = (disk(&host, "web"), host.folder().join("home/hand.qcow2").display().to_string());
    host.qemu_img(["create", "-q", "-f", "qcow2", "-b", &base, "-F", "qcow2", &overlay]).ok();
    let definition =
        host.virsh(["dumpxml", "web"]).ok().replace("<name>web<", "<name>hand<").replace(&base, &overlay);
    let without = |line: &&str| !line.contains("<uuid>") && !line.contains("<mac ");
    let definition: String = definition.lines().filter(without).map(|line| format!("{line}\n")).collect();
    let file = host.folder().join("home/hand.xml");
    std::fs::write(&file, definition).unwrap();
    host.virsh(["define", file.to_str().unwrap()]).ok();

    refuses(&host, 4, &["the machine hand, which kld did not make, stands on "], "kvm-delete", &["web"]);
    assert!(std::path::Path::new(&base).is_file());
    host.virsh(["undefine", "hand"]).ok();
    host.run("kvm-delete", ["web"]).ok();
}

#[test]
fn a_machine_whose_memory_is_saved_is_not_cloned_nor_rolled_back() {
    let (host, _) = host();
    host.run("kvm-create", ["web", "--disk", "1G", "--memory", "64M"]).ok();
    host.run("kvm-snap", ["web", "create", "one"]).ok();
    host.run("kvm-start", ["web"]).ok();
    host.virsh(["managedsave", "web"]).ok();
    let says = ["the memory of web is saved", "virsh managedsave-remove web"];
    refuses(&host, 4, &says, "kvm-clone", &["web", "new"]);
    refuses(&host, 4, &says, "kvm-snap", &["web", "create", "two"]);
    refuses(&host, 4, &says, "kvm-snap", &["web", "rollback", "one"]);
    refuses(&host, 4, &says, "kvm-template", &["web"]);
    assert!(host.run("kvm-list", [""; 0]).ok().contains("saved"));
    host.virsh(["managedsave-remove", "web"]).ok();
    host.run("kvm-clone", ["web", "new"]).ok();
}

#[test]
fn a_disk_that_another_program_has_open_is_not_cloned() {
    if only_on(
        Store::Dir,
        "who has a device open is not seen yet, and its clone is one of a moment's contents",
    ) {
        return;
    }
    let (host, _) = host();
    host.run("kvm-create", ["web", "--disk", "1G"]).ok();
    let disk = disk(&host, "web");
    std::thread::scope(|scope| {
        scope.spawn(|| host.qemu_io(["-f", eye(&host).format(), "-c", "sleep 4000", &disk]));
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(3);
        while host.run("kvm-clone", ["web", "probe", "--dry-run"]).code == Some(0) {
            assert!(std::time::Instant::now() < deadline, "nobody sees that the disk is open");
        }
        refuses(&host, 3, &["the disk vda of web is open in another program"], "kvm-clone", &["web", "new"]);
        refuses(
            &host,
            3,
            &["the disk vda of web is open in another program"],
            "kvm-snap",
            &["web", "create", "one"],
        );
    });
    host.run("kvm-clone", ["web", "new"]).ok();
}

#[test]
fn a_running_machine_whose_next_start_would_use_another_disk_is_not_snapshot() {
    if only_on(Store::Dir, "a file is no disk of the ZFS store, which says so first") {
        return;
    }
    let (host, image) = host();
    host.run("kvm-create", ["web", "--disk", "1G", "--memory", "64M", "--start"]).ok();
    let definition = host.virsh(["dumpxml", "--inactive", "web"]).ok();
    let file = host.folder().join("home/other.xml");
    std::fs::write(&file, definition.replace(&disk(&host, "web"), &image)).unwrap();
    host.virsh(["define", file.to_str().unwrap()]).ok();
    refuses(&host, 4, &["runs on ", "restart the machine first"], "kvm-snap", &["web", "create", "one"]);
    // And nothing of the attempt is left.
    let next = host.run("kvm-create", ["other", "--disk", "1G"]);
    assert!(!next.stderr.contains("killed run"), "{next}");
}

#[test]
fn a_qemu_that_is_not_root_reaches_its_disks() {
    let host = Host::unprivileged();
    let image = kld_cli_tests::image(&host, "debian.qcow2").display().to_string();
    host.run("kvm-create", ["src", "--from", &image, "--memory", "64M"]).ok();
    host.run("kvm-clone", ["src", "web", "--start"]).ok();
    host.run("kvm-snap", ["web", "create", "one"]).ok();
    host.run("kvm-start", ["src"]).ok();
    host.run("kvm-stop", ["web", "src", "--force", "--timeout", "0"]).ok();
    host.run("kvm-delete", ["src", "web"]).ok();
}
