//! What kld does not know in a definition is kept.

use kld_test_support::Host;

use crate::table::host;

/// Parts of a definition that kld has no types for: of libvirt, of QEMU's namespace, of other programs.
const UNKNOWN: [(&str, &str); 3] = [
    (
        "<memory ",
        "<description>A machine &amp; its \"quirks\" &lt;kept&gt;</description>\
         <metadata><app:inventory xmlns:app='https://example.org/inventory/3' rack='12'>\
         <!-- the auditor's note --><app:owner since='2019'>J\u{fc}rgen &amp; Co</app:owner><app:empty/></app:inventory></metadata><memory ",
    ),
    (
        "</devices>",
        "<vsock model='virtio'><cid auto='yes'/></vsock>\
         <memballoon model='virtio' autodeflate='on'/></devices>\
         <qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><qemu:env name='KLD_TEST' value='kept'/></qemu:commandline>",
    ),
    ("<on_crash>", "<on_lockfailure>pause</on_lockfailure><on_crash>"),
];

fn definition(host: &Host, machine: &str) -> String {
    host.virsh(["dumpxml", "--inactive", machine]).ok()
}

/// The definition as lines, without what makes it this machine's own.
fn nameless(host: &Host, machine: &str) -> Vec<String> {
    let text = kld_test_support::redact(&definition(host, machine));
    text.lines().map(|line| line.replace(machine, "[name]")).collect()
}

fn with_the_unknown(host: &Host) {
    let mut text = definition(host, "src");
    text = without(&text, "<memballoon", "</memballoon>");
    for (place, more) in UNKNOWN {
        if text.contains(place) {
            text = text.replacen(place, more, 1);
        }
    }
    let file = host.folder().join("home/unknown.xml");
    std::fs::write(&file, text).unwrap();
    host.virsh(["define", file.to_str().unwrap()]).ok();
    let defined = definition(host, "src");
    for kept in [
        "app:inventory",
        "rack=\"12\"",
        "the auditor's note",
        "J\u{fc}rgen &amp; Co",
        "qemu:env",
        "vsock",
        "autodeflate",
    ] {
        assert!(defined.contains(kept), "libvirt itself keeps {kept}: {defined}");
    }
}

/// The text without its first part between two marks.
fn without(text: &str, from: &str, to: &str) -> String {
    match text.split_once(from).and_then(|(before, rest)| Some((before, rest.split_once(to)?.1))) {
        Some((before, after)) => format!("{before}{after}"),
        None => text.to_string(),
    }
}

#[test]
fn a_clone_keeps_all_that_kld_does_not_know() {
    let (host, _) = host();
    with_the_unknown(&host);
    let before = nameless(&host, "src");
    host.run("kvm-clone", ["src", "web"]).ok();
    assert_eq!(nameless(&host, "src"), before, "the source differs in its disks' places only");
    assert_eq!(nameless(&host, "web"), before);
}

#[test]
fn a_snapshot_a_rollback_and_a_template_keep_all_that_kld_does_not_know() {
    let (host, _) = host();
    with_the_unknown(&host);
    let before = nameless(&host, "src");
    host.run("kvm-snap", ["src", "create", "one"]).ok();
    assert_eq!(nameless(&host, "src"), before);
    // Something else meanwhile, which the rollback takes back.
    let file = host.folder().join("home/other.xml");
    std::fs::write(
        &file,
        definition(&host, "src")
            .replace("rack=\"12\"", "rack='13'")
            .replace("autodeflate='on'", "autodeflate='off'"),
    )
    .unwrap();
    host.virsh(["define", file.to_str().unwrap()]).ok();
    assert_ne!(nameless(&host, "src"), before);
    host.run("kvm-snap", ["src", "rollback", "one"]).ok();
    assert_eq!(nameless(&host, "src"), before);
    let whole = definition(&host, "src");
    host.run("kvm-template", ["src"]).ok();
    host.run("kvm-template", ["src", "--undo"]).ok();
    assert_eq!(definition(&host, "src"), whole);
}
