//! The engines and the store on a real pool. Elsewhere than in the lab (`KLD_LAB=1`) these tests say so and do nothing.
#![allow(clippy::print_stderr, clippy::disallowed_types, clippy::disallowed_methods)]

mod bench;

use std::sync::Arc;
use std::time::Instant;

use kld_core::store::conformance::{self, Bench, Sample};
use kld_core::store::{CloneKind, Consistency, NewClone, NewVolume, Set, StoreChange, VolumeStore};
use kld_core::{ByteSize, Error, MachineName, Result, SnapshotTag};
use kld_zfs::engine::{Engine, Forgive, Kind, Kinds, Library, Listing, Programs, Property};
use kld_zfs::{DatasetName, device};
use uuid::Uuid;

use bench::{Pool, ZfsBench, full, in_lab, run};

/// Of how many kinds of change, and of how many steps, one is tried: on real ZFS each takes seconds.
const SAMPLED: usize = 6;

/// What the short run tries on the engines of the programs: each deed of a store once.
const SOME: &[&str] = &[
    "source_and_clone_do_not_see_each_others_writes",
    "a_rollback_brings_contents_back_and_drops_newer_snapshots",
    "a_promoted_clone_keeps_its_snapshots",
    "an_interrupted_commit_is_finished",
];

/// Whether the short run tries a test, by its number and name.
type Short = fn(usize, &str) -> bool;

/// Runs the store's suite, with `KLD_FULL` all of it, otherwise some tests with a sample of what they try.
fn conforms(engine: fn() -> Arc<dyn Engine>, short: Short) {
    conforms_as_far_as(full(), engine, short);
}

