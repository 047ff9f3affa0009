//! What every [`Hypervisor`] does, as tests: each one's own tests call [`all`] with a maker of rigs.
//!
//! A violation panics, as a failed assertion does. The tests make domains of their own, with fresh names and UUIDs,
//! and take them away after, also where one fails; other domains of the host are left alone.

use std::cell::RefCell;
use std::time::Duration;

use uuid::Uuid;

use super::{DomainRecord, Hypervisor, State};
use crate::store::{Consistency, Repoint, Volume};
use crate::{Error, MachineName, Result};

/// A hypervisor under test, and what is particular to it.
pub trait Rig {
    /// The hypervisor.
    fn hypervisor(&self) -> &dyn Hypervisor;
    /// The `type` of its domains: `qemu`, `kvm`, `test`.
    fn domain_type(&self) -> &str;
    /// Whether a guest without an operating system goes down when it is asked. Simulated ones do, real ones do not.
    fn guest_obeys(&self) -> bool;
    /// A disk file that a domain may open; `None` leaves out what needs one. Disks of running domains are switched
    /// only where [`super::HypervisorCapabilities::live_switch`] says so, too.
    fn disk(&self) -> Option<Volume> {
        None
    }
    /// A new empty overlay on a disk.
    fn overlay(&self, on: &Volume) -> Volume {
        on.clone()
    }
}

/// Makes fresh rigs.
pub type Make<'a> = &'a dyn Fn() -> Box<dyn Rig>;

type Test = fn(Make);

/// Every test by name, for those who run or show them one by one.
pub const TESTS: &[(&str, Test)] = &[
    ("a_defined_domain_is_found_and_off", a_defined_domain_is_found_and_off),
    ("a_domain_that_is_not_there_is_not_found", a_domain_that_is_not_there_is_not_found),
    ("a_definition_is_replaced", a_definition_is_replaced),
    ("a_running_domain_is_redefined_for_its_next_start", a_running_domain_is_redefined_for_its_next_start),
    ("another_domains_name_is_refused", another_domains_name_is_refused),
    ("another_domains_uuid_is_refused", another_domains_uuid_is_refused),
    ("what_is_no_definition_is_refused", what_is_no_definition_is_refused),
    ("undefining_twice_changes_once", undefining_twice_changes_once),
    (
        "a_running_domain_that_is_undefined_goes_when_it_stops",
        a_running_domain_that_is_undefined_goes_when_it_stops,
    ),
    ("starting_twice_changes_once", starting_twice_changes_once),
    ("a_domain_that_is_not_there_is_not_started", a_domain_that_is_not_there_is_not_started),
    ("power_off_twice_changes_once", power_off_twice_changes_once),
    ("a_domain_starts_again_after_power_off", a_domain_starts_again_after_power_off),
    ("a_guest_that_obeys_shuts_down_and_another_is_busy", a_guest_that_obeys_shuts_down_and_another_is_busy),
    ("a_domain_that_is_off_is_shut_down_already", a_domain_that_is_off_is_shut_down_already),
    (
        "a_domain_that_is_off_has_neither_addresses_nor_console",
        a_domain_that_is_off_has_neither_addresses_nor_console,
    ),
    ("a_network_that_is_not_there_is_none", a_network_that_is_not_there_is_none),
    ("disks_of_a_running_domain_are_switched", disks_of_a_running_domain_are_switched),
    ("disks_of_a_domain_that_is_off_are_switched", disks_of_a_domain_that_is_off_are_switched),
];

/// Runs every test.
pub fn all(make: Make) {
    for (name, test) in TESTS {
        let running = Running(name);
        test(make);
        std::mem::forget(running);
    }
}

/// Says which test panicked.
struct Running(&'static str);

impl Drop for Running {
    #[allow(clippy::print_stderr, reason = "where a test fails, its runner shows this")]
    fn drop(&mut self) {
        eprintln!("violated: {}", self.0);
    }
}

#[track_caller]
fn ok<T>(what: &str, result: Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{what}: {error}"),
    }
}

