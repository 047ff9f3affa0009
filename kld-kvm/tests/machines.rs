//! What `Machines` promises, on a simulated hypervisor and both simulated stores: whatever fails on the way, things
//! are as before or as wanted, and nobody's data is lost.

use std::sync::{Arc, Mutex};

use kld_core::hypervisor::{Hypervisor, Op, SimHypervisor, State};
use kld_core::store::{CloneKind, Consistency, SimStore, VolumeFormat, VolumeStore};
use kld_core::{ByteSize, Error, Exit, MachineName, SnapshotTag};
use kld_kvm::domain::Definition;
use kld_kvm::image::{self, Backing, DiskFormat, NewImage};
use kld_kvm::machine::{
    CloneRequest, Clones, CreateRequest, DeleteRequest, DiskRequest, FirmwareRequest, Machines,
    NetworkRequest, RollbackRequest,
};
use kld_kvm::seed::CloudInit;

/// A host without hardware: a hypervisor and a store in memory.
struct Sim {
    _folder: tempfile::TempDir,
    hypervisor: Arc<SimHypervisor>,
    store: Arc<SimStore>,
    machines: Machines,
    mended: Arc<Mutex<Vec<String>>>,
}

impl Sim {
    fn new() -> Sim {
        Sim::with(SimStore::new)
    }

    fn with(store: fn(std::path::PathBuf) -> SimStore) -> Sim {
        let folder = tempfile::tempdir().unwrap();
        let hypervisor = Arc::new(SimHypervisor::new());
        let store = Arc::new(store(folder.path().join("store")));
        let mended = Arc::new(Mutex::new(Vec::new()));
        let said = Arc::clone(&mended);
        let machines = Machines::new(hypervisor.clone(), store.clone(), folder.path().join("state"), "test")
            .on_recovery(move |recovered| said.lock().unwrap().push(recovered.to_string()));
        Sim { _folder: folder, hypervisor, store, machines, mended }
    }

    fn create(&self, name: &str) -> Definition {
        self.machines.create(&request(name)).unwrap();
        self.definition(name)
    }

    fn definition(&self, name: &str) -> Definition {
        Definition::parse(&self.hypervisor.domain(name).unwrap().unwrap().definition).unwrap()
    }

    fn clone(&self, source: &str, new: &[&str]) -> Result<(), Error> {
        let names = new.iter().map(|name| machine(name));
        self.machines.clone_machine(&CloneRequest::new(machine(source), names)).map(drop)
    }

    fn delete(&self, names: &[&str], clones: Clones) -> Result<(), Error> {
        let names = names.iter().map(|name| machine(name)).collect();
        self.machines.delete(&DeleteRequest { names, force: false, clones }).map(drop)
    }

    /// Every domain and every set, by name.
    fn names(&self) -> Vec<String> {
        let domains =
            self.hypervisor.domains().unwrap().into_iter().map(|one| format!("domain {}", one.name));
        let sets = self.store.sets().unwrap().into_iter().map(|one| format!("set {}", one.name));
        let mut all: Vec<String> = domains.chain(sets).collect();
        all.sort();
        all
    }
}

fn machine(name: &str) -> MachineName {
    MachineName::parse(name).unwrap()
}

fn tag(name: &str) -> SnapshotTag {
    SnapshotTag::parse(name).unwrap()
}

fn request(name: &str) -> CreateRequest {
    CreateRequest {
        name: machine(name),
        cpus: 2,
        memory: ByteSize::gib(1),
        disks: vec![DiskRequest { size: Some(ByteSize::gib(10)), image: None }; 2],
        iso: None,
        network: NetworkRequest::Network("default".into()),
        os: None,
        firmware: FirmwareRequest::Bios,
        cloud_init: Some(CloudInit::new(machine(name))),
    }
}

#[test]
fn a_clone_differs_from_its_source_in_identity_and_in_nothing_else() {
    for sim in [Sim::new(), Sim::with(SimStore::in_place)] {
        let source = sim.create("template");
        sim.clone("template", &["web-5"]).unwrap();
        let clone = sim.definition("web-5");
        assert_eq!(clone.name(), "web-5");
        assert_ne!(clone.uuid(), source.uuid());
        assert_ne!(clone.interfaces()[0].mac, source.interfaces()[0].mac);
        assert_eq!((clone.cpus(), clone.memory()), (source.cpus(), source.memory()));
        let places = |definition: &Definition| -> Vec<_> {
            definition
                .disks()
                .into_iter()
                .filter_map(|disk| disk.source.path().map(|path| path.to_path_buf()))
                .collect()
        };
        let now = places(&sim.definition("template"));
        assert_eq!(places(&clone).len(), 3, "two disks and a seed");
        assert!(places(&clone).iter().all(|path| !now.contains(path)));
        let set = sim.store.set(&machine("web-5")).unwrap().unwrap();
        let meta = std::fs::read_to_string(set.state_dir.join("seed/meta-data")).unwrap();
        assert!(
            meta.contains("local-hostname: \"web-5\"") || meta.contains("local-hostname: web-5"),
            "{meta}"
        );
    }
}

