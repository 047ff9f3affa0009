#![allow(clippy::disallowed_types, reason = "a tool runs under a shell that closes its streams")]

use std::path::Path;

use kld_test_support::{Host, Ran, tool};

use crate::table::{host, refused};

/// Runs a tool under a piece of shell, in which it is `"$@"`.
fn under(host: &Host, script: &str, tool_name: &str, args: &[&str]) -> Ran {
    let mut command = tool::command(Path::new("/bin/bash"));
    command.envs(host.env()).args(["-c", script, "under"]).arg(host.tool(tool_name)).args(args);
    tool::run(command)
}

#[test]
fn a_reader_that_goes_away_ends_a_tool_quietly() {
    let (host, _) = host();
    for (tool, args) in [
        ("kvm-list", &[][..]),
        ("kvm-list", &["--json"]),
        ("kvm-show", &["src"]),
        ("kvm-snap", &["src"]),
        ("kvm-clone", &["--help"]),
        ("kvm-clone", &["src", "web", "--dry-run"]),
        ("kld", &["--list"]),
        ("kld", &["--list", "--json"]),
        ("kld", &["kvm-list"]),
    ] {
        for script in ["\"$@\" >&-", "\"$@\" | true; exit ${PIPESTATUS[0]}", "\"$@\" >&- 2>&- <&-"] {
            let ran = under(&host, script, tool, args);
            assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{tool} {args:?} under {script}");
        }
    }
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let (host, _) = host();
    insta::assert_snapshot!(under(&host, "\"$@\" >/dev/full", "kvm-list", &[]), @"
    exit 1
    -- stderr --
    error: cannot write to standard output: No space left on device
    hint: free some space there and try again
    ");
}

#[test]
fn json_is_asked_for_and_an_error_is_still_for_people_and_on_standard_error() {
    let (host, _) = host();
    insta::assert_snapshot!(refused(&host, &[
        "kvm-show nobody --json",
        "kvm-clone src src --json",
        "kvm-snap src rollback one --json",
    ]), @"
    $ kvm-show nobody --json
    exit 1
    error: there is no machine 'nobody'
    hint: kvm-list shows every machine

    $ kvm-clone src src --json
    exit 2
    error: the name 'src' is given twice
    hint: each clone needs a name of its own

    $ kvm-snap src rollback one --json
    exit 1
    error: src has no snapshot 'one'
    hint: it has none; take one with 'kvm-snap src create'
    ");
}

#[test]
fn of_several_machines_each_one_is_tried_and_errors_are_told_in_order() {
    let (host, _) = host();
    insta::assert_snapshot!(host.run("kvm-stop", ["nobody", "src", "scr"]), @"
    exit 1
    -- stdout --
    src is already off
    -- stderr --
    error: there is no machine 'nobody'
    hint: kvm-list shows every machine
    error: there is no machine 'scr'
    hint: did you mean 'src'?
    ");
    insta::assert_snapshot!(host.run("kvm-stop", ["nobody", "src", "--json"]), @r#"
    exit 1
    -- stdout --
    {
      "machines": [
        {
          "changed": false,
          "name": "src"
        }
      ],
      "version": 1
    }
    -- stderr --
    error: there is no machine 'nobody'
    hint: kvm-list shows every machine
    "#);
}

#[test]
fn the_front_door_and_the_settings_say_what_they_do_not_know() {
    let (host, _) = host();
    let folder = host.folder().join("home");
    std::fs::write(folder.join("unknown.toml"), "store-rot = \"/x\"\n").unwrap();
    std::fs::write(folder.join("broken.toml"), "store = [\n").unwrap();
    let (unknown, broken) = (folder.join("unknown.toml"), folder.join("broken.toml"));
    let unknown = format!("kvm-list --config {}", unknown.display());
    let broken = format!("kvm-list --config {}", broken.display());
    insta::assert_snapshot!(refused(&host, &[
        "kld kvm-clon src web",
        "kld nonsense",
        "kld ../kvm-list",
        "kld --nonsense",
        "kld doctor --nonsense",
        "kld kvm-list --nonsense",
        "kld-kvm nonsense",
        "kvm-list --set store-rot=/x",
        "kvm-list --set nonsense=1",
        "kvm-list --set nonsense",
        "kvm-list --set libvirt-timeout=soon",
        "kvm-list --set libvirt-timeout=0",
        "kvm-list --set hypervisor=xen",
        "kvm-list --set store=nfs",
        "kvm-list --set state-dir=relative",
        "kvm-list --config /nonexistent.toml",
        &unknown,
        &broken,
    ]), @"
    $ kld kvm-clon src web
    exit 2
    error: there is no tool 'kvm-clon'
    hint: did you mean 'kvm-clone'?

    $ kld nonsense
    exit 2
    error: there is no tool 'nonsense'
    hint: kld --list shows every tool

    $ kld ../kvm-list
    exit 2
    error: there is no tool '../kvm-list'
    hint: kld --list shows every tool

    $ kld --nonsense
    exit 2
    error: unexpected argument '--nonsense' found

      tip: to pass '--nonsense' as a value, use '-- --nonsense'

    Usage: kld [OPTIONS] [TOOL] [ARGS]...

    For more information, try '--help'.

    $ kld doctor --nonsense
    exit 2
    error: unexpected argument '--nonsense' found

    Usage: kld doctor [OPTIONS]

    For more information, try '--help'.

    $ kld kvm-list --nonsense
    exit 2
    error: unexpected argument '--nonsense' found

    Usage: kvm-list [OPTIONS]

    For more information, try '--help'.

    $ kld-kvm nonsense
    exit 2
    error: kld-kvm has no tool 'nonsense'
    hint: it has kvm-create, kvm-clone, kvm-snap, kvm-list, kvm-show, kvm-start, kvm-stop, kvm-console, kvm-ip, kvm-template, kvm-delete, kvm-hook

    $ kvm-list --set store-rot=/x
    exit 2
    error: unknown setting 'store-rot'
    hint: did you mean 'store-root'?

    $ kvm-list --set nonsense=1
    exit 2
    error: unknown setting 'nonsense'
    hint: the settings are store, store-root, zfs-root, hypervisor, libvirt-uri, libvirt-timeout, state-dir, hook-dir, network

    $ kvm-list --set nonsense
    exit 2
    error: --set nonsense: there is no '=' in it
    hint: write KEY=VALUE

    $ kvm-list --set libvirt-timeout=soon
    exit 2
    error: libvirt-timeout is 'soon'
    hint: write seconds, 1 to 3600

    $ kvm-list --set libvirt-timeout=0
    exit 2
    error: libvirt-timeout is '0'
    hint: write seconds, 1 to 3600

    $ kvm-list --set hypervisor=xen
    exit 2
    error: there is no hypervisor 'xen'
    hint: known here: libvirt

    $ kvm-list --set store=nfs
    exit 2
    error: there is no store 'nfs'
    hint: known here: zfs, dir

    $ kvm-list --set state-dir=relative
    exit 2
    error: state-dir is 'relative', which is not an absolute path

    $ kvm-list --config /nonexistent.toml
    exit 2
    error: there is no configuration file /nonexistent.toml

    $ kvm-list --config ~/unknown.toml
    exit 2
    error: ~/unknown.toml: unknown setting 'store-rot'
    hint: did you mean 'store-root'?

    $ kvm-list --config ~/broken.toml
    exit 2
    error: ~/broken.toml: unclosed array, expected `]`
    ");
}