/// A domain that a test makes.
#[derive(Debug, Clone)]
struct Sample {
    name: String,
    uuid: Uuid,
    title: &'static str,
    disk: Option<Volume>,
}

impl Sample {
    fn new() -> Self {
        let uuid = Uuid::new_v4();
        Sample { name: format!("kld-test-{}", uuid.simple()), uuid, title: "first", disk: None }
    }

    fn definition(&self, kind: &str) -> String {
        let disk = self.disk.as_ref().map(|volume| {
            let (driver, path) = (volume.format.driver(), volume.path.display());
            format!(
                "    <disk type='file' device='disk'>
      <driver name='qemu' type='{driver}'/>
      <source file='{path}'/>
      <target dev='{}' bus='virtio'/>
    </disk>
",
                volume.name
            )
        });
        format!(
            "<domain type='{kind}'>
  <name>{}</name>
  <uuid>{}</uuid>
  <title>{}</title>
  <memory unit='KiB'>65536</memory>
  <vcpu>1</vcpu>
  <os>
    <type>hvm</type>
  </os>
  <devices>
{}  </devices>
</domain>
",
            self.name,
            self.uuid,
            self.title,
            disk.unwrap_or_default()
        )
    }
}

/// A rig that takes away what a test defined.
struct Case {
    rig: Box<dyn Rig>,
    made: RefCell<Vec<Uuid>>,
}

impl Drop for Case {
    fn drop(&mut self) {
        for uuid in self.made.borrow().iter() {
            // A failure here hides the violation that a test is unwinding from.
            let _ = self.hypervisor().power_off(*uuid);
            let _ = self.hypervisor().undefine(*uuid);
        }
    }
}

impl Case {
    fn new(make: Make) -> Self {
        Case { rig: make(), made: RefCell::default() }
    }

    fn hypervisor(&self) -> &dyn Hypervisor {
        self.rig.hypervisor()
    }

    fn try_define(&self, sample: &Sample) -> Result<Uuid> {
        self.made.borrow_mut().push(sample.uuid);
        self.hypervisor().define(&sample.definition(self.rig.domain_type()))
    }

    #[track_caller]
    fn define(&self, sample: &Sample) {
        assert_eq!(ok("define", self.try_define(sample)), sample.uuid);
    }

    #[track_caller]
    fn defined(&self) -> Sample {
        let sample = Sample::new();
        self.define(&sample);
        sample
    }

    #[track_caller]
    fn started(&self) -> Sample {
        let sample = self.defined();
        ok("start", self.hypervisor().start(sample.uuid));
        sample
    }

    #[track_caller]
    fn find(&self, sample: &Sample) -> Option<DomainRecord> {
        ok("look up", self.hypervisor().domain_by_uuid(sample.uuid))
    }

    #[track_caller]
    fn state(&self, sample: &Sample) -> Option<State> {
        self.find(sample).map(|record| record.state)
    }
}

/// By its name, by its UUID and in the list, and the same each time.
pub fn a_defined_domain_is_found_and_off(make: Make) {
    let case = Case::new(make);
    let (sample, other) = (case.defined(), case.defined());

    let record = match case.find(&sample) {
        Some(record) => record,
        None => panic!("a defined domain is found by its UUID"),
    };
    assert_eq!((&record.name, record.uuid, record.state), (&sample.name, sample.uuid, State::Off));
    assert!(record.persistent);
    for part in [&format!("<name>{}</name>", sample.name), &sample.uuid.to_string(), "<title>first</title>"] {
        assert!(record.definition.contains(part), "the definition has {part}: {}", record.definition);
    }
    assert_eq!(ok("domain", case.hypervisor().domain(&sample.name)).as_ref(), Some(&record));
    let all = ok("domains", case.hypervisor().domains());
    assert_eq!(all.iter().filter(|known| **known == record).count(), 1);
    assert!(all.iter().any(|known| known.uuid == other.uuid));
}

/// That is no error.
pub fn a_domain_that_is_not_there_is_not_found(make: Make) {
    let case = Case::new(make);
    let absent = Sample::new();
    assert_eq!(case.find(&absent), None);
    assert_eq!(ok("domain", case.hypervisor().domain(&absent.name)), None);
}