#[test]
fn of_many_clones_all_come_to_be_or_none() {
    let sim = Sim::new();
    sim.create("template");
    let before = sim.names();
    sim.hypervisor.fail_next(Op::Define);
    sim.clone("template", &["a", "b", "c"]).unwrap_err();
    assert_eq!(sim.names(), before);
    sim.clone("template", &["a", "b", "c"]).unwrap();
    assert_eq!(sim.names().len(), before.len() + 6);
}

#[test]
fn a_running_source_whose_disks_cannot_be_switched_is_left_as_it_was() {
    let sim = Sim::new();
    let before = sim.create("template");
    sim.machines.start(&machine("template")).unwrap();
    let names = sim.names();
    sim.hypervisor.fail_next(Op::SwitchDisks);
    sim.clone("template", &["web"]).unwrap_err();
    assert_eq!(sim.names(), names);
    assert_eq!(sim.definition("template").to_xml(), before.to_xml());
    sim.clone("template", &["web"]).unwrap();
}

#[test]
fn a_clone_of_a_running_machine_says_whether_its_agent_froze_it() {
    for (agent, reached) in [(true, Consistency::Frozen), (false, Consistency::CrashConsistent)] {
        let sim = Sim::new();
        sim.create("db");
        sim.machines.start(&machine("db")).unwrap();
        sim.hypervisor.set_agent(agent);
        let report =
            sim.machines.clone_machine(&CloneRequest::new(machine("db"), [machine("db-2")])).unwrap();
        assert_eq!(report.consistency, reached);
        let report = sim.machines.snapshot(&machine("db"), &tag("now")).unwrap();
        assert_eq!(report.consistency, reached);
        let set = sim.store.set(&machine("db")).unwrap().unwrap();
        assert_eq!(set.snapshots[0].consistency, reached, "the record says so too");
    }
}

#[test]
fn a_taken_name_is_refused_whoever_has_it() {
    let sim = Sim::new();
    sim.create("template");
    sim.create("web");
    let before = sim.names();
    for names in [&["web"][..], &["new", "web"], &["template"], &["new", "new"]] {
        assert_ne!(sim.clone("template", names).unwrap_err().exit(), Exit::Done, "{names:?}");
        assert_eq!(sim.names(), before);
    }
    let error = sim.machines.create(&request("web")).unwrap_err();
    assert_eq!(error.to_string(), "there is already a machine named 'web'");
}

#[test]
fn a_template_is_not_started_and_its_clones_are() {
    let sim = Sim::new();
    sim.create("template");
    assert!(sim.machines.set_template(&machine("template"), true).unwrap().is_changed());
    assert!(!sim.machines.set_template(&machine("template"), true).unwrap().is_changed());
    assert_eq!(sim.machines.start(&machine("template")).unwrap_err().exit(), Exit::Refused);
    sim.clone("template", &["web"]).unwrap();
    sim.machines.start(&machine("web")).unwrap();
    sim.machines.set_template(&machine("template"), false).unwrap();
    sim.machines.start(&machine("template")).unwrap();
    let running = sim.machines.set_template(&machine("template"), true).unwrap_err();
    assert_eq!(running.exit(), Exit::Refused);
}

#[test]
fn a_rollback_brings_definition_and_disks_back_and_refuses_to_lose_what_is_newer() {
    let sim = Sim::new();
    sim.create("db");
    sim.machines.snapshot(&machine("db"), &tag("one")).unwrap();
    let at_one = sim.definition("db");
    sim.machines.snapshot(&machine("db"), &tag("two")).unwrap();
    let mut grown = sim.definition("db").to_xml();
    grown = grown.replacen("<vcpu placement=\"static\">2", "<vcpu placement=\"static\">4", 1).replacen(
        "<vcpu placement='static'>2",
        "<vcpu placement='static'>4",
        1,
    );
    sim.hypervisor.define(&grown).unwrap();
    assert_eq!(sim.definition("db").cpus(), 4);

    let mut back = RollbackRequest { machine: machine("db"), tag: tag("one"), discard_newer: false };
    let error = sim.machines.rollback(&back).unwrap_err();
    assert_eq!(error.exit(), Exit::Refused);
    assert_eq!(error.to_string(), "going back to 'one' would lose the newer snapshots of db: two");
    back.discard_newer = true;
    sim.machines.start(&machine("db")).unwrap();
    assert_eq!(sim.machines.rollback(&back).unwrap_err().exit(), Exit::Refused, "it runs");
    sim.hypervisor.power_off(at_one.uuid().unwrap()).unwrap();

    let report = sim.machines.rollback(&back).unwrap();
    assert_eq!(report.discarded, [tag("two")]);
    assert_eq!(sim.definition("db").cpus(), 2);
    let set = sim.store.set(&machine("db")).unwrap().unwrap();
    assert_eq!(set.snapshots.len(), 1);
}