/// The same, whatever `KLD_FULL` says; of its tests those alone whose names hold what `KLD_ONLY` says.
fn conforms_as_far_as(full: bool, engine: fn() -> Arc<dyn Engine>, short: Short) {
    if !in_lab() {
        return;
    }
    let known = |name: &&str| conformance::TESTS.iter().any(|(known, _)| known == name);
    assert!(SOME.iter().all(known), "one of {SOME:?} is no test");
    let pool = Pool::get();
    let only = std::env::var("KLD_ONLY").ok();
    let wanted = |number: usize, name: &str| match &only {
        Some(only) => name.contains(only),
        None => full || short(number, name),
    };
    let mut failed = Vec::new();
    for (number, (name, test)) in conformance::TESTS.iter().enumerate() {
        if !wanted(number, name) {
            continue;
        }
        let start = Instant::now();
        let sample = if full { Sample::ALL } else { Sample { first: number / 2 % SAMPLED, of: SAMPLED } };
        let make = || -> Box<dyn conformance::Bench> {
            let mut bench = pool.bench(engine());
            bench.sample = sample;
            Box::new(bench)
        };
        let run = std::panic::AssertUnwindSafe(|| test(&make));
        let good = std::panic::catch_unwind(run).is_ok();
        eprintln!("{} {name} {:.1} s", if good { "ok    " } else { "FAILED" }, start.elapsed().as_secs_f64());
        if !good {
            failed.push(*name);
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn the_store_on_the_library_does_what_every_store_does() {
    conforms(|| Arc::new(Library::load().unwrap()), |number, _| number % 2 == 0);
}

#[test]
fn the_store_on_the_programs_does_what_every_store_does() {
    conforms(|| Arc::new(Programs::new()), |_, name| SOME.contains(&name));
}

#[test]
fn the_store_on_the_programs_without_json_does_what_every_store_does() {
    conforms(|| Arc::new(Programs::without_json()), |_, name| SOME.contains(&name));
}

/// Every deed, and what it meets with.
fn serves(engine: &dyn Engine, place: &DatasetName) {
    let name = |text: &str| place.child(text).unwrap();
    let (state, disk, other) = (name("state"), name("disk"), name("other"));
    let mark = [Property::User("org.kld:machine", "m -o x=y".to_string())];
    let of_disk = [mark[0].clone(), Property::VolmodeDev, Property::SnapdevHidden];
    let kind = |done: std::result::Result<(), kld_zfs::engine::Failure>| done.unwrap_err().kind;
    let list = |name: &str, kinds, columns: &[&str]| {
        engine.list(&Listing { of: &[name], kinds, depth: Some(1), columns }).unwrap()
    };

    engine.create_filesystem(&state, &mark).unwrap();
    assert_eq!(kind(engine.create_filesystem(&state, &[])), Kind::Exists);
    engine.create_volume(&disk, 8 << 20, 16 << 10, &of_disk).unwrap();
    let rows = list(
        disk.as_str(),
        Kinds::Volumes,
        &["volsize", "refreservation", "volmode", "snapdev", "org.kld:machine"],
    );
    let values: Vec<&str> = (0..5).map(|column| rows[0].text(column).unwrap_or("-")).collect();
    assert_eq!(values, ["8388608", "0", "dev", "hidden", "m -o x=y"]);
    assert!(engine.exists(disk.as_str()).unwrap() && !engine.exists(other.as_str()).unwrap());

    let both = [state.snapshot("b").unwrap(), disk.snapshot("b").unwrap()];
    engine.snapshot(&both, &[Property::User("org.kld:tag", "b".to_string())]).unwrap();
    engine.snapshot(&[disk.snapshot("a").unwrap()], &[]).unwrap();
    // All or none: one of the two is there already.
    let half = [state.snapshot("a").unwrap(), disk.snapshot("a").unwrap()];
    assert_eq!(kind(engine.snapshot(&half, &[])), Kind::Exists);
    assert!(!engine.exists(half[0].as_str()).unwrap());
    let names: Vec<String> =
        list(disk.as_str(), Kinds::Snapshots, &["used"]).into_iter().map(|row| row.name).collect();
    assert_eq!(names, [format!("{disk}@b"), format!("{disk}@a")], "in the order of their making");

    // What is not there leaves the rest of a listing right.
    let some = [format!("{disk}@none"), format!("{disk}@a"), format!("{place}/none@a")];
    let of: Vec<&str> = some.iter().map(String::as_str).collect();
    let listing = Listing { of: &of, kinds: Kinds::Snapshots, depth: Some(0), columns: &["used"] };
    let found: Vec<String> = engine.list(&listing).unwrap().into_iter().map(|row| row.name).collect();
    assert_eq!(found, [some[1].clone()]);

    engine.clone_of(&disk.snapshot("a").unwrap(), &other, &of_disk).unwrap();
    assert_eq!(kind(engine.clone_of(&disk.snapshot("none").unwrap(), &name("x"), &[])), Kind::Missing);
    // What a clone stands on stays until the clone goes.
    engine.destroy_snapshots(&[disk.snapshot("a").unwrap(), disk.snapshot("none").unwrap()]).unwrap();
    assert!(engine.exists(&format!("{disk}@a")).unwrap());
    device::wait(&other).unwrap();
    let held = std::fs::File::open(device::path(&other)).unwrap();
    assert_eq!(kind(engine.destroy(&other)), Kind::Busy);
    drop(held);
    let gone = (0..100).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(100));
        engine.destroy(&other).is_ok()
    });
    assert!(gone && !engine.exists(&format!("{disk}@a")).unwrap());
    engine.destroy(&other).or_missing().unwrap();

    engine.rename_snapshot(&disk.snapshot("b").unwrap(), &disk.snapshot("c").unwrap()).unwrap();
    engine.rollback(&disk.snapshot("c").unwrap()).unwrap();
    engine.copy(&disk.snapshot("c").unwrap(), None, &other, &of_disk).unwrap();
    engine.rename(&other, &name("moved")).unwrap();
    engine.clone_of(&disk.snapshot("c").unwrap(), &other, &of_disk).unwrap();
    engine.promote(&other).unwrap();
    assert!(engine.exists(&format!("{other}@c")).unwrap() && !engine.exists(&format!("{disk}@c")).unwrap());
}

#[test]
fn every_engine_does_the_same() {
    if !in_lab() {
        return;
    }
    let pool = Pool::get();
    let engines: [Arc<dyn Engine>; 3] =
        [Arc::new(Library::load().unwrap()), Arc::new(Programs::new()), Arc::new(Programs::without_json())];
    for engine in engines {
        let bench = pool.bench(engine.clone());
        serves(&*engine, &bench.place);
    }
}

#[test]
fn a_volume_that_udev_has_seen_and_missed_gets_its_link() {
    if !in_lab() {
        return;
    }
    let pool = Pool::get();
    let bench = pool.bench(Arc::new(Library::load().unwrap()));
    let missed = DatasetName::parse(&format!("{}/missed", bench.place)).unwrap();
    run("zfs", &["create", "-s", "-V", "8M", missed.as_str()]);
    let link = device::wait(&missed).unwrap();
    run("udevadm", &["settle"]);

    // As udev leaves it when it could not open the device.
    let number = run("lsblk", &["-dno", "MAJ:MIN", link.to_str().unwrap()]);
    let record = format!("/run/udev/data/b{}", number.trim());
    let text = std::fs::read_to_string(&record).unwrap();
    let rest: Vec<&str> = text.lines().filter(|line| !line.starts_with("S:zvol/")).collect();
    assert!(rest.len() < text.lines().count(), "{text}");
    std::fs::write(&record, rest.join("\n") + "\n").unwrap();
    std::fs::remove_file(&link).unwrap();

    assert_eq!(device::wait(&missed).unwrap(), link);
}

