//! The tools on pools that are missing, suspended, full, read-only or at their quota, with names at their limits, beside
//! datasets of others, and on hosts that lack a part of ZFS. What is refused leaves everything as it was.
//!
//! Elsewhere than in the lab (`KLD_LAB=1`) these tests say so and do nothing.
#![allow(clippy::print_stderr, clippy::disallowed_types, clippy::disallowed_methods)]

mod place;

use place::{Place, in_lab};

/// Every refusal says one of these, and has exit code 1.
#[track_caller]
fn each_says(said: &str, words: &[&str]) {
    for one in said.split("\n\n").filter(|one| !one.trim().is_empty()) {
        assert!(one.contains("\nexit 1\n") && words.iter().any(|word| one.contains(word)), "{said}");
    }
}

#[test]
fn a_pool_that_is_not_there_is_named() {
    if !in_lab() {
        return;
    }
    let place = Place::new(200, 300);
    insta::assert_snapshot!(place.refused(&[
        "kvm-list --set zfs-root=gone/kld",
        "kvm-create new --disk 8M --set zfs-root=gone/kld",
        "kvm-clone src web --set zfs-root=gone/kld",
        "kvm-snap src create one --set zfs-root=gone/kld",
        "kvm-delete src --set zfs-root=gone/kld",
        "kvm-start src --set zfs-root=gone/kld",
    ]), @"
    $ kvm-list --set zfs-root=gone/kld
    exit 1
    error: no pool 'gone' is imported
    hint: 'zpool import gone' imports it; 'zpool list' shows those that are

    $ kvm-create new --disk 8M --set zfs-root=gone/kld
    exit 1
    error: no pool 'gone' is imported
    hint: 'zpool import gone' imports it; 'zpool list' shows those that are

    $ kvm-clone src web --set zfs-root=gone/kld
    exit 1
    error: no pool 'gone' is imported
    hint: 'zpool import gone' imports it; 'zpool list' shows those that are

    $ kvm-snap src create one --set zfs-root=gone/kld
    exit 1
    error: no pool 'gone' is imported
    hint: 'zpool import gone' imports it; 'zpool list' shows those that are

    $ kvm-delete src --set zfs-root=gone/kld
    exit 1
    error: no pool 'gone' is imported
    hint: 'zpool import gone' imports it; 'zpool list' shows those that are

    $ kvm-start src --set zfs-root=gone/kld
    exit 1
    error: no pool 'gone' is imported
    hint: 'zpool import gone' imports it; 'zpool list' shows those that are
    ");
}

#[test]
fn a_suspended_pool_is_told_of_and_no_tool_hangs() {
    if !in_lab() {
        return;
    }
    // Given a pool whose disk takes no more writes
    let place = Place::new(400, 60);
    place.bash(
        "zfs create -s -V 200M sick/filler; udevadm settle
         dd if=/dev/urandom of=/dev/zvol/sick/filler bs=1M count=100 conv=nocreat >/dev/null 2>&1 &
         for _ in $(seq 600); do grep -q SUSPENDED /proc/spl/kstat/zfs/sick/state && exit 0; sleep 0.2; done; exit 1",
    );
    let said = place.refused(&[
        "kvm-list",
        "kvm-create new --disk 8M",
        "kvm-clone src web",
        "kvm-snap src create one",
        "kvm-snap src list",
        "kvm-delete src",
        "kvm-start src",
    ]);
    let finding = place.finding();
    // When its disk is back, all goes on
    place.bash(
        "mount -o remount,size=500M $folder; zpool clear sick
         for _ in $(seq 600); do grep -q ONLINE /proc/spl/kstat/zfs/sick/state && break; sleep 0.2; done; zpool sync sick",
    );
    assert_eq!(place.ok("kvm-clone src web"), "web cloned from src\n");
    insta::assert_snapshot!(said, @"
    $ kvm-list
    exit 1
    error: the pool sick is suspended
    hint: bring its disks back and run 'zpool clear sick'; zpool itself may hang until then

    $ kvm-create new --disk 8M
    exit 1
    error: the pool sick is suspended
    hint: bring its disks back and run 'zpool clear sick'; zpool itself may hang until then

    $ kvm-clone src web
    exit 1
    error: the pool sick is suspended
    hint: bring its disks back and run 'zpool clear sick'; zpool itself may hang until then

    $ kvm-snap src create one
    exit 1
    error: the pool sick is suspended
    hint: bring its disks back and run 'zpool clear sick'; zpool itself may hang until then

    $ kvm-snap src list
    exit 1
    error: the pool sick is suspended
    hint: bring its disks back and run 'zpool clear sick'; zpool itself may hang until then

    $ kvm-delete src
    exit 1
    error: the pool sick is suspended
    hint: bring its disks back and run 'zpool clear sick'; zpool itself may hang until then

    $ kvm-start src
    exit 1
    error: the pool sick is suspended
    hint: bring its disks back and run 'zpool clear sick'; zpool itself may hang until then
    ");
    insta::assert_snapshot!(finding, @"
    absent store zfs (sick/kld): the pool sick is suspended: its disks do not answer
    remedy: bring the disks back and run 'zpool clear sick'
    ");
}

#[test]
fn a_full_pool_takes_nothing_new_and_lets_go_of_what_it_has() {
    if !in_lab() {
        return;
    }
    let place = Place::new(100, 200);
    let write = |count: u32, seek: u32| {
        place.bash(&format!(
            "udevadm settle; dd if=/dev/urandom of=/dev/zvol/sick/kld/src/vda bs=1M count={count} seek={seek} oflag=direct conv=nocreat 2>&1"
        ))
    };
    write(8, 0);
    place.ok("kvm-snap src create one");
    write(8, 0);
    place.ok("kvm-clone src web");
    write(8, 0);
    place.bash("zfs create -o mountpoint=$folder/filler sick/filler; dd if=/dev/urandom of=$folder/filler/all bs=128k 2>/dev/null || true; zpool sync sick
        dd if=/dev/urandom of=$folder/filler/rest bs=512 2>/dev/null || true; zpool sync sick");
    let said = place.refused(&[
        "kvm-create new --disk 8M",
        "kvm-clone src web-2",
        "kvm-clone src copy --full",
        "kvm-snap src create two",
    ]);
    let finding = place.finding();
    // What frees space is not refused for the lack of it.
    let freed = [place.ok("kvm-snap src delete one"), place.ok("kvm-delete web"), place.ok("kvm-delete src")]
        .concat();
    each_says(&said, &["the pool is full", "No space left on device", "out of space"]);
    assert!(finding.contains(" left in sick/kld\nremedy: free some space"), "{finding}");
    assert!(freed.contains("web deleted") && freed.contains("src deleted"), "{freed}");
    let left = place.look();
    let left: Vec<&str> =
        left.lines().filter(|name| !name.is_empty() && !name.ends_with("/.bases")).collect();
    assert_eq!(left, ["sick", "sick/filler", "sick/kld"]);
}

#[test]
fn a_pool_that_is_imported_read_only_is_only_read() {
    if !in_lab() {
        return;
    }
    let place = Place::new(200, 300);
    place.bash("zpool export sick; zpool import -d $folder -o readonly=on sick");
    insta::assert_snapshot!(place.refused(&[
        "kvm-create new --disk 8M",
        "kvm-clone src web",
        "kvm-clone src copy --full",
        "kvm-snap src create one",
        "kvm-delete src",
    ]), @"
    $ kvm-create new --disk 8M
    exit 1
    error: cannot create sick/kld/new: the pool is imported read-only
    hint: import it without readonly=on

    $ kvm-clone src web
    exit 1
    error: cannot change sick/kld/src: the pool is imported read-only, or the property readonly is on
    hint: import it without readonly=on

    $ kvm-clone src copy --full
    exit 1
    error: cannot change sick/kld/src: the pool is imported read-only, or the property readonly is on
    hint: import it without readonly=on

    $ kvm-snap src create one
    exit 1
    error: cannot change sick/kld/src: the pool is imported read-only, or the property readonly is on
    hint: import it without readonly=on

    $ kvm-delete src
    exit 1
    error: cannot delete src: the pool sick is imported read-only
    hint: 'zpool export sick' and import it without readonly=on
    ");
    insta::assert_snapshot!(place.finding(), @"
    absent store zfs (sick/kld): the pool sick is imported read-only
    remedy: 'zpool export sick' and import it without readonly=on
    ");
    assert!(place.ok("kvm-list").contains("src"));
    place.bash("zpool export sick; zpool import -d $folder sick");
}

#[test]
fn where_the_store_s_quota_is_reached_nothing_is_made() {
    if !in_lab() {
        return;
    }
    let place = Place::new(200, 300);
    place.bash("zpool sync sick; until zfs set quota=$(zfs get -Hp -o value used sick/kld) sick/kld; do sleep 1; done");
    let said = place.refused(&[
        "kvm-create new --disk 8M",
        "kvm-clone src web",
        "kvm-clone src copy --full",
        "kvm-snap src create one",
    ]);
    // Which of its deeds meets with the quota differs from time to time.
    each_says(&said, &["the quota is reached", "Quota exceeded"]);
    assert_eq!(
        place.finding(),
        "limited store zfs (sick/kld): there is no room left in sick/kld\nremedy: free some space, or raise its quota"
    );
    assert_eq!(place.ok("kvm-delete src"), "src deleted\n");
}

#[test]
fn names_that_zfs_does_not_take_are_refused_before_anything_is_made() {
    if !in_lab() {
        return;
    }
    let place = Place::new(200, 300);
    // Of a name's 255 bytes: the longest root, of 193, leaves room for what takes the place of a deleted source.
    let root = |length: usize| format!("sick/{}", "k".repeat(length - 5));
    let name = "m".repeat(34);
    let (long, longer) = (root(193), root(194));
    place.bash(&format!("zfs create {long}; zfs create {longer}"));
    let make = |name: &str, root: &str| format!("kvm-create {name} --disk 8M --set zfs-root={root}");
    let said = place.refused(&[
        &make(&name[..1], &longer),
        &make(&"m".repeat(40), &long),
        &format!("kvm-snap src create {}", "t".repeat(300)),
    ]);
    let limits = [
        "it is 256 bytes long, and 255 are the limit\nhint: choose shorter names for machines, or a shorter zfs-root",
        "it is 257 bytes long, and 255 are the limit\nhint: choose shorter names for machines, or a shorter zfs-root",
        "is 300 bytes long",
    ];
    limits.iter().for_each(|limit| assert!(said.contains(limit), "{said}"));
    assert_eq!(said.matches("exit 2\n").count(), 3, "{said}");
    // And the longest that are taken can be cloned and deleted.
    place.ok(&make(&name, &long));
    let (set, other) = (format!("--set zfs-root={long}"), "n".repeat(34));
    place.ok(&format!("kvm-clone {name} {other} {set}"));
    place.ok(&format!("kvm-delete {name} --promote {set}"));
    place.ok(&format!("kvm-delete {other} {set}"));
    assert_eq!(place.bash(&format!("zfs list -H -r -o name {long}")), format!("{long}\n{long}/.bases\n"));
}

#[test]
fn a_dataset_of_others_under_the_root_is_never_touched() {
    if !in_lab() {
        return;
    }
    let place = Place::new(200, 300);
    place.bash("zfs create -o mountpoint=$folder/theirs sick/kld/foreign; echo theirs >$folder/theirs/a; zfs create -s -V 8M sick/kld/volume");
    insta::assert_snapshot!(place.refused(&[
        "kvm-create foreign --disk 8M",
        "kvm-clone src foreign",
        "kvm-clone src web volume",
        "kvm-snap foreign create one",
        "kvm-delete foreign",
        "kvm-delete volume",
    ]), @"
    $ kvm-create foreign --disk 8M
    exit 1
    error: cannot make the volumes of 'foreign': there is a dataset sick/kld/foreign
    hint: choose another name; if nobody needs the dataset, destroy it yourself

    $ kvm-clone src foreign
    exit 1
    error: cannot make the volumes of 'foreign': there is a dataset sick/kld/foreign
    hint: choose another name; if nobody needs the dataset, destroy it yourself

    $ kvm-clone src web volume
    exit 1
    error: cannot make the volumes of 'volume': there is a dataset sick/kld/volume
    hint: choose another name; if nobody needs the dataset, destroy it yourself

    $ kvm-snap foreign create one
    exit 1
    error: there is no machine 'foreign'
    hint: kvm-list shows every machine

    $ kvm-delete foreign
    exit 1
    error: there is no machine 'foreign'
    hint: kvm-list shows every machine

    $ kvm-delete volume
    exit 1
    error: there is no machine 'volume'
    hint: kvm-list shows every machine
    ");
    assert!(!place.ok("kvm-list").contains("foreign"));
    place.bash("zfs create -u sick/kld/src/backup");
    insta::assert_snapshot!(place.refused(&["kvm-delete src"]), @"
    $ kvm-delete src
    exit 4
    error: sick/kld/src/backup is below sick/kld/src, and kld did not make it
    hint: move it away (zfs rename) or destroy it yourself, then try again
    ");
    place.bash("zfs destroy sick/kld/src/backup");
    place.ok("kvm-delete src");
    assert_eq!(
        place.bash("cat $folder/theirs/a; zfs list -H -r -o name sick"),
        "theirs\nsick\nsick/kld\nsick/kld/foreign\nsick/kld/volume\n"
    );
}

/// Runs what follows in a mount namespace in which these files are others.
fn with(files: &[(&str, &str)]) -> String {
    let hide = files.iter().map(|(file, other)| format!("mount --bind {other} {file}\n")).collect::<String>();
    let script = std::env::temp_dir().join(format!("with-{}-{}.sh", files.len(), std::process::id()));
    std::fs::write(&script, format!("{hide} exec \"$@\"\n")).unwrap();
    format!("unshare --mount bash {} ", script.display())
}

/// Runs what follows with the programs of a folder, and without the host's libzfs_core.
fn with_programs_of(folder: &str) -> String {
    let wrapper = |program: &str| {
        let script = format!("{folder}/run-{program}");
        let loader = "/lib64/ld-linux-x86-64.so.2";
        let text = format!("#!/bin/sh\nexec {loader} --library-path {folder} {folder}/{program} \"$@\"\n");
        std::fs::write(&script, text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&script, mode).unwrap();
        script
    };
    let [zfs, zpool] = ["zfs", "zpool"].map(wrapper);
    with(&[("/usr/sbin/zfs", &zfs), ("/usr/sbin/zpool", &zpool), (LIBRARY, "/dev/null")])
}

const LIBRARY: &str = "/lib/x86_64-linux-gnu/libzfs_core.so.3";

/// All that changes something, behind these words.
fn serves(place: &Place, with: &str) {
    for line in [
        "kvm-clone src web web-2",
        "kvm-snap web create one",
        "kvm-snap web create two",
        "kvm-snap web rollback one -r",
        "kvm-clone src copy --full",
        "kvm-create new --disk 8M",
        "kvm-list",
        "kvm-delete web web-2 copy new",
    ] {
        place.ok(&format!("{with}{line}"));
    }
    assert_eq!(place.bash("zfs list -H -r -o name sick"), "sick\nsick/kld\nsick/kld/src\nsick/kld/src/vda\n");
}

/// `cargo xtask lab test --full` brings the programs of this release from Debian 12 (`kld_lab::zfs_2_1`).
#[test]
fn the_programs_of_openzfs_2_1_which_print_no_json_serve() {
    if !in_lab() {
        return;
    }
    let Ok(programs) = std::env::var("KLD_ZFS_2_1") else {
        eprintln!("skipped: KLD_ZFS_2_1 names no folder with the programs");
        return;
    };
    let place = Place::new(200, 300);
    let with = with_programs_of(&programs);
    assert!(place.ok(&format!("{with}zfs version")).starts_with("zfs-2.1."));
    serves(&place, &with);
}

#[test]
fn without_libzfs_core_the_programs_serve() {
    if !in_lab() {
        return;
    }
    let place = Place::new(3000, 4000);
    // The programs find the library that the tools do not find.
    let programs = place.bash("mkdir $folder/zfs; cp /usr/sbin/zfs /usr/sbin/zpool $(ldd /usr/sbin/zpool | grep -o '/[^ ]*lib[nuz][^ ]*') $folder/zfs; echo -n $folder/zfs");
    let without = with_programs_of(&programs);
    serves(&place, &without);
    assert!(place.finding().ends_with("carried out by libzfs_core\nremedy: -"), "{}", place.finding());
    let doctor = place.ok(&format!("{without}kld doctor"));
    assert!(doctor.contains("left in sick/kld; carried out by zfs"), "{doctor}");
}

#[test]
fn without_the_programs_it_is_said_what_is_missing() {
    if !in_lab() {
        return;
    }
    let place = Place::new(200, 300);
    let without = with(&[("/usr/sbin/zfs", "/dev/null"), ("/usr/sbin/zpool", "/dev/null")]);
    // A clone needs the library alone.
    let lines = ["kvm-list", "kvm-show src", "kvm-delete src"];
    let lines = lines.map(|line| format!("{without}{line}"));
    let said = place.refused(&lines.each_ref().map(String::as_str)).replace(&without, "");
    each_says(&said, &["cannot run zfs: it is not installed\nhint: install the package that brings zfs"]);
}

#[test]
fn what_is_still_being_freed_is_said() {
    if !in_lab() {
        return;
    }
    let place = Place::new(400, 500);
    place.ok("kvm-create big --disk 200M");
    place.bash("udevadm settle; dd if=/dev/urandom of=/dev/zvol/sick/kld/big/vda bs=1M count=150 oflag=direct conv=nocreat 2>&1");
    let slowly = |blocks: &str| {
        place.bash(&format!("cd /sys/module/zfs/parameters; cat zfs_async_block_max_blocks; echo {blocks} >zfs_async_block_max_blocks"))
    };
    let before = slowly("100");
    let said = place.ok("kvm-delete big");
    slowly(before.trim());
    assert!(
        said.starts_with("big deleted\nnote: ") && said.ends_with("being freed in the background\n"),
        "{said}"
    );
}