#[test]
fn a_machine_with_clones_goes_only_with_a_word_about_them() {
    for (make, shared) in
        [(SimStore::new as fn(std::path::PathBuf) -> SimStore, true), (SimStore::in_place, false)]
    {
        let sim = Sim::with(make);
        sim.create("template");
        sim.clone("template", &["web"]).unwrap();
        sim.clone("web", &["web-test"]).unwrap();
        let refused = sim.delete(&["template"], Clones::Refuse).unwrap_err();
        assert_eq!(refused.exit(), Exit::Refused);
        assert_eq!(refused.to_string(), "template has clones: web");
        sim.delete(&["template"], Clones::Promote)
            .unwrap_or_else(|error| panic!("shared bases {shared}: {error}"));
        assert!(sim.names().iter().all(|name| !name.ends_with(" template")));
        sim.machines.start(&machine("web")).unwrap();
        sim.machines.hypervisor().power_off(sim.definition("web").uuid().unwrap()).unwrap();
        sim.delete(&["web"], Clones::Delete).unwrap();
        assert_eq!(sim.names(), [""; 0]);
    }
}

#[test]
fn a_running_machine_is_not_deleted_unless_forced() {
    let sim = Sim::new();
    sim.create("web");
    sim.machines.start(&machine("web")).unwrap();
    assert_eq!(sim.delete(&["web"], Clones::Refuse).unwrap_err().exit(), Exit::Refused);
    let forced = DeleteRequest { names: vec![machine("web")], force: true, clones: Clones::Refuse };
    sim.machines.delete(&forced).unwrap();
    assert_eq!(sim.names(), [""; 0]);
}

#[test]
fn a_full_copy_has_no_origin() {
    let sim = Sim::new();
    sim.create("template");
    let request =
        CloneRequest { kind: CloneKind::Full, ..CloneRequest::new(machine("template"), [machine("copy")]) };
    sim.machines.clone_machine(&request).unwrap();
    assert_eq!(sim.store.set(&machine("copy")).unwrap().unwrap().origin, None);
    sim.delete(&["template"], Clones::Refuse).unwrap();
}

#[test]
fn what_cannot_be_finished_now_is_finished_by_the_next_run() {
    let sim = Sim::new();
    sim.create("web");
    sim.hypervisor.fail_next(Op::Undefine);
    sim.delete(&["web"], Clones::Refuse).unwrap_err();
    // The next changing tool, on another machine.
    sim.create("other");
    assert_eq!(*sim.mended.lock().unwrap(), ["finished what a killed run had begun: delete web"]);
    assert_eq!(sim.names(), ["domain other", "set other"]);
}

#[test]
fn an_interrupted_deletion_does_not_take_a_machine_that_was_started_since() {
    let sim = Sim::new();
    let uuid = sim.create("web").uuid().unwrap();
    sim.hypervisor.fail_next(Op::Undefine);
    sim.delete(&["web"], Clones::Refuse).unwrap_err();
    sim.hypervisor.set_state(uuid, State::Running);
    sim.create("other");
    assert_eq!(sim.names(), ["domain other", "domain web", "set other", "set web"]);
    assert_eq!(*sim.mended.lock().unwrap(), ["undid what a killed run had begun: delete web"]);
}

#[test]
fn a_switch_whose_answer_is_lost_is_finished_and_never_undone() {
    let sim = Sim::new();
    sim.create("db");
    sim.machines.start(&machine("db")).unwrap();
    sim.hypervisor.fail_after_next_switch();
    let error = sim.clone("db", &["copy"]).unwrap_err();
    assert!(
        error.hint().unwrap_or_default().contains("the next kvm tool that changes something finishes it")
    );
    // What the guest writes to is still there.
    let stands_on = |name: &str| -> Vec<_> {
        let disks = sim.definition(name).disks().into_iter();
        disks.filter_map(|disk| disk.source.path().map(|path| path.to_path_buf())).collect()
    };
    let now = stands_on("db");
    sim.machines.recover().unwrap();
    assert_eq!(*sim.mended.lock().unwrap(), ["finished what a killed run had begun: clone db to copy"]);
    assert_eq!(stands_on("db"), now);
    let set = sim.store.set(&machine("db")).unwrap().unwrap();
    assert!(set.volumes.iter().all(|volume| now.contains(&volume.path)));
    assert!(sim.names().contains(&"set copy".to_string()));
}