/// The same on libzetta. Where a change may be interrupted is the store's affair, and tried in full on the others.
#[cfg(feature = "libzetta")]
mod libzetta {
    use super::*;
    use kld_zfs::engine::Zetta;

    #[test]
    fn the_engine_does_what_the_others_do() {
        if !in_lab() {
            return;
        }
        let (pool, engine) = (Pool::get(), Arc::new(Zetta::load().unwrap()));
        let bench = pool.bench(engine.clone());
        serves(&*engine, &bench.place);
    }

    #[test]
    fn the_store_does_what_every_store_does() {
        conforms_as_far_as(false, || Arc::new(Zetta::load().unwrap()), |_, name| SOME.contains(&name));
    }
}

fn carry_out(bench: &ZfsBench, change: Result<StoreChange>) {
    let change = change.unwrap();
    bench.store.stage(&change, &[]).unwrap();
    bench.store.commit(&change).unwrap();
}

fn machine(bench: &ZfsBench, name: &str) -> Set {
    let name = MachineName::parse(name).unwrap();
    let disk = NewVolume { name: "vda".into(), size: Some(ByteSize::mib(4)), image: None };
    carry_out(bench, bench.store.plan_create(&name, Uuid::new_v4(), &[disk]));
    bench.store.set(&name).unwrap().unwrap()
}

#[test]
fn what_kld_did_not_make_is_neither_shown_nor_touched() {
    if !in_lab() {
        return;
    }
    let pool = Pool::get();
    let bench = pool.bench(Arc::new(Library::load().unwrap()));
    let set = machine(&bench, "web");
    let root = bench.store.root().as_str();
    let foreign = [format!("{root}/foreign"), format!("{root}/web/backup")];
    foreign.iter().for_each(|name| drop(run("zfs", &["create", "-u", name])));

    assert_eq!(bench.store.sets().unwrap(), vec![set.clone()]);
    let taken =
        bench.store.plan_create(&MachineName::parse("foreign").unwrap(), Uuid::new_v4(), &[]).unwrap_err();
    assert!(taken.to_string().contains("there is a dataset"), "{taken}");
    let refused = bench.store.plan_delete(&set).unwrap_err();
    assert!(matches!(refused, Error::Refused { .. }), "{refused}");
    run("zfs", &["destroy", &foreign[1]]);
    carry_out(&bench, bench.store.plan_delete(&set));
    assert_eq!(bench.leftovers(), [foreign[0].clone()]);
}

#[test]
fn a_root_that_holds_others_volumes_is_not_taken_for_the_store() {
    if !in_lab() {
        return;
    }
    let pool = Pool::get();
    let bench = pool.bench(Arc::new(Library::load().unwrap()));
    let root = bench.store.root().as_str();
    let foreign = format!("{root}/theirs");
    run("zfs", &["create", "-u", root]);
    run("zfs", &["create", "-s", "-V", "4M", "-o", "volmode=full", &foreign]);

    let disk = NewVolume { name: "vda".into(), size: Some(ByteSize::mib(4)), image: None };
    let change =
        bench.store.plan_create(&MachineName::parse("web").unwrap(), Uuid::new_v4(), &[disk]).unwrap();
    let refused = bench.store.stage(&change, &[]).unwrap_err();
    assert!(matches!(refused, Error::Refused { .. }) && refused.to_string().contains(&foreign), "{refused}");
    bench.store.revert(&change).unwrap();
    assert_eq!(bench.leftovers(), std::slice::from_ref(&foreign));
    assert_eq!(run("zfs", &["get", "-H", "-o", "source", "volmode", root]), "default\n");
}

/// Set on the volume itself, `volmode` has the kernel take its device away and make another one, at any time after it
/// was seen to be there: who opens it in between finds nothing.
#[test]
fn a_volume_has_one_device_from_its_beginning() {
    if !in_lab() {
        return;
    }
    let pool = Pool::get();
    let bench = pool.bench(Arc::new(Library::load().unwrap()));
    machine(&bench, "web");
    let root = bench.store.root();
    for (property, value) in [("volmode", "dev"), ("snapdev", "hidden")] {
        let told = run("zfs", &["get", "-H", "-o", "value,source", property, &format!("{root}/web/vda")]);
        assert_eq!(told, format!("{value}\tinherited from {root}\n"));
    }
}

