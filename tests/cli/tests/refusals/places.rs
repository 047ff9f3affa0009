//! Stores, state folders and daemons that do not serve. File systems that are full or read-only are mounted in a
//! namespace of the one tool that runs there, so that nothing of them is left.
#![allow(clippy::disallowed_types, reason = "a tool runs in a mount namespace of its own")]

use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use kld_cli_tests::{everything, only_on};
use kld_test_support::host::Store;
use kld_test_support::{Host, tool};

use crate::table::{host, refused, show, words};

/// Arguments: the folder, the size of the memory that stands for it, `full`, `roomy` or `ro`, the command line.
const ELSEWHERE: &str = r#"
set -e
folder=$1 size=$2 how=$3 keep=$(mktemp -d)
shift 3
cp -a "$folder/." "$keep/"
mount -t tmpfs -o mode=755,size="$size" kld "$folder"
cp -a "$keep/." "$folder/"
rm -rf "$keep"
case $how in
    full) dd if=/dev/zero of="$folder/filler" bs=4k 2>/dev/null || true ;;
    ro) mount -o remount,ro "$folder" ;;
esac
list() { (cd "$folder" && find . -type f ! -path './locks/*' ! -name lock ! -name kvm-probe.json -printf '%p %s %m\n' | sort); }
before=$(list)
code=0
"$@" || code=$?
after=$(list)
[ "$before" = "$after" ] || { echo "it left something there:"; diff <(echo "$before") <(echo "$after") || true; }
exit $code
"#;

/// Runs command lines, each with another file system in the place of a folder; each must change nothing.
fn refused_elsewhere(host: &Host, folder: &Path, size: &str, how: &str, lines: &[&str]) -> String {
    let before = everything(host);
    let mut table = String::new();
    for line in lines {
        let run = words(line);
        let program = host.tool(&run[0].to_string_lossy());
        let mut command = tool::command(Path::new("/usr/bin/unshare"));
        command.envs(host.env()).args(["--mount", "bash", "-c", ELSEWHERE, "elsewhere"]);
        command.arg(folder).args([size, how]).arg(program).args(&run[1..]);
        let ran = tool::run(command);
        let shown = show(&run, &ran);
        assert_eq!(everything(host), before, "it changed something:\n{shown}");
        table += &shown;
        table.push('\n');
    }
    table
}

