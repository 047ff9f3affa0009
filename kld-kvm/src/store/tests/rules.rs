//! What the directory store promises beyond the suite.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use kld_core::store::*;
use kld_core::{ByteSize, Error, Exit, MachineName, SnapshotTag};
use uuid::Uuid;

use super::bench::{DirBench, bench, qemu, read, write};
use crate::image::{self, Backing, DiskFormat, MAX_CHAIN, NewImage, chain};
use crate::store::DirStore;

const SIZE: ByteSize = ByteSize::mib(4);

fn name(text: &str) -> MachineName {
    MachineName::parse(text).unwrap()
}

fn tag(text: &str) -> SnapshotTag {
    SnapshotTag::parse(text).unwrap()
}

fn empty(disk: &str) -> NewVolume {
    NewVolume { name: disk.into(), size: Some(SIZE), image: None }
}

fn from_image(path: &Path, format: VolumeFormat) -> NewVolume {
    NewVolume { name: "vda".into(), size: None, image: Some((path.to_path_buf(), format)) }
}

fn new(text: &str) -> NewClone {
    NewClone { name: name(text), machine: Uuid::new_v4() }
}

/// A program that has an image open as a running machine has.
struct Guest(Child);

impl Guest {
    fn on(path: &Path) -> Guest {
        let mut program = Command::new("qemu-io");
        program.args(["-f", "qcow2"]).arg(path).stdin(Stdio::piped()).stdout(Stdio::null());
        let guest = Guest(program.spawn().expect("the tests need qemu-utils"));
        while !image::in_use(path).unwrap() {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        guest
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl DirBench {
    fn set(&self, text: &str) -> Set {
        self.store.set(&name(text)).unwrap().unwrap()
    }

    fn vda(&self, text: &str) -> PathBuf {
        self.set(text).volumes[0].path.clone()
    }

    fn carry_out(&self, change: kld_core::Result<StoreChange>) -> StoreChange {
        let change = change.unwrap();
        self.store.stage(&change, &[]).unwrap();
        self.store.commit(&change).unwrap();
        change
    }

    /// A machine whose disk begins with `bytes`.
    fn machine(&self, text: &str, bytes: &[u8]) {
        self.carry_out(self.store.plan_create(&name(text), Uuid::new_v4(), &[empty("vda")]));
        write(&self.vda(text), VolumeFormat::Qcow2, 0, bytes);
    }

    fn clone(&self, source: &str, clone: &str) -> StoreChange {
        self.carry_out(self.store.plan_clone(&self.set(source), None, &[new(clone)], CloneKind::Linked))
    }

    fn snapshot(&self, set: &str, text: &str) -> StoreChange {
        self.carry_out(self.store.plan_snapshot(&self.set(set), &tag(text), Consistency::Stopped))
    }

    fn drop_snapshot(&self, set: &str, text: &str) -> StoreChange {
        self.carry_out(self.store.plan_drop_snapshot(&self.set(set), &tag(text)))
    }

    fn delete(&self, set: &str) -> StoreChange {
        self.carry_out(self.store.plan_delete(&self.set(set)))
    }

    fn begins(&self, set: &str, bytes: &[u8]) {
        let found = read(&self.vda(set), VolumeFormat::Qcow2, 0, bytes.len());
        assert_eq!(String::from_utf8_lossy(&found), String::from_utf8_lossy(bytes), "{set}");
    }

    fn volume_files(&self) -> usize {
        std::fs::read_dir(self.store.root().join("volumes")).unwrap().count()
    }

    /// The steps as people see them, without what differs at every run.
    fn shown(&self, change: &StoreChange) -> String {
        let root = format!("{}/", self.folder.path().display());
        let lines = change.steps.iter().map(|step| {
            let line = format!("{} {} ({})", step.verb, step.object, step.detail).replace(&root, "");
            line.trim_end_matches(" ()").to_string()
        });
        let mut text = lines.collect::<Vec<_>>().join("\n");
        while let Some(at) = text.find(".qcow2").filter(|at| text[..*at].contains(".vda.")) {
            text.replace_range(at - 8..at + 6, "N");
        }
        text
    }
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

fn told<T: std::fmt::Debug>(result: kld_core::Result<T>) -> (String, Exit, String) {
    let error: Error = result.unwrap_err();
    (error.to_string(), error.exit(), error.hint().unwrap_or_default().to_string())
}

#[test]
fn the_first_clone_makes_a_base_of_the_source_s_file() {
    let bench = bench();
    bench.machine("template", b"hello");
    let file = bench.vda("template");

    let change = bench.clone("template", "web");

    insta::assert_snapshot!(bench.shown(&change), @r#"
    freeze store/volumes/template.vda.N (becomes a read-only base)
    create store/volumes/template.vda.N (overlay on store/volumes/template.vda.N)
    repoint vda of template (to store/volumes/template.vda.N)
    create store/volumes/web.vda.N (overlay on store/volumes/template.vda.N)
    "#);
    assert_eq!(mode(&file), 0o400, "nobody writes it again");
    for set in ["template", "web"] {
        let chain = chain(&bench.vda(set)).unwrap();
        let header = chain[0].header().unwrap();
        assert_eq!(header.backing_file.as_deref(), Some(file.as_os_str()), "absolute");
        assert_eq!(header.backing_format.as_deref(), Some("qcow2".as_ref()), "stated");
        assert_eq!((mode(&chain[0].path), chain.len()), (0o600, 2));
        qemu("qemu-img", &["check", "-q", chain[0].path.to_str().unwrap()]);
    }
    for folder in ["", "volumes", "machines", "machines/web"] {
        assert_eq!(mode(&bench.store.root().join(folder)), 0o711, "QEMU's user passes through {folder}");
    }
}

#[test]
fn a_source_to_which_nothing_was_written_since_stays_where_it_is() {
    let bench = bench();
    bench.machine("template", b"hello");
    bench.clone("template", "one");
    let file = bench.vda("template");

    let change = bench.clone("template", "two");

    assert_eq!(change.repoints, []);
    assert_eq!(bench.vda("template"), file);
    assert_eq!(chain(&bench.vda("two")).unwrap()[1].id, chain(&file).unwrap()[1].id);
    bench.begins("two", b"hello");
}

#[test]
fn an_unwritten_disk_that_somebody_has_open_is_not_taken_as_empty() {
    let bench = bench();
    bench.machine("template", b"hello");
    bench.clone("template", "one");
    let guest = Guest::on(&bench.vda("template"));

    let clone = bench.store.plan_clone(&bench.set("template"), None, &[new("two")], CloneKind::Linked);
    let snapshot = bench.store.plan_snapshot(&bench.set("template"), &tag("now"), Consistency::Frozen);
    drop(guest);

    assert_eq!(clone.unwrap().repoints.len(), 1);
    assert_eq!(snapshot.unwrap().repoints.len(), 1);
}

#[test]
fn a_running_source_is_not_copied() {
    let bench = bench();
    bench.machine("template", b"hello");
    let _guest = Guest::on(&bench.vda("template"));
    let plan = bench.store.plan_clone(&bench.set("template"), None, &[new("web")], CloneKind::Full);
    let (message, exit, hint) = told(plan);
    assert!(message.starts_with("the disk vda of template is in use and cannot be copied: "), "{message}");
    assert_eq!(exit, Exit::Busy);
    assert_eq!(hint, "stop the machine first, or take a snapshot and clone that");
}

#[test]
fn a_raw_disk_made_by_other_means_is_a_fine_base_and_is_left_as_it_was() {
    let bench = bench();
    let path = bench.folder.path().join("old.img");
    let mut content = b"raw disk".to_vec();
    content.resize(1 << 20, 0);
    std::fs::write(&path, &content).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    let volume = Volume {
        name: "vda".into(),
        path: path.clone(),
        format: VolumeFormat::Raw,
        size: SIZE,
        adopted: false,
    };
    let set = bench.store.adopt(&name("old"), Uuid::new_v4(), vec![volume]).unwrap();
    assert_eq!((set.volumes[0].size, set.volumes[0].adopted), (ByteSize::mib(1), true));

    bench.carry_out(bench.store.plan_clone(&set, None, &[new("web")], CloneKind::Linked));
    write(&bench.vda("web"), VolumeFormat::Qcow2, 0, b"WEB");
    write(&bench.vda("old"), VolumeFormat::Qcow2, 0, b"OLD");

    bench.begins("web", b"WEB disk");
    bench.begins("old", b"OLD disk");
    let change = bench.delete("old");
    insta::assert_snapshot!(bench.shown(&change), @r#"
    forget the disks of old
    remove store/volumes/old.vda.N
    "#);
    bench.delete("web");
    assert_eq!(std::fs::read(&path).unwrap(), content);
    assert_eq!(mode(&path), 0o640);
    assert_eq!(bench.store_files(), [] as [&str; 0]);
}

#[test]
fn what_cannot_be_adopted_is_refused_with_its_reason() {
    let bench = bench();
    let adopt = |path: &Path, format| {
        let path = path.to_path_buf();
        let volume = Volume { name: "vda".into(), path, format, size: SIZE, adopted: false };
        told(bench.store.adopt(&name("old"), Uuid::new_v4(), vec![volume])).0
    };
    let text = bench.folder.path().join("text");
    std::fs::write(&text, "no image").unwrap();
    let said = [
        adopt(Path::new("/dev/vg/old"), VolumeFormat::Block),
        adopt(Path::new("relative.qcow2"), VolumeFormat::Qcow2),
        adopt(Path::new("/dev/null"), VolumeFormat::Raw),
        adopt(bench.folder.path(), VolumeFormat::Raw),
        adopt(&text, VolumeFormat::Qcow2),
    ]
    .join("\n")
    .replace(bench.folder.path().to_str().unwrap(), "DIR");
    insta::assert_snapshot!(said, @r#"
    the disk vda of old is the block device /dev/vg/old, and the store 'dir' keeps files only
    the path 'relative.qcow2' of the disk vda of old is not absolute
    '/dev/null' is a character device, not a regular file
    'DIR' is a folder, not a regular file
    'DIR/text' is not qcow2
    "#);
}

#[test]
fn a_set_whose_disks_were_moved_by_hand_keeps_its_history() {
    let bench = bench();
    bench.machine("template", b"hello");
    bench.clone("template", "web");
    bench.snapshot("web", "before");
    let known = bench.set("web");
    let moved = bench.folder.path().join("moved.qcow2");
    image::create(&moved, &NewImage::disk(SIZE.bytes())).unwrap();

    let volume = Volume { path: moved.clone(), ..known.volumes[0].clone() };
    let set = bench.store.adopt(&known.name, known.machine, vec![volume.clone()]).unwrap();

    assert_eq!(set.volumes, [Volume { adopted: true, ..volume.clone() }]);
    assert_eq!((&set.snapshots, &set.origin, set.created), (&known.snapshots, &known.origin, known.created));
    let (message, exit, _) = told(bench.store.adopt(&known.name, Uuid::new_v4(), vec![volume]));
    assert!(message.starts_with("the store has disks of another machine web, whose UUID is "), "{message}");
    assert_eq!(exit, Exit::Refused);
}

#[test]
fn an_image_that_stands_on_another_file_is_refused() {
    let bench = bench();
    let path = bench.folder.path().join("evil.qcow2");
    let backing = Backing { path: "/etc/shadow".into(), format: DiskFormat::Raw };
    image::create(&path, &NewImage::overlay(1 << 20, backing)).unwrap();
    let plan =
        bench.store.plan_create(&name("web"), Uuid::new_v4(), &[from_image(&path, VolumeFormat::Qcow2)]);
    let (message, exit, hint) = told(plan);
    assert!(message.ends_with("evil.qcow2 stands on another file, '/etc/shadow'"), "{message}");
    assert_eq!(exit, Exit::Refused);
    assert!(hint.contains("qemu-img convert -O qcow2"), "{hint}");
    assert!(!bench.store.root().exists(), "nothing was made");
}

#[test]
fn an_image_that_is_none_or_is_encrypted_is_refused() {
    let bench = bench();
    let plan = |path: &Path| {
        told(bench.store.plan_create(&name("web"), Uuid::new_v4(), &[from_image(path, VolumeFormat::Qcow2)]))
            .0
    };
    let file = |name: &str, content: &[u8]| {
        let path = bench.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let locked = bench.folder.path().join("locked.qcow2");
    // The old format: for LUKS, qemu-img first measures the processor, and fails now and then on a busy one.
    let key = ["--object", "secret,id=k,data=abc", "-o", "encrypt.format=aes,encrypt.key-secret=k"];
    qemu(
        "qemu-img",
        &[&["create", "-q", "-f", "qcow2"], &key[..], &[locked.to_str().unwrap(), "1M"]].concat(),
    );
    let said = [
        plan(&bench.folder.path().join("missing.qcow2")),
        plan(&file("text", b"no image")),
        plan(&file("disk.vmdk", b"KDMV....")),
        plan(&locked),
    ]
    .join("\n")
    .replace(bench.folder.path().to_str().unwrap(), "DIR");
    insta::assert_snapshot!(said, @r#"
    cannot open DIR/missing.qcow2: No such file or directory
    'DIR/text' is not qcow2
    'DIR/disk.vmdk' is a VMDK file, not a qcow2 image
    'DIR/locked.qcow2' is an encrypted image, which kld does not support
    "#);
}

#[test]
fn a_machine_from_an_image_has_its_own_grown_copy() {
    let bench = bench();
    let path = bench.folder.path().join("cloud.img");
    let mut content = b"cloud".to_vec();
    content.resize(1 << 20, 1);
    std::fs::write(&path, &content).unwrap();
    let volume = NewVolume { size: Some(SIZE), ..from_image(&path, VolumeFormat::Raw) };

    let change = bench.carry_out(bench.store.plan_create(&name("web"), Uuid::new_v4(), &[volume]));

    insta::assert_snapshot!(bench.shown(&change), @"create store/volumes/web.vda.N (copy of cloud.img, 4 MiB)");
    let chain = chain(&bench.vda("web")).unwrap();
    assert_eq!((chain.len(), chain[0].virtual_size, chain[0].mode), (1, SIZE.bytes(), 0o600));
    bench.begins("web", b"cloud\x01");
    assert_eq!(std::fs::read(&path).unwrap(), content);
}

#[test]
fn a_chain_does_not_grow_beyond_the_limit() {
    let bench = bench();
    bench.machine("web", b"x");
    for number in 1..MAX_CHAIN {
        write(&bench.vda("web"), VolumeFormat::Qcow2, 0, b"y");
        bench.snapshot("web", &format!("s{number}"));
    }
    write(&bench.vda("web"), VolumeFormat::Qcow2, 0, b"z");
    let (message, _, hint) =
        told(bench.store.plan_snapshot(&bench.set("web"), &tag("last"), Consistency::Stopped));
    assert!(message.ends_with("it stands on a chain of 64 files, and 64 is the limit"), "{message}");
    assert!(hint.contains("full clone"), "{hint}");
    bench.begins("web", b"z");
}

#[test]
fn a_dropped_snapshot_s_layer_is_merged_into_what_alone_stands_on_it() {
    let bench = bench();
    bench.machine("web", b"11");
    for text in ["one", "two", "three"] {
        bench.snapshot("web", text);
        write(&bench.vda("web"), VolumeFormat::Qcow2, 0, text.as_bytes());
    }
    assert_eq!(bench.volume_files(), 4);

    let change = bench.drop_snapshot("web", "two");

    insta::assert_snapshot!(bench.shown(&change), @r#"
    forget snapshot two of web
    merge store/volumes/web.vda.N (into store/volumes/web.vda.N)
    "#);
    assert_eq!(bench.volume_files(), 3);
    let three = bench.set("web").snapshots[1].volumes[0].clone();
    assert_eq!(read(&three.path, three.format, 0, 5), b"two\0\0");
    assert_eq!(mode(&three.path), 0o400, "a merge into a base leaves it read-only");
    bench.drop_snapshot("web", "one");
    bench.drop_snapshot("web", "three");
    assert_eq!((bench.volume_files(), chain(&bench.vda("web")).unwrap().len()), (1, 1));
    bench.begins("web", b"three");
}

#[test]
fn a_layer_that_cannot_be_merged_stays_until_it_can() {
    let bench = bench();
    bench.machine("web", b"1");
    bench.snapshot("web", "one");
    write(&bench.vda("web"), VolumeFormat::Qcow2, 0, b"2");
    bench.snapshot("web", "two");
    write(&bench.vda("web"), VolumeFormat::Qcow2, 0, b"3");
    let guest = Guest::on(&bench.vda("web"));

    let change = bench.drop_snapshot("web", "two");
    drop(guest);

    insta::assert_snapshot!(bench.shown(&change), @r#"
    forget snapshot two of web
    keep store/volumes/web.vda.N (a running machine has it open)
    "#);
    assert_eq!(bench.volume_files(), 3);
    bench.drop_snapshot("web", "one");
    assert_eq!(bench.volume_files(), 1, "the layer that was kept went with the next one");
    bench.begins("web", b"3");
}

#[test]
fn a_layer_on_which_a_clone_stands_stays_with_it() {
    let bench = bench();
    bench.machine("web", b"1");
    bench.snapshot("web", "one");
    write(&bench.vda("web"), VolumeFormat::Qcow2, 0, b"2");
    let from = tag("one");
    bench.carry_out(bench.store.plan_clone(&bench.set("web"), Some(&from), &[new("old")], CloneKind::Linked));

    let change = bench.drop_snapshot("web", "one");

    insta::assert_snapshot!(bench.shown(&change), @r#"
    forget snapshot one of web
    keep store/volumes/web.vda.N (old stands on it)
    "#);
    bench.begins("old", b"1");
    bench.begins("web", b"2");
    let change = bench.delete("old");
    insta::assert_snapshot!(bench.shown(&change), @r#"
    forget the disks of old
    remove store/volumes/old.vda.N
    "#);
    bench.begins("web", b"2");
}

#[test]
fn two_runs_that_take_away_the_last_two_clones_leave_no_base() {
    for _ in 0..10 {
        let bench = bench();
        bench.machine("template", b"x");
        bench.carry_out(bench.store.plan_clone(
            &bench.set("template"),
            None,
            &[new("one"), new("two")],
            CloneKind::Linked,
        ));
        bench.delete("template");
        let plans = ["one", "two"].map(|set| bench.store.plan_delete(&bench.set(set)).unwrap());
        std::thread::scope(|scope| {
            for plan in &plans {
                // As another process: a store of its own on the same folder.
                let store = DirStore::new(bench.store.root());
                scope.spawn(move || store.commit(plan).unwrap());
            }
        });
        assert_eq!(bench.store_files(), [] as [&str; 0]);
    }
}

#[test]
fn a_collection_while_a_clone_is_staged_leaves_its_base() {
    let bench = bench();
    bench.machine("template", b"hello");
    bench.clone("template", "one");
    let staged =
        bench.store.plan_clone(&bench.set("template"), None, &[new("two")], CloneKind::Linked).unwrap();
    bench.store.stage(&staged, &[]).unwrap();

    bench.delete("one");
    bench.store.commit(&staged).unwrap();
    bench.delete("template");

    bench.begins("two", b"hello");
}

#[test]
fn nothing_is_collected_while_another_set_s_disks_cannot_be_read() {
    let bench = bench();
    bench.machine("template", b"x");
    bench.clone("template", "web");
    bench.machine("broken", b"y");
    std::fs::write(bench.vda("broken"), "no image any more").unwrap();
    let before = bench.volume_files();

    let change = bench.delete("web");

    insta::assert_snapshot!(bench.shown(&change), @r#"
    forget the disks of web
    keep store/volumes/web.vda.N (the disks of another machine cannot be read, and may stand on it)
    keep store/volumes/template.vda.N (the disks of another machine cannot be read, and may stand on it)
    "#);
    assert_eq!(bench.volume_files(), before);
    assert!(bench.store.set(&name("web")).unwrap().is_none(), "the set is gone nevertheless");
    let broken = bench.vda("broken");
    bench.delete("broken");
    assert!(!broken.exists(), "a broken disk can be deleted");
    bench.delete("template");
}

#[test]
fn nothing_is_collected_while_a_record_cannot_be_understood() {
    let bench = bench();
    bench.machine("web", b"x");
    bench.machine("newer", b"y");
    let change = bench.store.plan_delete(&bench.set("web")).unwrap();
    let record = bench.store.root().join("machines/newer/set.json");
    let text = std::fs::read_to_string(&record).unwrap();
    std::fs::write(&record, text.replace("\"version\": 1", "\"version\": 9")).unwrap();

    bench.store.commit(&change).unwrap();

    assert_eq!(bench.volume_files(), 2);
    assert!(told(bench.store.sets()).0.ends_with("it has version 9, and the versions up to 1 are known"));
}

#[test]
fn deleting_removes_what_kld_made_and_nothing_else() {
    let bench = bench();
    let files = ["seed.iso", "snapshots/one/domain.xml"].map(|path| StateFile {
        set: name("web"),
        path: path.into(),
        content: StateContent::Bytes(b"x".to_vec()),
    });
    let change = bench.store.plan_create(&name("web"), Uuid::new_v4(), &[empty("vda")]).unwrap();
    bench.store.stage(&change, &files).unwrap();
    bench.store.commit(&change).unwrap();
    let folder = bench.set("web").state_dir;
    assert_eq!(mode(&folder.join("seed.iso")), 0o600);
    std::fs::write(folder.join("nvram.fd"), "made by the hypervisor").unwrap();
    std::fs::write(folder.join("notes.txt"), "made by a person").unwrap();

    let change = bench.delete("web");

    insta::assert_snapshot!(bench.shown(&change), @r#"
    forget the disks of web
    remove store/machines/web/nvram.fd
    remove store/machines/web/seed.iso
    remove store/machines/web/snapshots/one/domain.xml
    remove store/volumes/web.vda.N
    "#);
    assert_eq!(bench.store_files(), ["machines/web", "machines/web/notes.txt"]);
    bench.carry_out(bench.store.plan_create(&name("web"), Uuid::new_v4(), &[empty("vda")]));
    assert_eq!(std::fs::read(folder.join("notes.txt")).unwrap(), b"made by a person");
}

#[test]
fn a_file_that_is_there_already_is_neither_replaced_nor_reverted() {
    let bench = bench();
    bench.machine("web", b"x");
    let folder = bench.set("web").state_dir;
    std::fs::write(folder.join("seed.iso"), "somebody's").unwrap();
    let change = bench.store.plan_snapshot(&bench.set("web"), &tag("one"), Consistency::Stopped).unwrap();
    let seed = StateFile {
        set: name("web"),
        path: "seed.iso".into(),
        content: StateContent::Bytes(b"ours".to_vec()),
    };
    let before = bench.store_files();

    let (message, ..) = told(bench.store.stage(&change, &[seed]));
    bench.store.revert(&change).unwrap();

    assert!(message.ends_with("seed.iso: it exists already"), "{message}");
    assert_eq!(std::fs::read(folder.join("seed.iso")).unwrap(), b"somebody's");
    assert_eq!(bench.store_files(), before);
}

#[test]
fn a_set_that_came_to_be_since_the_plan_is_not_overwritten() {
    let bench = bench();
    let late = bench.store.plan_create(&name("web"), Uuid::new_v4(), &[empty("vda")]).unwrap();
    bench.machine("web", b"first");
    assert_eq!(told(bench.store.stage(&late, &[])).0, "the store has a machine web already");
    bench.store.revert(&late).unwrap();
    bench.begins("web", b"first");
}

#[test]
fn a_store_that_cannot_be_written_says_so() {
    let bench = bench();
    std::fs::write(bench.folder.path().join("store"), "a file").unwrap();
    let change = bench.store.plan_create(&name("web"), Uuid::new_v4(), &[empty("vda")]);
    let text = match change {
        Ok(change) => told(bench.store.stage(&change, &[])).0,
        Err(error) => error.to_string(),
    };
    assert!(text.ends_with("store is not a folder"), "{text}");
    let probe = bench.store.probe();
    assert!(probe.finding.ends_with("store is not a folder"), "{}", probe.finding);
}

/// Runs `body` on a file system of 384 KiB of its own. Only root can make one.
fn on_a_tiny_disk(options: &'static str, body: impl FnOnce(&DirBench) + Send + 'static) {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    assert!(
        nix::unistd::geteuid().is_root(),
        "only root can make a file system of its own: run the tests as root"
    );
    let in_own_namespace = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let bench = bench();
        let root = bench.store.root();
        std::fs::create_dir(root).unwrap();
        mount(Some("tmpfs"), root, Some("tmpfs"), MsFlags::empty(), Some("size=384k")).unwrap();
        bench.machine("web", b"x");
        if options == "ro" {
            mount(none, root, none, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, none).unwrap();
        }
        body(&bench);
        // Detached: a program that another test is starting may hold a file of it for a moment.
        nix::mount::umount2(root, nix::mount::MntFlags::MNT_DETACH).unwrap();
    });
    in_own_namespace.join().unwrap();
}

#[test]
fn a_full_disk_says_so_and_is_left_as_it_was() {
    on_a_tiny_disk("", |bench| {
        let before = bench.store_files();
        let image = bench.folder.path().join("image.img");
        std::fs::write(&image, vec![1; 1 << 20]).unwrap();
        let volume = from_image(&image, VolumeFormat::Raw);
        let copy = bench.store.plan_create(&name("new"), Uuid::new_v4(), &[volume]).unwrap();
        let (message, exit, hint) = told(bench.store.stage(&copy, &[]));
        bench.store.revert(&copy).unwrap();
        assert!(
            message.starts_with("qemu-img failed: ") && message.ends_with("No space left on device"),
            "{message}"
        );
        assert_eq!((exit, hint.as_str()), (Exit::Failed, "free some space there and try again"));
        assert_eq!(bench.store_files(), before);

        let clone = bench.store.plan_clone(&bench.set("web"), None, &[new("b")], CloneKind::Linked).unwrap();
        let content = StateContent::CopyOf(image);
        let seed = StateFile { set: name("b"), path: "seed.iso".into(), content };
        let (message, _, hint) = told(bench.store.stage(&clone, &[seed]));
        bench.store.revert(&clone).unwrap();
        assert!(message.ends_with("machines/b/seed.iso: No space left on device"), "{message}");
        assert_eq!(hint, "free some space there and try again");
        assert_eq!(bench.store_files(), before);
        bench.begins("web", b"x");
    });
}

#[test]
fn a_commit_for_which_there_is_no_room_can_be_reverted() {
    on_a_tiny_disk("", |bench| {
        let (before, source) = (bench.store_files(), bench.set("web"));
        let clones = [new("a"), new("b")];
        let clone = bench.store.plan_clone(&source, None, &clones, CloneKind::Linked).unwrap();
        bench.store.stage(&clone, &[]).unwrap();
        let filler = bench.store.root().join("filler");
        let mut file = std::fs::File::create(&filler).unwrap();
        while std::io::Write::write_all(&mut file, &[1; 512]).is_ok() {}

        let (_, exit, hint) = told(bench.store.commit(&clone));
        std::fs::remove_file(filler).unwrap();
        bench.store.revert(&clone).unwrap();

        assert_eq!((exit, hint.as_str()), (Exit::Failed, "free some space there and try again"));
        assert_eq!((bench.store_files(), bench.set("web")), (before, source));
        assert_eq!(mode(&bench.vda("web")), 0o600, "it is no base");
    });
}

#[test]
fn a_read_only_store_says_so() {
    on_a_tiny_disk("ro", |bench| {
        let clone = bench.store.plan_clone(&bench.set("web"), None, &[new("b")], CloneKind::Linked).unwrap();
        let (message, _, hint) = told(bench.store.stage(&clone, &[]));
        assert!(message.ends_with(": Read-only file system"), "{message}");
        assert_eq!(hint, "the file system is mounted read-only");
        bench.store.revert(&clone).unwrap();
        assert!(bench.store.probe().finding.ends_with("cannot be written: Read-only file system"));
    });
}

#[test]
fn a_promoted_disk_that_is_in_use_is_left() {
    let bench = bench();
    bench.machine("template", b"x");
    bench.clone("template", "web");
    let _guest = Guest::on(&bench.vda("web"));
    let (_, exit, _) = told(bench.store.plan_promote(&bench.set("web")));
    assert_eq!(exit, Exit::Busy);
}

#[test]
fn disks_made_by_other_means_are_shared_space() {
    let bench = bench();
    let path = bench.folder.path().join("old.img");
    std::fs::write(&path, vec![1; 1 << 20]).unwrap();
    let volume = Volume { name: "vda".into(), path, format: VolumeFormat::Raw, size: SIZE, adopted: true };
    let set = bench.store.adopt(&name("old"), Uuid::new_v4(), vec![volume]).unwrap();
    let space = bench.store.space(&set).unwrap();
    assert_eq!(
        (space.used, space.shared, space.snapshots),
        (ByteSize::new(0), ByteSize::mib(1), ByteSize::new(0))
    );
}

/// Wherever a commit of new clones ends while the source's record is the old one, it can still be undone.
#[test]
fn a_commit_that_failed_before_the_source_s_record_can_be_reverted() {
    for step in 0.. {
        let bench = bench();
        bench.machine("web", b"x");
        let (before, source) = (bench.store_files(), bench.set("web"));
        let clone = bench.store.plan_clone(&source, None, &[new("a")], CloneKind::Linked).unwrap();
        bench.store.stage(&clone, &[]).unwrap();
        *bench.store.layout.fuse.lock().unwrap() = Some(step);
        assert!(bench.store.commit(&clone).is_err());
        if bench.set("web") != source {
            assert!(step > 1, "there are steps before");
            break;
        }
        bench.store.revert(&clone).unwrap();
        assert_eq!(bench.store_files(), before, "step {step}");
    }
}
