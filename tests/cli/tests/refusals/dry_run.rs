use kld_cli_tests::{everything, only_on};
use kld_test_support::host::Store;

use crate::table::{host, show, words};

#[test]
fn a_dry_run_of_each_tool_tells_its_plan_and_changes_nothing() {
    if only_on(Store::Dir, "plans name its files") {
        return;
    }
    let (host, image) = host();
    host.run("kvm-clone", ["src", "web"]).ok();
    for tag in ["one", "two"] {
        host.run("kvm-snap", ["web", "create", tag]).ok();
        let disk = host.virsh(["domblklist", "web"]).ok();
        let disk = disk.split_whitespace().find(|word| word.ends_with(".qcow2")).unwrap();
        host.qemu_io(["-f", "qcow2", "-c", "write 1M 64k", disk]).ok();
    }
    let before = everything(&host);
    let mut table = String::new();
    let create = format!("kvm-create new --from {image} --user me --dry-run");
    for line in [
        create.as_str(),
        "kvm-clone src a b --dry-run",
        "kvm-clone src a --full --dry-run",
        "kvm-clone web a --snapshot one --dry-run",
        "kvm-snap web create three --dry-run",
        "kvm-snap web rollback one -r --dry-run",
        "kvm-snap web delete two --dry-run",
        "kvm-template src --dry-run",
        "kvm-template src --undo --dry-run",
        "kvm-delete src --promote --dry-run",
        "kvm-delete src --recursive --dry-run",
        "kvm-delete web --dry-run --json",
    ] {
        let run = words(line);
        let ran = host.run(&run[0].to_string_lossy(), &run[1..]);
        let shown = show(&run, &ran);
        assert_eq!(ran.code, Some(0), "{shown}");
        assert_eq!(everything(&host), before, "it changed something:\n{shown}");
        table += &shown;
        table.push('\n');
    }
    insta::assert_snapshot!(table, @r#"
    $ kvm-create new --from ~/debian.qcow2 --user me --dry-run
    exit 0
    -- stdout --
    create new
      create    [host]/store/volumes/new.vda.[id].qcow2 (copy of ~/debian.qcow2, 10 GiB)
      define    new (uuid [uuid])

    $ kvm-clone src a b --dry-run
    exit 0
    -- stdout --
    clone src to a, b
      create    [host]/store/volumes/a.vda.[id].qcow2 (overlay on [host]/store/volumes/src.vda.[id].qcow2)
      create    [host]/store/volumes/b.vda.[id].qcow2 (overlay on [host]/store/volumes/src.vda.[id].qcow2)
      define    a (uuid [uuid])
      define    b (uuid [uuid])

    $ kvm-clone src a --full --dry-run
    exit 0
    -- stdout --
    copy src to a
      create    [host]/store/volumes/a.vda.[id].qcow2 (copy of [host]/store/volumes/src.vda.[id].qcow2, 10 GiB)
      define    a (uuid [uuid])

    $ kvm-clone web a --snapshot one --dry-run
    exit 0
    -- stdout --
    clone web to a
      create    [host]/store/volumes/a.vda.[id].qcow2 (overlay on [host]/store/volumes/src.vda.[id].qcow2)
      define    a (uuid [uuid])

    $ kvm-snap web create three --dry-run
    exit 0
    -- stdout --
    snapshot web as three
      freeze    [host]/store/volumes/web.vda.[id].qcow2 (becomes a read-only base)
      create    [host]/store/volumes/web.vda.[id].qcow2 (overlay on [host]/store/volumes/web.vda.[id].qcow2)
      repoint   vda of web (to [host]/store/volumes/web.vda.[id].qcow2)
      record    snapshot three of web (stopped)
      keep      definition (with the snapshot)

    $ kvm-snap web rollback one -r --dry-run
    exit 0
    -- stdout --
    roll web back to one
      discard   two (newer snapshot)
      create    [host]/store/volumes/web.vda.[id].qcow2 (overlay on [host]/store/volumes/src.vda.[id].qcow2)
      repoint   vda of web (to [host]/store/volumes/web.vda.[id].qcow2)
      forget    snapshot two of web
      remove    [host]/store/volumes/web.vda.[id].qcow2
      remove    [host]/store/volumes/web.vda.[id].qcow2
      define    web (as it was)

    $ kvm-snap web delete two --dry-run
    exit 0
    -- stdout --
    delete the snapshot two of web
      forget    snapshot two of web
      merge     [host]/store/volumes/web.vda.[id].qcow2 (into [host]/store/volumes/web.vda.[id].qcow2)

    $ kvm-template src --dry-run
    exit 0
    -- stdout --
    freeze src as a template
      define    src (marked as a template)

    $ kvm-template src --undo --dry-run
    exit 0
    -- stdout --
    thaw src
      nothing to do

    $ kvm-delete src --promote --dry-run
    exit 0
    -- stdout --
    delete src
      undefine  src (uuid [uuid])
      promote   web (stands without src)
      forget    the disks of src
      remove    [host]/store/machines/src/seed/meta-data
      remove    [host]/store/machines/src/seed/user-data
      remove    [host]/store/machines/src/seed.iso
      remove    [host]/store/volumes/src.vda.[id].qcow2

    $ kvm-delete src --recursive --dry-run
    exit 0
    -- stdout --
    delete web, src
      undefine  web (uuid [uuid])
      forget    the disks of web
      remove    [host]/store/machines/web/seed/meta-data
      remove    [host]/store/machines/web/seed/user-data
      remove    [host]/store/machines/web/seed.iso
      remove    [host]/store/machines/web/snapshots/one/domain.xml
      remove    [host]/store/machines/web/snapshots/two/domain.xml
      remove    [host]/store/volumes/web.vda.[id].qcow2
      remove    [host]/store/volumes/web.vda.[id].qcow2
      undefine  src (uuid [uuid])
      forget    the disks of src
      remove    [host]/store/machines/src/seed/meta-data
      remove    [host]/store/machines/src/seed/user-data
      remove    [host]/store/machines/src/seed.iso
      remove    [host]/store/volumes/src.vda.[id].qcow2

    $ kvm-delete web --dry-run --json
    exit 0
    -- stdout --
    {
      "plan": {
        "steps": [
          {
            "detail": "uuid [uuid]",
            "object": "web",
            "verb": "undefine"
          },
          {
            "object": "the disks of web",
            "verb": "forget"
          },
          {
            "object": "[host]/store/machines/web/seed/meta-data",
            "verb": "remove"
          },
          {
            "object": "[host]/store/machines/web/seed/user-data",
            "verb": "remove"
          },
          {
            "object": "[host]/store/machines/web/seed.iso",
            "verb": "remove"
          },
          {
            "object": "[host]/store/machines/web/snapshots/one/domain.xml",
            "verb": "remove"
          },
          {
            "object": "[host]/store/machines/web/snapshots/two/domain.xml",
            "verb": "remove"
          },
          {
            "object": "[host]/store/volumes/web.vda.[id].qcow2",
            "verb": "remove"
          },
          {
            "object": "[host]/store/volumes/web.vda.[id].qcow2",
            "verb": "remove"
          }
        ],
        "title": "delete web"
      },
      "version": 1
    }
    "#);
}