#[test]
fn an_interrupted_rollback_does_not_take_what_a_machine_that_was_started_since_has_written() {
    let sim = Sim::new();
    let uuid = sim.create("db").uuid().unwrap();
    sim.machines.snapshot(&machine("db"), &tag("one")).unwrap();
    let before = sim.definition("db").to_xml();
    // It fails, and so does undoing it: as if it had been killed before it touched anything.
    sim.hypervisor.fail_next(Op::Define);
    sim.hypervisor.fail_after_next_switch();
    let back = RollbackRequest { machine: machine("db"), tag: tag("one"), discard_newer: false };
    sim.machines.rollback(&back).unwrap_err();
    sim.hypervisor.set_state(uuid, State::Running);
    sim.machines.recover().unwrap();
    assert_eq!(sim.definition("db").to_xml(), before);
    assert_eq!(sim.hypervisor.domain("db").unwrap().unwrap().state, State::Running);
}

#[test]
fn a_machine_whose_memory_is_saved_is_not_touched() {
    let sim = Sim::new();
    let uuid = sim.create("db").uuid().unwrap();
    sim.machines.snapshot(&machine("db"), &tag("one")).unwrap();
    sim.hypervisor.set_saved(uuid, true);
    let refused = |error: Error| {
        assert_eq!(error.exit(), Exit::Refused);
        assert_eq!(error.to_string(), "the memory of db is saved");
    };
    refused(sim.clone("db", &["copy"]).unwrap_err());
    refused(sim.machines.snapshot(&machine("db"), &tag("two")).unwrap_err());
    refused(sim.machines.set_template(&machine("db"), true).unwrap_err());
    let back = RollbackRequest { machine: machine("db"), tag: tag("one"), discard_newer: false };
    refused(sim.machines.rollback(&back).unwrap_err());
    // A snapshot holds no memory.
    let from_one =
        CloneRequest { snapshot: Some(tag("one")), ..CloneRequest::new(machine("db"), [machine("old")]) };
    sim.machines.clone_machine(&from_one).unwrap();
}

#[test]
fn lineage_is_that_of_machines_not_of_names() {
    let sim = Sim::new();
    sim.create("template");
    sim.clone("template", &["web"]).unwrap();
    sim.delete(&["template"], Clones::Promote).unwrap();
    sim.create("template");
    assert_eq!(sim.machines.show(&machine("template")).unwrap().clones, []);
    sim.delete(&["template"], Clones::Refuse).unwrap();
}

#[test]
fn a_plan_says_what_would_be_done_and_does_nothing() {
    let sim = Sim::new();
    sim.create("template");
    let before = sim.names();
    let request = CloneRequest::new(machine("template"), [machine("web")]);
    let plan = sim.machines.plan_clone(&request).unwrap();
    assert_eq!(plan.title, "clone template to web");
    assert!(plan.steps.iter().any(|step| step.verb == "define" && step.object == "web"));
    sim.machines.plan_snapshot(&machine("template"), &tag("now")).unwrap();
    sim.machines.plan_template(&machine("template"), true).unwrap();
    let delete = DeleteRequest { names: vec![machine("template")], force: false, clones: Clones::Refuse };
    sim.machines.plan_delete(&delete).unwrap();
    assert_eq!(sim.names(), before);
}

/// Stores copy images with all that stands behind them, and a downloaded one could name any file of the host.
#[test]
fn an_image_that_stands_on_another_file_is_refused_whatever_the_store() {
    let sim = Sim::new();
    let image = sim._folder.path().join("thief.qcow2");
    let backing = Backing { path: "/etc/shadow".into(), format: DiskFormat::Raw };
    image::create(&image, &NewImage::overlay(1 << 20, backing)).unwrap();
    let disks = vec![DiskRequest { size: None, image: Some((image, VolumeFormat::Qcow2)) }];
    let refused = sim.machines.create(&CreateRequest { disks, ..request("web") }).unwrap_err();
    assert!(matches!(refused, Error::Refused { .. }), "{refused}");
    assert!(refused.to_string().ends_with("stands on another file, '/etc/shadow'"), "{refused}");
    assert!(sim.store.sets().unwrap().is_empty());
}