/// Under the same name and UUID.
pub fn a_definition_is_replaced(make: Make) {
    let case = Case::new(make);
    let sample = case.defined();

    case.define(&Sample { title: "second", ..sample.clone() });

    let definition = case.find(&sample).map(|record| record.definition).unwrap_or_default();
    assert!(definition.contains("<title>second</title>"), "{definition}");
    assert!(!definition.contains("<title>first</title>"), "{definition}");
    let named = ok("domains", case.hypervisor().domains());
    assert_eq!(named.iter().filter(|known| known.name == sample.name).count(), 1);
}

/// It goes on running, and the record's definition is the one that its next start uses.
pub fn a_running_domain_is_redefined_for_its_next_start(make: Make) {
    let case = Case::new(make);
    let sample = case.started();

    case.define(&Sample { title: "second", ..sample.clone() });

    assert_eq!(case.state(&sample), Some(State::Running));
    let definition = case.find(&sample).map(|record| record.definition).unwrap_or_default();
    assert!(definition.contains("<title>second</title>"), "{definition}");
}

/// And the other stays as it is.
pub fn another_domains_name_is_refused(make: Make) {
    let case = Case::new(make);
    let sample = case.defined();
    let before = case.find(&sample);
    let intruder = Sample { name: sample.name.clone(), title: "second", ..Sample::new() };

    assert!(case.try_define(&intruder).is_err());

    assert_eq!(case.find(&sample), before);
    assert_eq!(case.find(&intruder), None);
}

/// And the other stays as it is.
pub fn another_domains_uuid_is_refused(make: Make) {
    let case = Case::new(make);
    let sample = case.defined();
    let before = case.find(&sample);
    let intruder = Sample { uuid: sample.uuid, title: "second", ..Sample::new() };

    assert!(case.try_define(&intruder).is_err());

    assert_eq!(case.find(&sample), before);
    assert_eq!(ok("domain", case.hypervisor().domain(&intruder.name)), None);
}

/// And nothing is made of it.
pub fn what_is_no_definition_is_refused(make: Make) {
    let case = Case::new(make);
    for text in ["", "web-5", "<domain/>"] {
        assert!(case.hypervisor().define(text).is_err(), "'{text}'");
    }
    // Others may be at work on the same host: they are not counted.
    let domains = ok("domains", case.hypervisor().domains());
    assert!(domains.iter().all(|domain| !["", "web-5"].contains(&domain.name.as_str())), "{domains:?}");
}

/// What is not there is as wanted.
pub fn undefining_twice_changes_once(make: Make) {
    let case = Case::new(make);
    let sample = case.defined();
    let undefine = || ok("undefine", case.hypervisor().undefine(sample.uuid)).is_changed();
    assert!(undefine());
    assert_eq!(case.find(&sample), None);
    assert!(!undefine());
}

/// It is transient until then.
pub fn a_running_domain_that_is_undefined_goes_when_it_stops(make: Make) {
    let case = Case::new(make);
    let sample = case.started();

    assert!(ok("undefine", case.hypervisor().undefine(sample.uuid)).is_changed());
    let record = case.find(&sample).map(|record| (record.state, record.persistent));
    assert_eq!(record, Some((State::Running, false)));
    assert!(!ok("undefine", case.hypervisor().undefine(sample.uuid)).is_changed());

    assert!(ok("power off", case.hypervisor().power_off(sample.uuid)).is_changed());
    assert_eq!(case.find(&sample), None);
}

/// A running domain is as wanted.
pub fn starting_twice_changes_once(make: Make) {
    let case = Case::new(make);
    let sample = case.defined();
    let start = || ok("start", case.hypervisor().start(sample.uuid)).is_changed();
    assert!(start());
    assert_eq!(case.state(&sample), Some(State::Running));
    assert!(!start());
    assert_eq!(case.state(&sample), Some(State::Running));
}

/// That is an error.
pub fn a_domain_that_is_not_there_is_not_started(make: Make) {
    let case = Case::new(make);
    assert!(case.hypervisor().start(Uuid::new_v4()).is_err());
}

