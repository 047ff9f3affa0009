//! What every [`VolumeStore`] does, as tests: each store's own tests call [`all`] with a maker of fresh stores.
//!
//! A violation panics, as a failed assertion does. Contents are compared as the guest sees them, so that a store
//! is judged by what it keeps and not by how.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::{
    CloneKind, Consistency, NewClone, NewVolume, Set, StateContent, StateFile, StoreChange, Volume,
    VolumeFormat, VolumeStore,
};
use crate::{ByteSize, Error, MachineName, Result, SnapshotTag};

/// A store under test, and what a test does to it from outside. Each one is fresh: an empty store in a place of
/// its own, which goes when this is dropped.
pub trait Bench {
    /// The store.
    fn store(&self) -> &dyn VolumeStore;
    /// A disk that the store did not make, outside it: `bytes` at its beginning, zeros up to `size`. It serves as
    /// an image and as the disk of a machine to be adopted.
    fn image(&self, size: ByteSize, bytes: &[u8]) -> (PathBuf, VolumeFormat);
    /// Writes as a running guest does; panics where that cannot be done. Never asked for a volume that a staged or
    /// committed change has moved away from, nor for a snapshot's.
    fn write(&self, volume: &Volume, offset: u64, bytes: &[u8]);
    /// Reads what a guest sees; snapshots' volumes are read too.
    fn read(&self, volume: &Volume, offset: u64, len: usize) -> Vec<u8>;
    /// The names of everything that is there, in a fixed order: the store's volumes, files and folders (its own
    /// root left out), and the [images](Bench::image).
    fn leftovers(&self) -> Vec<String>;
    /// Makes the next `stage`, `commit` or `revert` fail before its step number `steps` (from 0), as a kill would;
    /// where it has fewer steps it succeeds, and nothing stays armed. False where this bench cannot do it.
    fn interrupt(&self, steps: usize) -> bool {
        let _ = steps;
        false
    }
    /// How much is tried where each try costs seconds.
    fn sample(&self) -> Sample {
        Sample::ALL
    }
}

/// Which part of the kinds of change a test tries, and of the steps at which each can be interrupted: one out of `of`,
/// from the one with number `first` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// The first; where it differs from test to test, they try all kinds together.
    pub first: usize,
    /// Of how many one is tried, at least 1.
    pub of: usize,
}

impl Sample {
    /// Every kind, and every step.
    pub const ALL: Sample = Sample { first: 0, of: 1 };

    fn numbers(self, shift: usize) -> impl Iterator<Item = usize> {
        ((self.first + shift) % self.of..).step_by(self.of)
    }

    /// The kinds of change that are tried, with their numbers.
    fn kinds(self) -> impl Iterator<Item = (usize, &'static (&'static str, Kind))> {
        self.numbers(0).map_while(|number| Some((number, KINDS.get(number)?)))
    }
}

/// Makes fresh benches.
pub type Make<'a> = &'a dyn Fn() -> Box<dyn Bench>;

type Test = fn(Make);

/// Every test by name, for those who run or show them one by one.
pub const TESTS: &[(&str, Test)] = &[
    ("a_new_set_has_the_volumes_that_were_asked_for", a_new_set_has_the_volumes_that_were_asked_for),
    ("a_new_volume_is_blank_and_keeps_what_is_written", a_new_volume_is_blank_and_keeps_what_is_written),
    (
        "a_volume_made_from_an_image_starts_with_its_contents",
        a_volume_made_from_an_image_starts_with_its_contents,
    ),
    ("a_volume_is_never_smaller_than_its_image", a_volume_is_never_smaller_than_its_image),
    ("a_volume_without_size_and_image_is_refused", a_volume_without_size_and_image_is_refused),
    ("two_volumes_of_one_name_are_refused", two_volumes_of_one_name_are_refused),
    ("two_sets_of_one_name_are_refused", two_sets_of_one_name_are_refused),
    (
        "a_change_is_seen_when_it_is_committed_and_not_before",
        a_change_is_seen_when_it_is_committed_and_not_before,
    ),
    ("every_volume_that_moves_is_told", every_volume_that_moves_is_told),
    ("source_and_clone_do_not_see_each_others_writes", source_and_clone_do_not_see_each_others_writes),
    ("many_clones_are_made_at_once", many_clones_are_made_at_once),
    ("a_source_is_cloned_again_and_again", a_source_is_cloned_again_and_again),
    ("a_clone_is_cloned", a_clone_is_cloned),
    (
        "a_clone_of_a_snapshot_has_its_contents_and_moves_nothing",
        a_clone_of_a_snapshot_has_its_contents_and_moves_nothing,
    ),
    ("a_full_clone_stands_alone", a_full_clone_stands_alone),
    ("only_direct_clones_are_listed", only_direct_clones_are_listed),
    ("a_set_made_by_other_means_is_adopted_and_cloned", a_set_made_by_other_means_is_adopted_and_cloned),
    ("adopted_files_are_never_removed", adopted_files_are_never_removed),
    ("a_disk_that_is_not_there_is_not_adopted", a_disk_that_is_not_there_is_not_adopted),
    ("writes_between_stage_and_commit_are_kept", writes_between_stage_and_commit_are_kept),
    ("a_snapshot_keeps_what_was_there", a_snapshot_keeps_what_was_there),
    (
        "a_snapshot_is_recorded_with_the_consistency_that_was_reached",
        a_snapshot_is_recorded_with_the_consistency_that_was_reached,
    ),
    (
        "a_rollback_brings_contents_back_and_drops_newer_snapshots",
        a_rollback_brings_contents_back_and_drops_newer_snapshots,
    ),
    ("a_set_is_rolled_back_to_the_same_snapshot_twice", a_set_is_rolled_back_to_the_same_snapshot_twice),
    ("dropping_a_snapshot_changes_no_contents", dropping_a_snapshot_changes_no_contents),
    ("a_dropped_snapshot_takes_its_state_files_along", a_dropped_snapshot_takes_its_state_files_along),
    ("snapshots_are_named_once_and_must_exist", snapshots_are_named_once_and_must_exist),
    ("a_promoted_clone_outlives_its_origin", a_promoted_clone_outlives_its_origin),
    ("a_promoted_clone_keeps_its_snapshots", a_promoted_clone_keeps_its_snapshots),
    ("shared_bases_outlive_the_source", shared_bases_outlive_the_source),
    ("deleting_a_clone_leaves_the_source_as_it_is", deleting_a_clone_leaves_the_source_as_it_is),
    ("nothing_is_left_when_all_sets_are_deleted", nothing_is_left_when_all_sets_are_deleted),
    (
        "state_files_are_there_when_staged_and_gone_when_reverted",
        state_files_are_there_when_staged_and_gone_when_reverted,
    ),
    ("state_files_stay_within_the_state_folder", state_files_stay_within_the_state_folder),
    ("planning_changes_nothing", planning_changes_nothing),
    ("what_was_staged_is_reverted_without_a_trace", what_was_staged_is_reverted_without_a_trace),
    ("a_stage_that_failed_is_reverted_without_a_trace", a_stage_that_failed_is_reverted_without_a_trace),
    ("stage_commit_and_revert_may_be_run_twice", stage_commit_and_revert_may_be_run_twice),
    ("an_interrupted_stage_is_undone_or_finished", an_interrupted_stage_is_undone_or_finished),
    ("an_interrupted_commit_is_finished", an_interrupted_commit_is_finished),
    ("an_interrupted_revert_is_finished", an_interrupted_revert_is_finished),
    ("space_is_told_apart", space_is_told_apart),
    ("a_change_of_another_store_is_refused", a_change_of_another_store_is_refused),
];

