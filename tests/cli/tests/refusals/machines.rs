use std::process::Stdio;

use kld_cli_tests::{everything, only_on};
use kld_test_support::host::Store;

use crate::table::{host, refused};

#[test]
fn a_name_that_is_taken_and_a_machine_that_is_not_there_are_told() {
    let (host, image) = host();
    host.run("kvm-clone", ["src", "web-1"]).ok();
    // A machine that kld did not make.
    let foreign = "<domain type='qemu'><name>foreign</name><memory unit='MiB'>32</memory>\
        <os><type arch='x86_64' machine='q35'>hvm</type></os></domain>";
    let file = host.folder().join("home/foreign.xml");
    std::fs::write(&file, foreign).unwrap();
    host.virsh(["define", file.to_str().unwrap()]).ok();
    let from_image = format!("kvm-create web-1 --from {image}");
    insta::assert_snapshot!(refused(&host, &[
        "kvm-create src --disk 1G",
        &from_image,
        "kvm-create foreign --disk 1G",
        "kvm-clone src web-1",
        "kvm-clone src new web-1",
        "kvm-clone src foreign",
        "kvm-clone web1 new",
        "kvm-clone nobody-like-that new",
        "kvm-show scr",
        "kvm-start scr",
        "kvm-stop scr",
        "kvm-console scr",
        "kvm-ip scr",
        "kvm-template scr",
        "kvm-delete scr",
        "kvm-delete web-1 scr",
        "kvm-snap scr",
        "kvm-snap scr create one",
        "kvm-ip src",
        "kvm-console src",
    ]), @"
    $ kvm-create src --disk 1G
    exit 1
    error: there is already a machine named 'src'
    hint: choose another name, or delete that one with kvm-delete

    $ kvm-create web-1 --from ~/debian.qcow2
    exit 1
    error: there is already a machine named 'web-1'
    hint: choose another name, or delete that one with kvm-delete

    $ kvm-create foreign --disk 1G
    exit 1
    error: there is already a machine named 'foreign'
    hint: choose another name, or delete that one with kvm-delete

    $ kvm-clone src web-1
    exit 1
    error: there is already a machine named 'web-1'
    hint: choose another name, or delete that one with kvm-delete

    $ kvm-clone src new web-1
    exit 1
    error: there is already a machine named 'web-1'
    hint: choose another name, or delete that one with kvm-delete

    $ kvm-clone src foreign
    exit 1
    error: there is already a machine named 'foreign'
    hint: choose another name, or delete that one with kvm-delete

    $ kvm-clone web1 new
    exit 1
    error: there is no machine 'web1'
    hint: did you mean 'web-1'?

    $ kvm-clone nobody-like-that new
    exit 1
    error: there is no machine 'nobody-like-that'
    hint: kvm-list shows every machine

    $ kvm-show scr
    exit 1
    error: there is no machine 'scr'
    hint: did you mean 'src'?

    $ kvm-start scr
    exit 1
    error: there is no machine 'scr'
    hint: did you mean 'src'?

    $ kvm-stop scr
    exit 1
    error: there is no machine 'scr'
    hint: did you mean 'src'?

    $ kvm-console scr
    exit 1
    error: there is no machine 'scr'
    hint: did you mean 'src'?

    $ kvm-ip scr
    exit 1
    error: there is no machine 'scr'
    hint: did you mean 'src'?

    $ kvm-template scr
    exit 1
    error: there is no machine 'scr'
    hint: did you mean 'src'?

    $ kvm-delete scr
    exit 1
    error: there is no machine 'scr'
    hint: did you mean 'src'?

    $ kvm-delete web-1 scr
    exit 1
    error: there is no machine 'scr'
    hint: did you mean 'src'?

    $ kvm-snap scr
    exit 1
    error: there is no machine 'scr'
    hint: did you mean 'src'?

    $ kvm-snap scr create one
    exit 1
    error: there is no machine 'scr'
    hint: did you mean 'src'?

    $ kvm-ip src
    exit 1
    error: src is off
    hint: start it: kvm-start src

    $ kvm-console src
    exit 1
    error: src is off
    hint: start it: kvm-start src
    ");
}

#[test]
fn what_would_lose_data_is_refused() {
    let (host, _) = host();
    host.run("kvm-clone", ["src", "web"]).ok();
    host.run("kvm-snap", ["web", "create", "one"]).ok();
    host.run("kvm-snap", ["web", "create", "two"]).ok();
    insta::assert_snapshot!(refused(&host, &[
        "kvm-delete src",
        "kvm-delete src --promote --recursive",
        "kvm-snap web rollback one",
        "kvm-snap web rollback tow",
        "kvm-snap web delete three-or-so",
        "kvm-snap src delete one",
        "kvm-snap web create one",
        "kvm-clone web new --snapshot tow",
        "kvm-snap web revert one",
    ]), @"
    $ kvm-delete src
    exit 4
    error: src has clones: web
    hint: add --promote to let them stand without it, or --recursive to delete them too

    $ kvm-delete src --promote --recursive
    exit 2
    error: the argument '--promote' cannot be used with '--recursive'

    Usage: kvm-delete --promote <VM>...

    For more information, try '--help'.

    $ kvm-snap web rollback one
    exit 4
    error: going back to 'one' would lose the newer snapshots of web: two
    hint: add -r (--discard-newer) to give them up

    $ kvm-snap web rollback tow
    exit 1
    error: web has no snapshot 'tow'
    hint: did you mean 'two'?

    $ kvm-snap web delete three-or-so
    exit 1
    error: web has no snapshot 'three-or-so'
    hint: it has one, two

    $ kvm-snap src delete one
    exit 1
    error: src has no snapshot 'one'
    hint: it has none; take one with 'kvm-snap src create'

    $ kvm-snap web create one
    exit 1
    error: web already has a snapshot 'one'
    hint: choose another tag, or delete it with 'kvm-snap web delete one'

    $ kvm-clone web new --snapshot tow
    exit 1
    error: web has no snapshot 'tow'
    hint: did you mean 'two'?

    $ kvm-snap web revert one
    exit 2
    error: unexpected argument 'revert' found

    Usage: kvm-snap [OPTIONS] <VM> [COMMAND]

    For more information, try '--help'.
    ");
}

#[test]
fn a_template_is_started_by_nobody() {
    let (host, _) = host();
    host.run("kvm-template", ["src"]).ok();
    insta::assert_snapshot!(refused(&host, &["kvm-start src"]), @"
    $ kvm-start src
    exit 4
    error: src is a template and is not started
    hint: clone it (kvm-clone src NEW), or thaw it (kvm-template src --undo)
    ");
    let before = everything(&host);
    let ran = host.virsh(["start", "src"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("this machine is a template"), "{}", ran.stderr);
    insta::assert_snapshot!(ran, @"
    exit 1
    -- stderr --
    error: Failed to start domain 'src'
    error: unable to stat: /nonexistent/this machine is a template - clone it, or thaw it with kvm-template --undo: No such file or directory
    ");
    assert_eq!(host.virsh(["domstate", "src"]).ok().trim(), "shut off");
    assert_eq!(everything(&host), before);
    host.run("kvm-template", ["src", "--undo"]).ok();
    assert_eq!(host.run("kvm-start", ["src"]).ok(), "src started\n");
    insta::assert_snapshot!(refused(&host, &[
        "kvm-template src",
        "kvm-delete src",
        "kvm-stop src --timeout 0",
    ]), @"
    $ kvm-template src
    exit 4
    error: src is running, and a template is not
    hint: stop it first: kvm-stop src

    $ kvm-delete src
    exit 4
    error: src is running
    hint: stop it first (kvm-stop src), or add --force to take its power away

    $ kvm-stop src --timeout 0
    exit 3
    error: src is still running after [duration]
    hint: give it more time (--timeout SECONDS), or take its power away (--force)
    ");
    host.run("kvm-delete", ["src", "--force"]).ok();
}

#[test]
fn a_file_that_a_running_machine_writes_is_not_copied() {
    if only_on(Store::Dir, "a volume is copied from a snapshot") {
        return;
    }
    let (host, _) = host();
    host.run("kvm-start", ["src"]).ok();
    insta::assert_snapshot!(refused(&host, &["kvm-clone src web --full"]), @"
    $ kvm-clone src web --full
    exit 3
    error: the disk vda of src is in use and cannot be copied: [host]/store/volumes/src.vda.[id].qcow2
    hint: stop the machine first, or take a snapshot and clone that
    ");
    host.run("kvm-delete", ["src", "--force"]).ok();
}

/// Replaces a part of the definition of `src`.
fn redefine(host: &kld_test_support::Host, from: &str, to: &str) {
    let text = host.virsh(["dumpxml", "--inactive", "src"]).ok();
    assert!(text.contains(from), "{text}");
    let file = host.folder().join("home/changed.xml");
    std::fs::write(&file, text.replacen(from, to, 1)).unwrap();
    host.virsh(["define", file.to_str().unwrap()]).ok();
}

#[test]
fn a_machine_that_was_paused_at_its_start_is_not_called_started() {
    let (host, _) = host();
    host.virsh(["start", "--paused", "src"]).ok();
    insta::assert_snapshot!(refused(&host, &["kvm-start src", "kvm-snap src rollback one", "kvm-delete src"]), @"
    $ kvm-start src
    exit 1
    error: cannot start src: paused by somebody
    hint: `virsh resume src` lets it go on; `kvm-stop --force src` turns it off

    $ kvm-snap src rollback one
    exit 1
    error: src has no snapshot 'one'
    hint: it has none; take one with 'kvm-snap src create'

    $ kvm-delete src
    exit 4
    error: src is paused
    hint: stop it first (kvm-stop src), or add --force to take its power away
    ");
    host.run("kvm-stop", ["src", "--force"]).ok();
}

#[test]
fn a_machine_whose_emulator_cannot_start_is_off_with_the_reason_told() {
    let (host, _) = host();
    let arguments = "<qemu:arg value='-device'/><qemu:arg value='no-such-device'/>";
    let namespace = "xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'";
    let commandline = format!("</devices><qemu:commandline {namespace}>{arguments}</qemu:commandline>");
    redefine(&host, "</devices>", &commandline);
    insta::assert_snapshot!(refused(&host, &["kvm-start src"]), @"
    $ kvm-start src
    exit 1
    error: cannot start src: its emulator ended: qemu-system-x86_64: -device no-such-device: 'no-such-device' is not a valid device model name
    ");
    assert_eq!(host.virsh(["domstate", "src"]).ok().trim(), "shut off");
}

/// Whether KVM serves here or not is the host's matter. What counts is that "started" is the truth.
#[test]
fn a_machine_of_the_type_kvm_is_started_only_where_it_runs() {
    if only_on(Store::Dir, "under the lab's emulated KVM a guest takes minutes") {
        return;
    }
    let (host, _) = host();
    redefine(&host, "<domain type='qemu'", "<domain type='kvm'");
    let ran = host.run("kvm-start", ["src"]);
    let state = host.virsh(["domstate", "src"]).ok();
    match ran.code {
        Some(0) => assert_eq!(state.trim(), "running", "{ran}"),
        code => {
            assert_eq!((code, state.trim(), ran.stdout.as_str()), (Some(1), "shut off", ""), "{ran}");
            assert!(
                ran.stderr.starts_with("error: cannot start src: ") && ran.stderr.contains("\nhint: "),
                "{ran}"
            );
        }
    }
    host.run("kvm-delete", ["src", "--force"]).ok();
}

#[test]
fn a_console_that_is_no_terminal_ends_with_its_input() {
    let (host, _) = host();
    host.run("kvm-start", ["src"]).ok();
    let mut command = host.command("kvm-console");
    command.arg("src").stdin(Stdio::null());
    insta::assert_snapshot!(kld_test_support::tool::run(command), @"
    exit 0
    -- stderr --
    note: connected to src; Ctrl-] leaves
    ");
    host.run("kvm-delete", ["src", "--force"]).ok();
}