/// A domain that is off is as wanted, and stays defined.
pub fn power_off_twice_changes_once(make: Make) {
    let case = Case::new(make);
    let sample = case.started();
    let power_off = || ok("power off", case.hypervisor().power_off(sample.uuid)).is_changed();
    assert!(power_off());
    assert_eq!(case.state(&sample), Some(State::Off));
    assert!(!power_off());
    assert_eq!(case.state(&sample), Some(State::Off));
}

/// As often as one likes.
pub fn a_domain_starts_again_after_power_off(make: Make) {
    let case = Case::new(make);
    let sample = case.started();
    ok("power off", case.hypervisor().power_off(sample.uuid));
    assert!(ok("start", case.hypervisor().start(sample.uuid)).is_changed());
    assert_eq!(case.state(&sample), Some(State::Running));
}

/// One that does not obey within the time still runs, and the error says that it is busy.
pub fn a_guest_that_obeys_shuts_down_and_another_is_busy(make: Make) {
    let case = Case::new(make);
    let sample = case.started();

    let asked = case.hypervisor().shutdown(sample.uuid, Duration::from_secs(2));

    if case.rig.guest_obeys() {
        assert!(ok("shut down", asked).is_changed());
        assert_eq!(case.state(&sample), Some(State::Off));
    } else {
        assert!(matches!(asked, Err(Error::Busy { .. })), "{asked:?}");
        assert!(case.state(&sample).is_some_and(State::is_active));
    }
}

/// It is as wanted.
pub fn a_domain_that_is_off_is_shut_down_already(make: Make) {
    let case = Case::new(make);
    let sample = case.defined();
    let asked = case.hypervisor().shutdown(sample.uuid, Duration::from_secs(2));
    assert!(!ok("shut down", asked).is_changed());
}

/// No addresses are known, which is no error; a console there is none.
pub fn a_domain_that_is_off_has_neither_addresses_nor_console(make: Make) {
    let case = Case::new(make);
    let sample = case.defined();
    assert_eq!(ok("addresses", case.hypervisor().addresses(sample.uuid)), []);
    assert!(case.hypervisor().console(sample.uuid).is_err());
}

/// That is no error.
pub fn a_network_that_is_not_there_is_none(make: Make) {
    let case = Case::new(make);
    assert_eq!(ok("network", case.hypervisor().network("kld-test-no-such-network")), None);
}

/// In its definition, and a second time too; it goes on running, and starts from there after.
pub fn disks_of_a_running_domain_are_switched(make: Make) {
    let case = Case::new(make);
    if case.hypervisor().capabilities().live_switch {
        switch_twice(&case, true);
    }
}

/// In its definition, and a second time too; it starts from there after.
pub fn disks_of_a_domain_that_is_off_are_switched(make: Make) {
    switch_twice(&Case::new(make), false);
}

fn switch_twice(case: &Case, running: bool) {
    let Some(disk) = case.rig.disk() else { return };
    let sample = Sample { disk: Some(disk.clone()), ..Sample::new() };
    case.define(&sample);
    if running {
        ok("start", case.hypervisor().start(sample.uuid));
    }
    let overlay = case.rig.overlay(&disk);
    let set = ok("a name", MachineName::parse(&sample.name));
    let repoints = [Repoint { set, volume: overlay.clone() }];

    for _ in 0..2 {
        let reached = ok("switch", case.hypervisor().switch_disks(sample.uuid, &repoints));
        assert_eq!(reached == Consistency::Stopped, !running);
        assert_eq!(case.state(&sample), Some(if running { State::Running } else { State::Off }));
        let definition = case.find(&sample).map(|record| record.definition).unwrap_or_default();
        let source = |volume: &Volume| format!("<source file='{}'", volume.path.display());
        assert!(definition.contains(&source(&overlay)), "{definition}");
    }
    ok("power off", case.hypervisor().power_off(sample.uuid));
    ok("start", case.hypervisor().start(sample.uuid));
    assert_eq!(case.state(&sample), Some(State::Running));
}