/// Runs every test.
pub fn all(make: Make) {
    for (name, test) in TESTS {
        // Shown by the test runner where a test fails.
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

const SIZE: ByteSize = ByteSize::mib(4);
/// A place far from the beginning, in another cluster of any format.
const FAR: u64 = 3 << 20;

fn name(text: &str) -> MachineName {
    ok("a name", MachineName::parse(text))
}

fn tag(text: &str) -> SnapshotTag {
    ok("a tag", SnapshotTag::parse(text))
}

#[track_caller]
fn ok<T>(what: &str, result: Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{what}: {error}"),
    }
}

fn new_volume(name: &str, size: ByteSize) -> NewVolume {
    NewVolume { name: name.to_string(), size: Some(size), image: None }
}

fn new_clone(text: &str) -> NewClone {
    NewClone { name: name(text), machine: Uuid::new_v4() }
}

/// What a test does with its bench, in few words.
struct Case(Box<dyn Bench>);

impl std::ops::Deref for Case {
    type Target = dyn Bench;
    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl Case {
    fn new(make: Make) -> Self {
        Case(make())
    }

    /// The set as the store has it now.
    #[track_caller]
    fn set(&self, text: &str) -> Set {
        match self.store().set(&name(text)) {
            Ok(Some(set)) => set,
            Ok(None) => panic!("the store has no set '{text}'"),
            Err(error) => panic!("the set '{text}': {error}"),
        }
    }

    fn volume(&self, set: &str, volume: &str) -> Volume {
        match self.set(set).volumes.into_iter().find(|known| known.name == volume) {
            Some(volume) => volume,
            None => panic!("'{set}' has no volume '{volume}'"),
        }
    }

    fn snapshot_volume(&self, set: &str, text: &str) -> Volume {
        match self.set(set).snapshot(&tag(text)) {
            Some(snapshot) => snapshot.volumes[0].clone(),
            None => panic!("'{set}' has no snapshot '{text}'"),
        }
    }

    /// Stages and commits, through what a journal would have kept.
    #[track_caller]
    fn carry_out(&self, change: Result<StoreChange>) -> StoreChange {
        let change = restarted(&ok("plan", change));
        ok("stage", self.store().stage(&change, &[]));
        ok("commit", self.store().commit(&change));
        for set in &change.sets {
            assert_eq!(self.set(set.name.as_str()), *set, "a committed set is as the plan said");
        }
        change
    }

    #[track_caller]
    fn create(&self, text: &str, volumes: &[NewVolume]) -> Set {
        self.carry_out(self.store().plan_create(&name(text), Uuid::new_v4(), volumes));
        self.set(text)
    }

    /// A set with one volume `vda` that begins with `bytes`.
    #[track_caller]
    fn machine(&self, text: &str, bytes: &[u8]) -> Set {
        let set = self.create(text, &[new_volume("vda", SIZE)]);
        self.put(text, bytes);
        set
    }

    #[track_caller]
    fn clone(&self, source: &str, clones: &[&str], from: Option<&str>, kind: CloneKind) -> StoreChange {
        let clones: Vec<NewClone> = clones.iter().map(|text| new_clone(text)).collect();
        let from = from.map(tag);
        self.carry_out(self.store().plan_clone(&self.set(source), from.as_ref(), &clones, kind))
    }

    #[track_caller]
    fn linked(&self, source: &str, clone: &str) -> StoreChange {
        self.clone(source, &[clone], None, CloneKind::Linked)
    }

    #[track_caller]
    fn snapshot(&self, set: &str, text: &str) -> StoreChange {
        self.carry_out(self.store().plan_snapshot(&self.set(set), &tag(text), Consistency::Stopped))
    }

    #[track_caller]
    fn rollback(&self, set: &str, text: &str) -> StoreChange {
        self.carry_out(self.store().plan_rollback(&self.set(set), &tag(text)))
    }

    #[track_caller]
    fn drop_snapshot(&self, set: &str, text: &str) -> StoreChange {
        self.carry_out(self.store().plan_drop_snapshot(&self.set(set), &tag(text)))
    }

    #[track_caller]
    fn promote(&self, set: &str) -> StoreChange {
        self.carry_out(self.store().plan_promote(&self.set(set)))
    }

    #[track_caller]
    fn delete(&self, set: &str) {
        self.carry_out(self.store().plan_delete(&self.set(set)));
        let left = ok("set", self.store().set(&name(set)));
        assert!(left.is_none(), "'{set}' is not there after it was deleted");
    }

    /// Writes at the beginning of the set's first volume.
    #[track_caller]
    fn put(&self, set: &str, bytes: &[u8]) {
        self.write(&self.set(set).volumes[0], 0, bytes);
    }

    /// What the set's first volume begins with.
    #[track_caller]
    fn begins(&self, set: &str, bytes: &[u8]) {
        self.volume_begins(&self.set(set).volumes[0], bytes, set);
    }

    #[track_caller]
    fn volume_begins(&self, volume: &Volume, bytes: &[u8], whose: &str) {
        let (found, wanted) = (self.read(volume, 0, bytes.len()), bytes);
        let [found, wanted] = [&found, wanted].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        assert_eq!(found, wanted, "what {} of '{whose}' begins with", volume.name);
    }

    /// The disk of a machine that was made by other means, adopted but not recorded.
    #[track_caller]
    fn adopted(&self, text: &str, bytes: &[u8]) -> Set {
        let (path, format) = self.image(SIZE, bytes);
        let volume = Volume { name: "vda".to_string(), path, format, size: SIZE, adopted: false };
        ok("adopt", self.store().adopt(&name(text), Uuid::new_v4(), vec![volume]))
    }

    /// All that can be seen of the store.
    #[track_caller]
    fn picture(&self) -> Picture {
        let sets = ok("sets", self.store().sets());
        let mut contents = BTreeMap::new();
        for set in &sets {
            let snapshots = set.snapshots.iter().flat_map(|snapshot| &snapshot.volumes);
            for volume in set.volumes.iter().chain(snapshots) {
                let bytes = self.read(volume, 0, 16);
                contents.insert(volume.path.clone(), String::from_utf8_lossy(&bytes).into_owned());
            }
        }
        Picture { leftovers: self.leftovers(), sets, contents }
    }
}

#[derive(Debug, PartialEq)]
struct Picture {
    leftovers: Vec<String>,
    sets: Vec<Set>,
    contents: BTreeMap<PathBuf, String>,
}

impl Picture {
    /// The same, without what is new at every making: paths.
    fn contents_by_set(&self) -> Contents {
        let shown = |volume: &Volume| format!("{} {}", volume.name, self.contents[&volume.path]);
        let of = |set: &Set| {
            let snapshots = set.snapshots.iter().flat_map(|snapshot| &snapshot.volumes);
            (set.name.to_string(), set.volumes.iter().chain(snapshots).map(shown).collect())
        };
        self.sets.iter().map(of).collect()
    }
}

/// A change as another process reads it from the journal.
fn restarted(change: &StoreChange) -> StoreChange {
    let read = serde_json::to_string(change).and_then(|text| serde_json::from_str(&text));
    match read {
        Ok(change) => change,
        Err(error) => panic!("a change is kept in a journal: {error}"),
    }
}

/// A state file for each set that a change leaves.
fn state_files(change: &StoreChange) -> Vec<StateFile> {
    let file = |set: &Set| StateFile {
        set: set.name.clone(),
        path: PathBuf::from("snapshots/state-of-the-test/note"),
        content: StateContent::Bytes(b"note".to_vec()),
    };
    change.sets.iter().map(file).collect()
}

/// Prepares a bench and plans one kind of change.
type Kind = fn(&Case) -> Result<StoreChange>;

/// Every kind of change.
const KINDS: &[(&str, Kind)] = &[
    ("create", |case| {
        let image = Some(case.image(SIZE, b"image"));
        let volumes =
            [NewVolume { name: "vda".to_string(), size: None, image }, new_volume("vdb", ByteSize::mib(1))];
        case.store().plan_create(&name("new"), Uuid::new_v4(), &volumes)
    }),
    ("clone", |case| {
        case.machine("a", b"a");
        case.store().plan_clone(&case.set("a"), None, &[new_clone("b"), new_clone("c")], CloneKind::Linked)
    }),
    ("full clone", |case| {
        case.machine("a", b"a");
        case.store().plan_clone(&case.set("a"), None, &[new_clone("b")], CloneKind::Full)
    }),
    ("clone of a clone", |case| {
        case.machine("a", b"a");
        case.linked("a", "b");
        case.put("b", b"b");
        case.store().plan_clone(&case.set("b"), None, &[new_clone("c")], CloneKind::Linked)
    }),
    ("clone of a snapshot", |case| {
        case.machine("a", b"old");
        case.snapshot("a", "before");
        case.put("a", b"new");
        let clones = [new_clone("b")];
        case.store().plan_clone(&case.set("a"), Some(&tag("before")), &clones, CloneKind::Linked)
    }),
    ("clone of an adopted set", |case| {
        let set = case.adopted("a", b"adopted");
        case.store().plan_clone(&set, None, &[new_clone("b")], CloneKind::Linked)
    }),
    ("snapshot", |case| {
        case.machine("a", b"a");
        case.store().plan_snapshot(&case.set("a"), &tag("before"), Consistency::Frozen)
    }),
    ("snapshot of an adopted set", |case| {
        let set = case.adopted("a", b"adopted");
        case.store().plan_snapshot(&set, &tag("before"), Consistency::Stopped)
    }),
    ("rollback", |case| {
        with_snapshots(case);
        case.store().plan_rollback(&case.set("a"), &tag("one"))
    }),
    ("drop a snapshot", |case| {
        with_snapshots(case);
        case.store().plan_drop_snapshot(&case.set("a"), &tag("one"))
    }),
    ("promote", |case| {
        case.machine("a", b"a");
        case.linked("a", "b");
        case.put("b", b"b");
        case.store().plan_promote(&case.set("b"))
    }),
    ("delete", |case| {
        with_snapshots(case);
        case.linked("a", "b");
        case.store().plan_delete(&case.set("b"))
    }),
];

/// A machine `a` with the snapshots `one` and `two`, and something newer.
fn with_snapshots(case: &Case) {
    case.machine("a", b"1");
    case.snapshot("a", "one");
    case.put("a", b"2");
    case.snapshot("a", "two");
    case.put("a", b"3");
}

/// Runs `body` with a fresh bench and a planned change of every kind that is tried.
fn for_every_kind(make: Make, body: impl Fn(&str, &Case, &StoreChange)) {
    for (_, (kind, prepare)) in make().sample().kinds() {
        let case = Case::new(make);
        let change = ok(kind, prepare(&case));
        body(kind, &case, &change);
    }
}

/// A set has the volumes that were asked for, with their names and sizes.
pub fn a_new_set_has_the_volumes_that_were_asked_for(make: Make) {
    let case = Case::new(make);
    let machine = Uuid::new_v4();
    let volumes = [new_volume("vda", SIZE), new_volume("vdb", ByteSize::mib(1))];

    case.carry_out(case.store().plan_create(&name("new"), machine, &volumes));

    let set = case.set("new");
    let made: Vec<_> = set.volumes.iter().map(|volume| (volume.name.as_str(), volume.size)).collect();
    assert_eq!(made, [("vda", SIZE), ("vdb", ByteSize::mib(1))]);
    assert!(set.volumes.iter().all(|volume| !volume.adopted), "the store made them");
    assert_ne!(set.volumes[0].path, set.volumes[1].path);
    assert_eq!((set.name.as_str(), set.machine, set.store.as_str()), ("new", machine, case.store().name()));
    assert!(set.snapshots.is_empty() && set.origin.is_none());
    assert_eq!(ok("sets", case.store().sets()), [set]);
}

/// A new volume reads as zeros, and keeps what is written to its end.
pub fn a_new_volume_is_blank_and_keeps_what_is_written(make: Make) {
    let case = Case::new(make);
    case.create("new", &[new_volume("vda", SIZE)]);
    let volume = case.volume("new", "vda");
    assert_eq!(case.read(&volume, FAR, 8), [0; 8]);

    case.write(&volume, FAR, b"far");
    case.write(&volume, SIZE.bytes() - 512, &[7; 512]);

    assert_eq!(case.read(&volume, FAR, 4), b"far\0");
    assert_eq!(case.read(&volume, SIZE.bytes() - 512, 512), [7; 512]);
}

/// The image's contents, in a volume of its size or larger; the image itself stays as it is.
pub fn a_volume_made_from_an_image_starts_with_its_contents(make: Make) {
    let case = Case::new(make);
    let image = Some(case.image(ByteSize::mib(1), b"image"));
    let volume = |name: &str, size| NewVolume { name: name.to_string(), size, image: image.clone() };

    case.create("new", &[volume("vda", None), volume("vdb", Some(SIZE))]);

    assert_eq!(case.volume("new", "vda").size, ByteSize::mib(1));
    assert_eq!(case.volume("new", "vdb").size, SIZE);
    case.write(&case.volume("new", "vda"), 0, b"vda");
    case.write(&case.volume("new", "vdb"), FAR, b"far");
    assert_eq!(case.read(&case.volume("new", "vda"), 0, 6), b"vdage\0");
    assert_eq!(case.read(&case.volume("new", "vdb"), 0, 6), b"image\0");
    assert_eq!(case.read(&case.volume("new", "vdb"), 2 << 20, 4), [0; 4]);
    case.create("other", &[volume("vda", None)]);
    case.begins("other", b"image");
}

/// What the guest sees would be cut off.
pub fn a_volume_is_never_smaller_than_its_image(make: Make) {
    let case = Case::new(make);
    let image = Some(case.image(SIZE, b"image"));
    let volume = NewVolume { name: "vda".to_string(), size: Some(ByteSize::mib(1)), image };
    refused(case.store().plan_create(&name("new"), Uuid::new_v4(), &[volume]));
}

/// Nobody says how large it is.
pub fn a_volume_without_size_and_image_is_refused(make: Make) {
    let case = Case::new(make);
    let volume = NewVolume { name: "vda".to_string(), size: None, image: None };
    refused(case.store().plan_create(&name("new"), Uuid::new_v4(), &[volume]));
}

/// They would be one file.
pub fn two_volumes_of_one_name_are_refused(make: Make) {
    let case = Case::new(make);
    let volumes = [new_volume("vda", SIZE), new_volume("vda", SIZE)];
    refused(case.store().plan_create(&name("new"), Uuid::new_v4(), &volumes));
}

/// By creating, by cloning, and within one clone.
pub fn two_sets_of_one_name_are_refused(make: Make) {
    let case = Case::new(make);
    case.machine("a", b"a");
    let a = case.machine("b", b"b");
    let before = case.picture();

    refused(case.store().plan_create(&name("a"), Uuid::new_v4(), &[new_volume("vda", SIZE)]));
    for clones in [&["b"][..], &["a"], &["c", "c"]] {
        let clones: Vec<NewClone> = clones.iter().map(|text| new_clone(text)).collect();
        for kind in [CloneKind::Linked, CloneKind::Full] {
            refused(case.store().plan_clone(&a, None, &clones, kind));
        }
    }
    assert_eq!(case.picture(), before);
}

#[track_caller]
fn refused(plan: Result<StoreChange>) -> Error {
    match plan {
        Err(error) => error,
        Ok(change) => panic!("this should be refused, but it is planned: {:?}", change.steps),
    }
}

/// The sets are as before while a change is staged.
pub fn a_change_is_seen_when_it_is_committed_and_not_before(make: Make) {
    for_every_kind(make, |kind, case, change| {
        let before = ok("sets", case.store().sets());
        ok(kind, case.store().stage(change, &[]));
        assert_eq!(ok("sets", case.store().sets()), before, "{kind}");
        ok(kind, case.store().commit(change));
        assert_ne!(ok("sets", case.store().sets()), before, "{kind}");
        for set in &change.sets {
            assert_eq!(case.set(set.name.as_str()), *set, "{kind}");
        }
    });
}

/// Where a volume of a machine that exists moves, the change has a repoint for it, and no other repoints.
pub fn every_volume_that_moves_is_told(make: Make) {
    for_every_kind(make, |kind, case, change| {
        let before = ok("sets", case.store().sets());
        for set in &change.sets {
            // A set that is adopted by this very change is not in the store before.
            let Some(old) = before.iter().find(|old| old.machine == set.machine) else { continue };
            for (old, new) in old.volumes.iter().zip(&set.volumes) {
                let told = change.repoints.iter().any(|told| told.set == set.name && told.volume == *new);
                assert_eq!(told, old.path != new.path, "{kind}: {} of '{}' moves", new.name, set.name);
            }
        }
        for told in &change.repoints {
            let set = change.sets.iter().find(|set| set.name == told.set);
            assert!(set.is_some_and(|set| set.volumes.contains(&told.volume)), "{kind}: {told:?}");
        }
    });
}

/// A clone has the source's contents at the time, on all volumes, and then they go apart.
pub fn source_and_clone_do_not_see_each_others_writes(make: Make) {
    let case = Case::new(make);
    case.create("a", &[new_volume("vda", SIZE), new_volume("vdb", SIZE)]);
    for (volume, bytes) in [("vda", b"system"), ("vdb", b"--data")] {
        case.write(&case.volume("a", volume), 0, bytes);
        case.write(&case.volume("a", volume), FAR, bytes);
    }

    let change = case.linked("a", "b");
    let origin = case.set("b").origin;
    assert!(origin.is_some_and(|origin| origin.name == name("a") && origin.machine == case.set("a").machine));
    assert_eq!(change.sets.len(), 2, "the source is among the change's sets");
    case.write(&case.volume("a", "vda"), 0, b"SOURCE");
    case.write(&case.volume("b", "vda"), FAR, b"CLONED");
    case.write(&case.volume("b", "vdb"), 0, b"CLONED");

    let read =
        |set, volume, at| String::from_utf8_lossy(&case.read(&case.volume(set, volume), at, 6)).into_owned();
    let seen = |set| [read(set, "vda", 0), read(set, "vda", FAR), read(set, "vdb", 0), read(set, "vdb", FAR)];
    assert_eq!(seen("a"), ["SOURCE", "system", "--data", "--data"]);
    assert_eq!(seen("b"), ["system", "CLONED", "CLONED", "--data"]);
}

/// All from one moment, each on its own.
pub fn many_clones_are_made_at_once(make: Make) {
    let case = Case::new(make);
    case.machine("a", b"source");
    let clones = ["b", "c", "d"];

    case.clone("a", &clones, None, CloneKind::Linked);

    case.put("c", b"C");
    for (set, bytes) in [("a", b"source"), ("b", b"source"), ("c", b"Cource"), ("d", b"source")] {
        case.begins(set, bytes);
    }
    assert_eq!(ok("clones", case.store().clones(&case.set("a"))), clones.map(name));
}

/// Each clone has what the source held when it was made.
pub fn a_source_is_cloned_again_and_again(make: Make) {
    let case = Case::new(make);
    case.machine("a", b"0");
    for (number, clone) in ["one", "two", "three"].into_iter().enumerate() {
        case.put("a", number.to_string().as_bytes());
        case.linked("a", clone);
    }
    case.put("a", b"9");
    for (set, bytes) in [("a", b"9"), ("one", b"0"), ("two", b"1"), ("three", b"2")] {
        case.begins(set, bytes);
    }
}

/// Three generations keep apart.
pub fn a_clone_is_cloned(make: Make) {
    let case = Case::new(make);
    case.machine("a", b"aaaa");
    case.linked("a", "b");
    case.put("b", b"bb");
    case.linked("b", "c");

    case.put("a", b"A");
    case.put("b", b"B");
    case.put("c", b"C");

    for (set, bytes) in [("a", b"Aaaa"), ("b", b"Bbaa"), ("c", b"Cbaa")] {
        case.begins(set, bytes);
    }
    assert_eq!(case.set("c").origin.map(|origin| origin.name), Some(name("b")));
}

/// The source goes on undisturbed where it is.
pub fn a_clone_of_a_snapshot_has_its_contents_and_moves_nothing(make: Make) {
    for kind in [CloneKind::Linked, CloneKind::Full] {
        let case = Case::new(make);
        case.machine("a", b"old");
        case.snapshot("a", "before");
        case.put("a", b"new");
        let volumes = case.set("a").volumes;

        let change = case.clone("a", &["b"], Some("before"), kind);

        assert_eq!(change.repoints, []);
        assert_eq!(case.set("a").volumes, volumes);
        case.begins("b", b"old");
        case.put("b", b"own");
        case.begins("a", b"new");
        case.volume_begins(&case.snapshot_volume("a", "before"), b"old", "a");
        let origin = case.set("b").origin.and_then(|origin| origin.snapshot);
        assert_eq!(origin, (kind == CloneKind::Linked).then(|| tag("before")));
    }
}

/// Nothing is shared, and the source may go.
pub fn a_full_clone_stands_alone(make: Make) {
    let case = Case::new(make);
    let empty = case.leftovers();
    case.machine("a", b"source");

    let change = case.clone("a", &["b"], None, CloneKind::Full);

    assert_eq!(change.repoints, [], "the source stays where it is");
    assert_eq!(case.set("b").origin, None);
    assert_eq!(ok("clones", case.store().clones(&case.set("a"))), []);
    assert_eq!(ok("space", case.store().space(&case.set("b"))).shared, ByteSize::new(0));
    case.put("a", b"SOURCE");
    case.begins("b", b"source");
    case.delete("a");
    case.begins("b", b"source");
    case.delete("b");
    assert_eq!(case.leftovers(), empty);
}

/// Not the clones' clones.
pub fn only_direct_clones_are_listed(make: Make) {
    let case = Case::new(make);
    case.machine("a", b"a");
    case.clone("a", &["b", "c"], None, CloneKind::Linked);
    case.linked("b", "d");
    let clones = |set| ok("clones", case.store().clones(&case.set(set)));
    assert_eq!(clones("a"), ["b", "c"].map(name));
    assert_eq!(clones("b"), ["d"].map(name));
    assert_eq!(clones("d"), []);
}

/// The store takes it in with the first change.
pub fn a_set_made_by_other_means_is_adopted_and_cloned(make: Make) {
    let case = Case::new(make);
    let before = case.picture();
    let set = case.adopted("a", b"adopted");
    assert!(set.volumes.iter().all(|volume| volume.adopted), "it says that it did not make them");
    assert_eq!(ok("sets", case.store().sets()), [], "nothing is recorded yet");
    assert_eq!(case.leftovers().len(), before.leftovers.len() + 1, "only the disk itself is new");

    case.carry_out(case.store().plan_clone(&set, None, &[new_clone("b")], CloneKind::Linked));

    case.put("a", b"A");
    case.put("b", b"B");
    case.begins("a", b"Adopted");
    case.begins("b", b"Bdopted");
    assert_eq!(ok("clones", case.store().clones(&case.set("a"))), ["b"].map(name));
}

/// Neither when the machine is deleted, nor its clones, nor its snapshots.
pub fn adopted_files_are_never_removed(make: Make) {
    let case = Case::new(make);
    let set = case.adopted("a", b"adopted");
    let disk = set.volumes[0].clone();
    let before = case.leftovers();
    case.carry_out(case.store().plan_snapshot(&set, &tag("before"), Consistency::Stopped));
    case.linked("a", "b");
    case.rollback("a", "before");
    case.drop_snapshot("a", "before");
    case.promote("b");
    case.delete("a");
    case.begins("b", b"adopted");
    case.delete("b");
    assert_eq!(case.leftovers(), before);
    case.volume_begins(&disk, b"adopted", "a");
}

/// It is refused when it is adopted, before anything is planned.
pub fn a_disk_that_is_not_there_is_not_adopted(make: Make) {
    let case = Case::new(make);
    let (image, format) = case.image(SIZE, b"");
    let path = image.with_file_name("not-there");
    let volume = Volume { name: "vda".to_string(), path, format, size: SIZE, adopted: true };
    assert!(case.store().adopt(&name("a"), Uuid::new_v4(), vec![volume]).is_err());
}

/// A guest that runs has been made to follow the repoints, and writes there before the change is committed.
pub fn writes_between_stage_and_commit_are_kept(make: Make) {
    for_every_kind(make, |kind, case, change| {
        ok(kind, case.store().stage(change, &[]));
        for told in &change.repoints {
            case.write(&told.volume, FAR, b"live");
        }
        ok(kind, case.store().stage(change, &[]));
        ok(kind, case.store().commit(change));
        for told in &change.repoints {
            assert_eq!(case.read(&told.volume, FAR, 4), b"live", "{kind}");
        }
        let moved = |set: &Set| change.repoints.iter().any(|told| told.set == set.name);
        for set in change.sets.iter().filter(|set| !moved(set)) {
            assert_eq!(case.read(&set.volumes[0], FAR, 4), [0; 4], "{kind}: '{}' sees them", set.name);
        }
    });
}

/// Whatever is written later.
pub fn a_snapshot_keeps_what_was_there(make: Make) {
    let case = Case::new(make);
    with_snapshots(&case);
    let set = case.set("a");
    let tags: Vec<&str> = set.snapshots.iter().map(|snapshot| snapshot.tag.as_str()).collect();
    assert_eq!(tags, ["one", "two"], "oldest first");
    assert_eq!(set.snapshots[0].consistency, Consistency::Stopped);
    assert!(set.snapshots[0].created <= set.snapshots[1].created);
    case.volume_begins(&case.snapshot_volume("a", "one"), b"1", "a");
    case.volume_begins(&case.snapshot_volume("a", "two"), b"2", "a");
    case.begins("a", b"3");
}

/// Which the caller learns after planning.
pub fn a_snapshot_is_recorded_with_the_consistency_that_was_reached(make: Make) {
    let case = Case::new(make);
    case.machine("a", b"1");
    let planned = case.store().plan_snapshot(&case.set("a"), &tag("one"), Consistency::CrashConsistent);
    let mut change = ok("plan", planned);
    ok("stage", case.store().stage(&change, &[]));
    for snapshot in change.sets.iter_mut().flat_map(|set| &mut set.snapshots) {
        snapshot.consistency = Consistency::Frozen;
    }
    ok("commit", case.store().commit(&restarted(&change)));
    assert_eq!(case.set("a").snapshots[0].consistency, Consistency::Frozen);
}

/// And what was written since is gone.
pub fn a_rollback_brings_contents_back_and_drops_newer_snapshots(make: Make) {
    let case = Case::new(make);
    with_snapshots(&case);
    case.write(&case.volume("a", "vda"), FAR, b"since");

    case.rollback("a", "one");

    case.begins("a", b"1");
    assert_eq!(case.read(&case.volume("a", "vda"), FAR, 5), [0; 5]);
    let set = case.set("a");
    assert_eq!(set.snapshots.len(), 1, "the newer snapshot is gone, the one that was rolled back to stays");
    case.put("a", b"4");
    case.volume_begins(&case.snapshot_volume("a", "one"), b"1", "a");
}

/// A snapshot is not used up.
pub fn a_set_is_rolled_back_to_the_same_snapshot_twice(make: Make) {
    let case = Case::new(make);
    with_snapshots(&case);
    for written in [b"x", b"y"] {
        case.rollback("a", "two");
        case.begins("a", b"2");
        case.put("a", written);
    }
    case.rollback("a", "one");
    case.begins("a", b"1");
}

/// Of the machine, of its other snapshots, and of clones, wherever the dropped one stood.
pub fn dropping_a_snapshot_changes_no_contents(make: Make) {
    for order in [["one", "two"], ["two", "one"]] {
        let case = Case::new(make);
        with_snapshots(&case);
        case.write(&case.volume("a", "vda"), FAR, b"far");
        case.drop_snapshot("a", order[0]);
        let kept = case.snapshot_volume("a", order[1]);
        case.volume_begins(&kept, if order[1] == "one" { b"1" } else { b"2" }, "a");
        case.drop_snapshot("a", order[1]);
        case.begins("a", b"3");
        assert_eq!(case.read(&case.volume("a", "vda"), FAR, 3), b"far");
        assert_eq!(case.set("a").snapshots, []);
    }
}

/// Its folder `snapshots/TAG` in the state folder goes, when it is dropped and when a rollback passes it; other
/// state files stay.
pub fn a_dropped_snapshot_takes_its_state_files_along(make: Make) {
    let case = Case::new(make);
    case.machine("a", b"1");
    for text in ["one", "two", "three"] {
        let change = ok("plan", case.store().plan_snapshot(&case.set("a"), &tag(text), Consistency::Stopped));
        let path = Path::new("snapshots").join(text).join("domain.xml");
        let file = StateFile { set: name("a"), path, content: StateContent::Bytes(b"<domain/>".to_vec()) };
        ok("stage", case.store().stage(&change, &[file]));
        ok("commit", case.store().commit(&change));
    }
    let folder = case.set("a").state_dir.join("snapshots");
    let there = || ["one", "two", "three"].map(|text| folder.join(text).join("domain.xml").exists());
    assert_eq!(there(), [true; 3]);

    case.rollback("a", "two");
    assert_eq!(there(), [true, true, false]);
    case.drop_snapshot("a", "one");
    assert_eq!(there(), [false, true, false]);
    assert!(!folder.join("one").exists() && !folder.join("three").exists(), "the folders go too");
}

/// Twice the same tag, and tags that nobody gave, are errors.
pub fn snapshots_are_named_once_and_must_exist(make: Make) {
    let case = Case::new(make);
    with_snapshots(&case);
    let (set, store) = (case.set("a"), case.store());
    refused(store.plan_snapshot(&set, &tag("one"), Consistency::Stopped));
    let unknown = tag("never-taken");
    refused(store.plan_rollback(&set, &unknown));
    refused(store.plan_drop_snapshot(&set, &unknown));
    refused(store.plan_clone(&set, Some(&unknown), &[new_clone("b")], CloneKind::Linked));
}

/// It stands alone, and the origin's deletion changes nothing of it.
pub fn a_promoted_clone_outlives_its_origin(make: Make) {
    let case = Case::new(make);
    let empty = case.leftovers();
    case.machine("a", b"aaaa");
    case.linked("a", "b");
    case.put("b", b"b");
    case.linked("b", "c");

    case.promote("b");

    assert_eq!(case.set("b").origin, None);
    assert_eq!(ok("clones", case.store().clones(&case.set("a"))), []);
    case.begins("a", b"aaaa");
    case.delete("a");
    case.begins("b", b"baaa");
    case.begins("c", b"baaa");
    case.put("b", b"BB");
    case.begins("c", b"baaa");
    assert_eq!(ok("clones", case.store().clones(&case.set("b"))), ["c"].map(name), "its own clones stay");
    case.delete("c");
    case.delete("b");
    assert_eq!(case.leftovers(), empty);
}

/// They stand alone with it.
pub fn a_promoted_clone_keeps_its_snapshots(make: Make) {
    let case = Case::new(make);
    case.machine("a", b"aaaa");
    case.linked("a", "b");
    case.put("b", b"b1");
    case.snapshot("b", "one");
    case.put("b", b"b2");

    case.promote("b");
    case.delete("a");

    case.begins("b", b"b2aa");
    case.rollback("b", "one");
    case.begins("b", b"b1aa");
}

/// Where a store keeps shared bases, a source with clones is deleted, and what they stand on stays until the last
/// of them goes.
pub fn shared_bases_outlive_the_source(make: Make) {
    let case = Case::new(make);
    if !case.store().capabilities().shared_bases {
        return;
    }
    let empty = case.leftovers();
    case.machine("a", b"aaaa");
    case.snapshot("a", "one");
    case.clone("a", &["old"], Some("one"), CloneKind::Linked);
    case.put("a", b"A");
    case.clone("a", &["b", "c"], None, CloneKind::Linked);
    case.linked("b", "d");

    case.delete("a");
    for (set, bytes) in [("old", b"aaaa"), ("b", b"Aaaa"), ("c", b"Aaaa"), ("d", b"Aaaa")] {
        case.begins(set, bytes);
        case.put(set, b"x");
    }
    for (gone, left) in [("b", &["old", "c", "d"][..]), ("old", &["c", "d"]), ("d", &["c"]), ("c", &[])] {
        case.delete(gone);
        left.iter().for_each(|set| case.begins(set, b"xaaa"));
    }
    assert_eq!(case.leftovers(), empty);
}

/// And another clone too.
pub fn deleting_a_clone_leaves_the_source_as_it_is(make: Make) {
    let case = Case::new(make);
    case.machine("a", b"source");
    case.clone("a", &["b", "c"], None, CloneKind::Linked);
    case.put("c", b"C");
    let source = case.set("a");

    case.delete("b");

    assert_eq!(case.set("a"), source);
    case.begins("a", b"source");
    case.begins("c", b"Cource");
    assert_eq!(ok("clones", case.store().clones(&source)), ["c"].map(name));
}

/// With snapshots, clones, state files and all.
pub fn nothing_is_left_when_all_sets_are_deleted(make: Make) {
    let case = Case::new(make);
    let empty = case.leftovers();
    with_snapshots(&case);
    case.clone("a", &["b"], Some("one"), CloneKind::Linked);
    case.clone("a", &["c"], None, CloneKind::Linked);
    case.snapshot("c", "one");
    case.clone("c", &["d"], None, CloneKind::Full);
    let change = ok("plan", case.store().plan_snapshot(&case.set("a"), &tag("three"), Consistency::Stopped));
    ok("stage", case.store().stage(&change, &state_files(&change)));
    ok("commit", case.store().commit(&change));

    for set in ["d", "c", "b", "a"] {
        case.delete(set);
    }

    assert_eq!(case.leftovers(), empty);
    assert_eq!(ok("sets", case.store().sets()), []);
}

/// Bytes and copies, in folders that are made for them.
pub fn state_files_are_there_when_staged_and_gone_when_reverted(make: Make) {
    let case = Case::new(make);
    case.machine("a", b"a");
    let note = StateFile {
        set: name("a"),
        path: "snapshots/one/domain.xml".into(),
        content: StateContent::Bytes(b"<domain/>".to_vec()),
    };
    let change = ok("plan", case.store().plan_snapshot(&case.set("a"), &tag("one"), Consistency::Stopped));
    ok("stage", case.store().stage(&change, &[note]));
    ok("commit", case.store().commit(&change));
    let kept = case.set("a").state_dir.join("snapshots/one/domain.xml");
    let before = case.picture();

    let change = ok(
        "plan",
        case.store().plan_clone(&case.set("a"), None, &[new_clone("b"), new_clone("c")], CloneKind::Linked),
    );
    let file = |set, path: &str, content| StateFile { set: name(set), path: path.into(), content };
    let files = [
        file("b", "seed.iso", StateContent::Bytes(vec![0, 159, 146, 150])),
        file("c", "deep/er/copy.xml", StateContent::CopyOf(kept.clone())),
        file("a", "note", StateContent::Bytes(Vec::new())),
    ];
    let folder = |set| match change.sets.iter().find(|known| known.name == name(set)) {
        Some(set) => set.state_dir.clone(),
        None => panic!("the change has no set '{set}'"),
    };
    let read = |set, path: &str| std::fs::read(folder(set).join(path)).ok();
    for _ in 0..2 {
        ok("stage", case.store().stage(&change, &files));
        assert_eq!(read("b", "seed.iso"), Some(vec![0, 159, 146, 150]));
        assert_eq!(read("c", "deep/er/copy.xml"), Some(b"<domain/>".to_vec()));
        assert_eq!(read("a", "note"), Some(Vec::new()));
    }
    ok("revert", case.store().revert(&restarted(&change)));

    assert_eq!(case.picture(), before);
    assert_eq!(std::fs::read(&kept).ok(), Some(b"<domain/>".to_vec()), "older state files stay");
    ok("stage", case.store().stage(&change, &files));
    ok("commit", case.store().commit(&change));
    assert_eq!(read("b", "seed.iso"), Some(vec![0, 159, 146, 150]), "and they stay when it is committed");
}

/// Paths that lead out of it are refused, and nothing is written there.
pub fn state_files_stay_within_the_state_folder(make: Make) {
    for path in ["../escaped", "/escaped-from-a-kld-test", "a/../../escaped", ""] {
        let case = Case::new(make);
        let before = case.picture();
        let volumes = [new_volume("vda", SIZE)];
        let change = ok("plan", case.store().plan_create(&name("a"), Uuid::new_v4(), &volumes));
        let content = StateContent::Bytes(b"escaped".to_vec());
        let file = StateFile { set: name("a"), path: path.into(), content };
        assert!(case.store().stage(&change, &[file]).is_err(), "'{path}' leads out");
        ok("revert", case.store().revert(&change));
        assert_eq!(case.picture(), before, "'{path}'");
    }
}

/// Plans look and compute.
pub fn planning_changes_nothing(make: Make) {
    for (kind, plan) in KINDS {
        // What `plan` prepares is told apart from what it plans by planning twice.
        let case = Case::new(make);
        let first = ok(kind, plan(&case));
        let before = case.picture();
        let again = match *kind {
            "rollback" => case.store().plan_rollback(&case.set("a"), &tag("one")),
            "drop a snapshot" => case.store().plan_drop_snapshot(&case.set("a"), &tag("one")),
            "promote" => case.store().plan_promote(&case.set("b")),
            "delete" => case.store().plan_delete(&case.set("b")),
            "clone" | "full clone" => {
                case.store().plan_clone(&case.set("a"), None, &[new_clone("b")], CloneKind::Linked)
            }
            "snapshot" => case.store().plan_snapshot(&case.set("a"), &tag("before"), Consistency::Stopped),
            _ => continue,
        };
        ok(kind, again);
        assert_eq!(case.picture(), before, "{kind}");
        assert!(!first.steps.is_empty(), "{kind}: a plan says what it does");
        assert_eq!(first.store, case.store().name());
    }
}

/// Every kind of change, with state files; twice; by another process; and where nothing was staged yet.
pub fn what_was_staged_is_reverted_without_a_trace(make: Make) {
    for_every_kind(make, |kind, case, change| {
        let before = case.picture();
        ok(kind, case.store().revert(change));
        assert_eq!(case.picture(), before, "{kind}, never staged");

        ok(kind, case.store().stage(change, &state_files(change)));
        ok(kind, case.store().revert(&restarted(change)));
        assert_eq!(case.picture(), before, "{kind}");

        ok(kind, case.store().revert(change));
        assert_eq!(case.picture(), before, "{kind}, twice");

        ok(kind, case.store().stage(change, &[]));
        ok(kind, case.store().commit(change));
        assert_ne!(case.picture().sets, before.sets, "{kind}, after all");
    });
}

/// A state file whose source is missing fails the stage when all else is done.
pub fn a_stage_that_failed_is_reverted_without_a_trace(make: Make) {
    for_every_kind(make, |kind, case, change| {
        let Some(set) = change.sets.first() else { return };
        let before = case.picture();
        let mut files = state_files(change);
        files.push(StateFile {
            set: set.name.clone(),
            path: "copy".into(),
            content: StateContent::CopyOf(set.state_dir.join("there-is-no-such-file")),
        });
        assert!(case.store().stage(change, &files).is_err(), "{kind}");
        ok(kind, case.store().revert(&restarted(change)));
        assert_eq!(case.picture(), before, "{kind}");
    });
}

/// With the same outcome as once.
pub fn stage_commit_and_revert_may_be_run_twice(make: Make) {
    for_every_kind(make, |kind, case, change| {
        let before = case.picture();
        let files = state_files(change);
        for _ in 0..2 {
            ok(kind, case.store().stage(&restarted(change), &files));
        }
        for _ in 0..2 {
            ok(kind, case.store().revert(&restarted(change)));
        }
        assert_eq!(case.picture(), before, "{kind}, reverted");
        for _ in 0..2 {
            ok(kind, case.store().stage(&restarted(change), &files));
        }
        ok(kind, case.store().commit(&restarted(change)));
        let after = case.picture();
        ok(kind, case.store().commit(&restarted(change)));
        assert_eq!(case.picture(), after, "{kind}, committed");
    });
}

/// Runs `body` with the steps at which a change can be interrupted, until it says that there are no more.
fn for_every_step(make: Make, body: impl Fn(&str, &Case, &StoreChange, usize) -> bool) {
    let sample = make().sample();
    for (number, (kind, prepare)) in sample.kinds() {
        for step in sample.numbers(number) {
            let case = Case::new(make);
            let change = ok(kind, prepare(&case));
            if !body(kind, &case, &change, step) {
                break;
            }
        }
    }
}

/// What sets and snapshots hold, paths left out.
type Contents = Vec<(String, Vec<String>)>;

/// What each kind of change comes to when nothing disturbs it.
struct Undisturbed<'a> {
    make: Make<'a>,
    known: RefCell<BTreeMap<String, Contents>>,
}

impl<'a> Undisturbed<'a> {
    fn new(make: Make<'a>) -> Self {
        Undisturbed { make, known: RefCell::default() }
    }

    fn of(&self, kind: &str) -> Contents {
        let carry_out = || {
            let case = Case::new(self.make);
            for (_, prepare) in KINDS.iter().filter(|(known, _)| *known == kind) {
                case.carry_out(prepare(&case));
            }
            case.picture().contents_by_set()
        };
        self.known.borrow_mut().entry(kind.to_string()).or_insert_with(carry_out).clone()
    }
}

/// At whatever step it was interrupted.
pub fn an_interrupted_stage_is_undone_or_finished(make: Make) {
    let undisturbed = Undisturbed::new(make);
    for undo in [true, false] {
        for_every_step(make, |kind, case, change, step| {
            let (before, files) = (case.picture(), state_files(change));
            if !case.interrupt(step) {
                return false;
            }
            let interrupted = case.store().stage(change, &files).is_err();
            if undo {
                ok(kind, case.store().revert(&restarted(change)));
                assert_eq!(case.picture(), before, "{kind}, interrupted at {step}");
            } else {
                ok(kind, case.store().stage(&restarted(change), &files));
                ok(kind, case.store().commit(&restarted(change)));
                assert_eq!(case.picture().contents_by_set(), undisturbed.of(kind), "{kind} at {step}");
            }
            interrupted
        });
    }
}

/// At whatever step it was interrupted.
pub fn an_interrupted_commit_is_finished(make: Make) {
    let undisturbed = Undisturbed::new(make);
    for_every_step(make, |kind, case, change, step| {
        ok(kind, case.store().stage(change, &[]));
        if !case.interrupt(step) {
            return false;
        }
        let interrupted = case.store().commit(change).is_err();
        ok(kind, case.store().commit(&restarted(change)));
        let after = case.picture();
        assert_eq!(after.contents_by_set(), undisturbed.of(kind), "{kind}, interrupted at {step}");
        interrupted
    });
}

/// At whatever step it was interrupted.
pub fn an_interrupted_revert_is_finished(make: Make) {
    for_every_step(make, |kind, case, change, step| {
        let before = case.picture();
        ok(kind, case.store().stage(change, &state_files(change)));
        if !case.interrupt(step) {
            return false;
        }
        let interrupted = case.store().revert(change).is_err();
        ok(kind, case.store().revert(&restarted(change)));
        assert_eq!(case.picture(), before, "{kind}, interrupted at {step}");
        interrupted
    });
}

/// What was written since the last clone is used, what is below is shared, and what snapshots hold is theirs.
pub fn space_is_told_apart(make: Make) {
    let case = Case::new(make);
    const BLOCK: usize = 256 << 10;
    let block = |byte: u8| vec![byte; BLOCK];
    let space = |set| ok("space", case.store().space(&case.set(set)));
    case.create("a", &[new_volume("vda", SIZE)]);
    let blank = space("a");
    case.write(&case.volume("a", "vda"), 0, &block(1));
    let alone = space("a");
    assert!(alone.used > blank.used, "what is written is used: {alone:?}");
    assert_eq!(alone.shared, ByteSize::new(0));
    assert_eq!(alone.snapshots, ByteSize::new(0));

    case.linked("a", "b");
    let clone = space("b");
    assert!(clone.shared.bytes() >= BLOCK as u64, "a clone shares what its origin wrote: {clone:?}");
    assert!(clone.used < alone.used, "and takes little itself: {clone:?}");
    assert!(space("a").shared.bytes() >= BLOCK as u64, "so does the origin: {:?}", space("a"));
    case.write(&case.volume("b", "vda"), 0, &block(2));
    assert!(space("b").used > clone.used);

    case.snapshot("b", "one");
    case.write(&case.volume("b", "vda"), 0, &block(3));
    let with_snapshot = space("b");
    assert!(
        with_snapshot.snapshots.bytes() >= BLOCK as u64,
        "a snapshot holds what it kept: {with_snapshot:?}"
    );
    case.drop_snapshot("b", "one");
    assert_eq!(space("b").snapshots, ByteSize::new(0));

    case.promote("b");
    assert_eq!(space("b").shared, ByteSize::new(0), "who stands alone shares nothing");
    case.delete("a");
    assert!(space("b").used.bytes() >= BLOCK as u64);
}

/// The name in a change is not another store's.
pub fn a_change_of_another_store_is_refused(make: Make) {
    let case = Case::new(make);
    let volumes = [new_volume("vda", SIZE)];
    let mut change = ok("plan", case.store().plan_create(&name("a"), Uuid::new_v4(), &volumes));
    change.store = "some-other-store".to_string();
    let before = case.picture();
    assert!(case.store().stage(&change, &[]).is_err());
    assert!(case.store().commit(&change).is_err());
    assert!(case.store().revert(&change).is_err());
    assert_eq!(case.picture(), before);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_with_every_first_try_each_kind_and_each_step_once() {
        let of = 5;
        let mut kinds: Vec<usize> = (10..10 + of)
            .flat_map(|first| Sample { first, of }.kinds().map(|(number, _)| number).collect::<Vec<_>>())
            .collect();
        kinds.sort_unstable();
        assert_eq!(kinds, (0..KINDS.len()).collect::<Vec<_>>());
        let steps: Vec<usize> = Sample { first: 7, of }.numbers(4).take(3).collect();
        assert_eq!(steps, [1, 6, 11]);
        assert_eq!(Sample::ALL.kinds().count(), KINDS.len());
    }
}