#[test]
fn a_rollback_does_not_lose_others_snapshots() {
    if !in_lab() {
        return;
    }
    let pool = Pool::get();
    let bench = pool.bench(Arc::new(Library::load().unwrap()));
    let (set, tag) = (machine(&bench, "web"), SnapshotTag::parse("before").unwrap());
    carry_out(&bench, bench.store.plan_snapshot(&set, &tag, Consistency::Stopped));
    run("zfs", &["snapshot", &format!("{}/web/vda@autosnap_daily", bench.store.root())]);

    let set = bench.store.set(&set.name).unwrap().unwrap();
    let refused = bench.store.plan_rollback(&set, &tag).unwrap_err();
    assert!(matches!(refused, Error::Refused { .. }), "{refused}");
    assert!(refused.to_string().contains("@autosnap_daily"), "{refused}");
}

#[test]
fn a_link_to_another_machines_disk_is_refused() {
    if !in_lab() {
        return;
    }
    let pool = Pool::get();
    let bench = pool.bench(Arc::new(Library::load().unwrap()));
    let (web, db) = (machine(&bench, "web"), machine(&bench, "db"));
    [&web, &db].into_iter().for_each(|set| bench.store.ready(set).unwrap());
    let (path, wrong) = (&web.volumes[0].path, std::fs::read_link(&db.volumes[0].path).unwrap());
    std::fs::remove_file(path).unwrap();
    std::os::unix::fs::symlink(wrong, path).unwrap();

    let refused = bench.store.ready(&web).unwrap_err();
    assert!(matches!(refused, Error::Refused { .. }), "{refused}");
    bench.store.ready(&db).unwrap();
}

#[test]
fn a_volume_that_another_program_has_open_is_in_use() {
    if !in_lab() {
        return;
    }
    let pool = Pool::get();
    let bench = pool.bench(Arc::new(Library::load().unwrap()));
    let web = machine(&bench, "web");
    bench.store.ready(&web).unwrap();
    let volume = &web.volumes[0];
    assert!(!bench.store.in_use(volume).unwrap());

    run("mkfs.ext4", &["-q", &volume.path.display().to_string()]);
    let place = tempfile::tempdir().unwrap();
    let place = place.path().display().to_string();
    run("mount", &[&volume.path.display().to_string(), &place]);
    assert!(bench.store.in_use(volume).unwrap(), "it is mounted");
    run("umount", &[&place]);
    assert!(!bench.store.in_use(volume).unwrap());

    let mut guest = std::process::Command::new("qemu-io")
        .args(["-f", "raw"])
        .arg(&volume.path)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while !bench.store.in_use(volume).unwrap() {
        assert!(began.elapsed().as_secs() < 60, "QEMU has it open");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    drop(guest.stdin.take());
    guest.wait().unwrap();
    assert!(!bench.store.in_use(volume).unwrap());
}

#[test]
fn what_a_power_cut_left_unmarked_is_undone_and_a_strangers_is_left() {
    if !in_lab() {
        return;
    }
    let pool = Pool::get();
    let bench = pool.bench(Arc::new(Library::load().unwrap()));
    let (web, root) = (machine(&bench, "web"), bench.store.root().clone());
    let clone = |name: &str| {
        let new = NewClone { name: MachineName::parse(name).unwrap(), machine: Uuid::new_v4() };
        bench.store.plan_clone(&web, None, &[new], CloneKind::Linked).unwrap()
    };

    // The dataset was made, and the power went before its marks were on the disk.
    let change = clone("empty");
    run("zfs", &["create", "-u", &format!("{root}/empty")]);
    bench.store.revert(&change).unwrap();
    assert_eq!(bench.store.sets().unwrap(), std::slice::from_ref(&web));

    // Its files and volumes were made at the same time.
    let change = clone("half");
    bench.store.stage(&change, &[]).unwrap();
    let half = format!("{root}/half");
    ["org.kld:change", "org.kld:machine"].iter().for_each(|mark| drop(run("zfs", &["inherit", mark, &half])));
    bench.store.revert(&change).unwrap();
    assert!(!bench.leftovers().iter().any(|left| left.contains("half")), "{:?}", bench.leftovers());

    // A stranger's holds a file that is none of ours.
    let change = clone("strange");
    let (strange, place) = (format!("{root}/strange"), root.child("strange").unwrap());
    let folder = tempfile::tempdir().unwrap();
    run("zfs", &["create", "-u", &strange]);
    kld_zfs::mounts::mount(&place, folder.path()).unwrap();
    std::fs::write(folder.path().join("mine"), "").unwrap();
    kld_zfs::mounts::unmount(&place, folder.path()).unwrap();
    assert!(bench.store.stage(&change, &[]).is_err());
    bench.store.revert(&change).unwrap();
    assert!(bench.leftovers().contains(&strange));
}