#[test]
fn a_store_without_space_keeps_what_it_has() {
    if only_on(Store::Dir, "its folder is replaced by one that is full") {
        return;
    }
    let (host, image) = host();
    host.qemu_io(["-f", "qcow2", "-c", "write -P 0x6c 1M 8M", &image]).ok();
    host.run("kvm-snap", ["src", "create", "zero"]).ok();
    let disk = host.virsh(["domblklist", "src"]).ok();
    let disk = disk.split_whitespace().find(|word| word.ends_with(".qcow2")).unwrap();
    host.qemu_io(["-f", "qcow2", "-c", "write 1M 64k", disk]).ok();
    let create = format!("kvm-create new --from {image} --cloud-init");
    let lines = [
        create.as_str(),
        "kvm-clone src web",
        "kvm-clone src web --full",
        "kvm-snap src create one",
        "kvm-snap src rollback zero",
    ];
    let store = host.store_root();
    insta::assert_snapshot!(refused_elsewhere(&host, &store, "4m", "roomy", &lines[..1]), @"
    $ kvm-create new --from ~/debian.qcow2 --cloud-init
    exit 1
    error: qemu-img failed: qemu-img: error while writing at byte 3145728: No space left on device
    hint: free some space there and try again
    ");
    insta::assert_snapshot!(refused_elsewhere(&host, &store, "4m", "full", &lines), @"
    $ kvm-create new --from ~/debian.qcow2 --cloud-init
    exit 1
    error: cannot write [host]/store/staged/[uuid].json: No space left on device
    hint: free some space there and try again

    $ kvm-clone src web
    exit 1
    error: cannot write [host]/store/staged/[uuid].json: No space left on device
    hint: free some space there and try again

    $ kvm-clone src web --full
    exit 1
    error: cannot write [host]/store/staged/[uuid].json: No space left on device
    hint: free some space there and try again

    $ kvm-snap src create one
    exit 1
    error: cannot write [host]/store/staged/[uuid].json: No space left on device
    hint: free some space there and try again

    $ kvm-snap src rollback zero
    exit 1
    error: cannot write [host]/store/staged/[uuid].json: No space left on device
    hint: free some space there and try again
    ");
}

#[test]
fn a_full_state_folder_lets_nothing_begin() {
    if only_on(Store::Dir, "the other one mounts machines there") {
        return;
    }
    let (host, _) = host();
    let lines =
        ["kvm-clone src web", "kvm-snap src create one", "kvm-delete src", "kvm-create new --disk 1G"];
    insta::assert_snapshot!(refused_elsewhere(&host, &host.state_dir(), "64k", "full", &lines), @"
    $ kvm-clone src web
    exit 1
    error: cannot write the lock [host]/state/locks/web.lock: No space left on device
    hint: free some space there and try again

    $ kvm-snap src create one
    exit 1
    error: cannot write [host]/state/journal/[uuid].json: No space left on device
    hint: free some space there and try again

    $ kvm-delete src
    exit 1
    error: cannot write [host]/state/journal/[uuid].json: No space left on device
    hint: free some space there and try again

    $ kvm-create new --disk 1G
    exit 1
    error: cannot write the lock [host]/state/locks/new.lock: No space left on device
    hint: free some space there and try again
    ");
}

#[test]
fn folders_that_are_read_only_are_told() {
    if only_on(Store::Dir, "its folder is replaced by one that is read-only") {
        return;
    }
    let (host, _) = host();
    let lines =
        ["kvm-clone src web", "kvm-snap src create one", "kvm-delete src", "kvm-create new --disk 1G"];
    insta::assert_snapshot!(refused_elsewhere(&host, &host.store_root(), "4m", "ro", &lines), @"
    $ kvm-clone src web
    exit 1
    error: cannot create [host]/store/staged/.[uuid].json.kld-new: Read-only file system
    hint: the file system is mounted read-only

    $ kvm-snap src create one
    exit 1
    error: cannot create [host]/store/staged/.[uuid].json.kld-new: Read-only file system
    hint: the file system is mounted read-only

    $ kvm-delete src
    exit 1
    error: cannot delete src: [host]/store cannot be written: Read-only file system
    hint: mount the file system read-write, or name another folder in the configuration

    $ kvm-create new --disk 1G
    exit 1
    error: cannot create [host]/store/staged/.[uuid].json.kld-new: Read-only file system
    hint: the file system is mounted read-only
    ");
    insta::assert_snapshot!(refused_elsewhere(&host, &host.state_dir(), "4m", "ro", &lines), @"
    $ kvm-clone src web
    exit 1
    error: cannot open the lock [host]/state/locks/web.lock: Read-only file system
    hint: the file system is mounted read-only

    $ kvm-snap src create one
    exit 1
    error: cannot open the lock [host]/state/locks/src.lock: Read-only file system
    hint: the file system is mounted read-only

    $ kvm-delete src
    exit 1
    error: cannot open the lock [host]/state/locks/src.lock: Read-only file system
    hint: the file system is mounted read-only

    $ kvm-create new --disk 1G
    exit 1
    error: cannot open the lock [host]/state/locks/new.lock: Read-only file system
    hint: the file system is mounted read-only
    ");
}

#[test]
fn a_store_folder_that_is_none_is_told() {
    if only_on(Store::Dir, "it has a folder") {
        return;
    }
    let (host, _) = host();
    let at = |name: &str| host.folder().join("home").join(name).display().to_string();
    std::fs::write(at("file"), "").unwrap();
    std::os::unix::fs::symlink("nowhere", at("dangling")).unwrap();
    let lines: Vec<String> =
        [at("file"), at("dangling"), at("file/below"), "/proc/kld".into(), "relative".into(), String::new()]
            .map(|root| format!("kvm-create new --disk 1G --set store-root={root}"))
            .into();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    insta::assert_snapshot!(refused(&host, &lines), @"
    $ kvm-create new --disk 1G --set store-root=~/file
    exit 1
    error: ~/file is not a folder
    hint: move it away, or name another folder (store-root in the configuration)

    $ kvm-create new --disk 1G --set store-root=~/dangling
    exit 1
    error: ~/dangling is not a folder
    hint: move it away, or name another folder (store-root in the configuration)

    $ kvm-create new --disk 1G --set store-root=~/file/below
    exit 1
    error: ~/file is not a folder
    hint: move it away, or name another folder (store-root in the configuration)

    $ kvm-create new --disk 1G --set store-root=/proc/kld
    exit 1
    error: cannot create the folder /proc/kld: No such file or directory

    $ kvm-create new --disk 1G --set store-root=relative
    exit 2
    error: store-root is 'relative', which is not an absolute path

    $ kvm-create new --disk 1G --set store-root=
    exit 2
    error: store-root is '', which is not an absolute path
    ");
}

#[test]
fn a_store_folder_behind_a_link_serves_as_if_it_were_in_its_place() {
    if only_on(Store::Dir, "it has a folder") {
        return;
    }
    let host = Host::start();
    let place = host.folder().join("elsewhere");
    std::fs::rename(host.store_root(), &place).unwrap();
    std::os::unix::fs::symlink(&place, host.store_root()).unwrap();
    host.run("kvm-create", ["src", "--disk", "1G"]).ok();
    host.run("kvm-clone", ["src", "web"]).ok();
    host.run("kvm-snap", ["web", "create", "one"]).ok();
    host.run("kvm-delete", ["src", "--promote"]).ok();
    host.run("kvm-delete", ["web"]).ok();
    assert_eq!(everything(&host).keys().collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn a_libvirtd_that_is_down_is_told_and_nothing_is_begun() {
    let (mut host, _) = host();
    let before = everything(&host);
    host.stop_libvirtd();
    let lines = [
        "kvm-list",
        "kvm-show src",
        "kvm-create new --disk 1G",
        "kvm-clone src web",
        "kvm-snap src create one",
        "kvm-start src",
        "kvm-stop src",
        "kvm-delete src",
        "kvm-template src",
        "kvm-ip src",
        "kvm-list --json",
    ];
    let mut table = String::new();
    for line in lines {
        let run = words(line);
        table += &show(&run, &host.run(&run[0].to_string_lossy(), &run[1..]));
        table.push('\n');
    }
    host.start_libvirtd().unwrap();
    assert_eq!(everything(&host), before);
    insta::assert_snapshot!(table, @"
    $ kvm-list
    exit 1
    error: cannot reach libvirt at qemu:///system?socket=[host]/libvirt-sock: nobody listens on its socket
    hint: start it: `systemctl start libvirtd`

    $ kvm-show src
    exit 1
    error: cannot reach libvirt at qemu:///system?socket=[host]/libvirt-sock: nobody listens on its socket
    hint: start it: `systemctl start libvirtd`

    $ kvm-create new --disk 1G
    exit 1
    error: cannot reach libvirt at qemu:///system?socket=[host]/libvirt-sock: nobody listens on its socket
    hint: start it: `systemctl start libvirtd`

    $ kvm-clone src web
    exit 1
    error: cannot reach libvirt at qemu:///system?socket=[host]/libvirt-sock: nobody listens on its socket
    hint: start it: `systemctl start libvirtd`

    $ kvm-snap src create one
    exit 1
    error: cannot reach libvirt at qemu:///system?socket=[host]/libvirt-sock: nobody listens on its socket
    hint: start it: `systemctl start libvirtd`

    $ kvm-start src
    exit 1
    error: cannot reach libvirt at qemu:///system?socket=[host]/libvirt-sock: nobody listens on its socket
    hint: start it: `systemctl start libvirtd`

    $ kvm-stop src
    exit 1
    error: cannot reach libvirt at qemu:///system?socket=[host]/libvirt-sock: nobody listens on its socket
    hint: start it: `systemctl start libvirtd`

    $ kvm-delete src
    exit 1
    error: cannot reach libvirt at qemu:///system?socket=[host]/libvirt-sock: nobody listens on its socket
    hint: start it: `systemctl start libvirtd`

    $ kvm-template src
    exit 1
    error: cannot reach libvirt at qemu:///system?socket=[host]/libvirt-sock: nobody listens on its socket
    hint: start it: `systemctl start libvirtd`

    $ kvm-ip src
    exit 1
    error: cannot reach libvirt at qemu:///system?socket=[host]/libvirt-sock: nobody listens on its socket
    hint: start it: `systemctl start libvirtd`

    $ kvm-list --json
    exit 1
    error: cannot reach libvirt at qemu:///system?socket=[host]/libvirt-sock: nobody listens on its socket
    hint: start it: `systemctl start libvirtd`
    ");
    insta::assert_snapshot!(refused(&host, &["kvm-list --set libvirt-uri=qemu:///system?socket=/nonexistent", "kvm-list --set libvirt-uri=nonsense"]), @"
    $ kvm-list --set libvirt-uri=qemu:///system?socket=/nonexistent
    exit 1
    error: cannot reach libvirt at qemu:///system?socket=/nonexistent: it is not running, or not installed
    hint: install it (`apt install libvirt-daemon-system`) or start it (`systemctl start libvirtd`)

    $ kvm-list --set libvirt-uri=nonsense
    exit 1
    error: cannot reach libvirt at nonsense: no connection driver available for URI 'nonsense' does not include a driver name
    hint: is libvirtd (or virtqemud) running? see `systemctl status libvirtd`
    ");
}

#[test]
fn a_libvirtd_that_hangs_is_given_up_in_time_and_nothing_is_changed() {
    let (host, _) = host();
    let before = everything(&host);
    host.signal_libvirtd("STOP");
    let mut table = String::new();
    for line in [
        "kvm-list",
        "kvm-create new --disk 1G",
        "kvm-clone src web",
        "kvm-snap src create one",
        "kvm-start src",
        "kvm-delete src",
    ] {
        let mut run = words(line);
        run.push(OsString::from("--set=libvirt-timeout=1"));
        let begun = Instant::now();
        table += &show(&run, &host.run(&run[0].to_string_lossy(), &run[1..]));
        table.push('\n');
        assert!(begun.elapsed() < Duration::from_secs(15), "{line} waits for ever");
    }
    host.signal_libvirtd("CONT");
    assert_eq!(everything(&host), before);
    insta::assert_snapshot!(table, @"
    $ kvm-list --set=libvirt-timeout=1
    exit 1
    error: cannot reach libvirt at qemu:///system?socket=[host]/libvirt-sock: it did not answer within [duration]
    hint: is libvirtd (or virtqemud) running? see `systemctl status libvirtd`

    $ kvm-create new --disk 1G --set=libvirt-timeout=1
    exit 1
    error: cannot reach libvirt at qemu:///system?socket=[host]/libvirt-sock: it did not answer within [duration]
    hint: is libvirtd (or virtqemud) running? see `systemctl status libvirtd`

    $ kvm-clone src web --set=libvirt-timeout=1
    exit 1
    error: cannot reach libvirt at qemu:///system?socket=[host]/libvirt-sock: it did not answer within [duration]
    hint: is libvirtd (or virtqemud) running? see `systemctl status libvirtd`

    $ kvm-snap src create one --set=libvirt-timeout=1
    exit 1
    error: cannot reach libvirt at qemu:///system?socket=[host]/libvirt-sock: it did not answer within [duration]
    hint: is libvirtd (or virtqemud) running? see `systemctl status libvirtd`

    $ kvm-start src --set=libvirt-timeout=1
    exit 1
    error: cannot reach libvirt at qemu:///system?socket=[host]/libvirt-sock: it did not answer within [duration]
    hint: is libvirtd (or virtqemud) running? see `systemctl status libvirtd`

    $ kvm-delete src --set=libvirt-timeout=1
    exit 1
    error: cannot reach libvirt at qemu:///system?socket=[host]/libvirt-sock: it did not answer within [duration]
    hint: is libvirtd (or virtqemud) running? see `systemctl status libvirtd`
    ");
}
