use super::stamp::STAMP;
use super::*;

/// What a test does to a thing in its folder.
type Damage = fn(&Path);

fn write(folder: &Path, text: &str) -> Result<()> {
    fsio::replace(&folder.join("data"), text.as_bytes(), 0o644)
}

#[test]
fn a_thing_is_made_once() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path().join("cache"));
    assert!(cache.ensure("thing", |folder| write(folder, "one")).unwrap().is_changed());
    let again = cache.ensure("thing", |_| panic!("it is there")).unwrap();
    assert!(!again.is_changed());
}

#[test]
fn a_thing_that_was_removed_cut_short_changed_or_added_to_is_made_again() {
    let damages: [(&str, Damage); 6] = [
        ("removed", |thing| std::fs::remove_dir_all(thing).unwrap()),
        ("emptied", |thing| std::fs::remove_file(thing.join("data")).unwrap()),
        ("cut short", |thing| std::fs::write(thing.join("data"), "who").unwrap()),
        ("a byte flipped", |thing| std::fs::write(thing.join("data"), "whale").unwrap()),
        ("added to", |thing| std::fs::write(thing.join("more"), "").unwrap()),
        ("made by a version that stamped otherwise", |thing| {
            std::fs::write(thing.join(STAMP), "00c0ffee00c0ffee 1").unwrap();
        }),
    ];
    for (what, damage) in damages {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path());
        let thing = cache.ensure("thing", |folder| write(folder, "whole")).unwrap().into_inner();
        tick();
        damage(&thing);
        assert_eq!(cache.find("thing"), None, "{what}");
        assert!(cache.ensure("thing", |folder| write(folder, "new")).unwrap().is_changed(), "{what}");
        assert_eq!(std::fs::read_to_string(thing.join("data")).unwrap(), "new", "{what}");
        assert!(!thing.join("more").exists(), "{what}");
    }
}

/// Until file systems give another time.
fn tick() {
    std::thread::sleep(Duration::from_millis(20));
}

/// As a disk does that loses a bit: size and times stay.
fn flip_unseen(thing: &Path) {
    std::fs::write(thing.join("data"), "whale").unwrap();
    let stamp = Stamp::read(thing).unwrap();
    Stamp { look: look(thing).unwrap(), ..stamp }.write(thing).unwrap();
}

#[test]
fn a_flipped_byte_that_does_not_show_is_found_by_the_check() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path());
    let thing = cache.ensure("thing", |folder| write(folder, "whole")).unwrap().into_inner();
    assert!(cache.check("thing").unwrap());
    flip_unseen(&thing);
    assert!(cache.find("thing").is_some(), "it does show");
    assert!(!cache.check("thing").unwrap());
    assert_eq!(cache.find("thing"), None);
    assert!(cache.ensure("thing", |folder| write(folder, "new")).unwrap().is_changed());
}

#[test]
fn a_copy_is_taken_for_what_it_holds_though_it_looks_different() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path());
    let thing = cache.ensure("thing", |folder| write(folder, "whole")).unwrap().into_inner();
    tick();
    std::fs::write(thing.join("data"), "whole").unwrap();
    let looks = |thing| Stamp::read(thing).unwrap().look;
    let before = looks(&thing);
    assert!(!cache.ensure("thing", |_| panic!("it is whole")).unwrap().is_changed());
    assert_ne!(looks(&thing), before, "every look reads all of it again");
}

/// Says that the thing of this name was last wanted so many days ago.
fn wanted(cache: &Cache, name: &str, days: u64) {
    let lock = File::options().write(true).open(cache.lock_file(name)).unwrap();
    lock.set_modified(SystemTime::now() - Duration::from_secs(days * 24 * 60 * 60)).unwrap();
}

#[test]
fn what_nobody_has_wanted_for_long_is_pruned_unless_somebody_is_at_it() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path());
    for name in ["new", "old", "used"] {
        cache.ensure(name, |folder| write(folder, name)).unwrap();
    }
    std::fs::create_dir(cache.place("foreign")).unwrap();
    let held = cache.lock("used").unwrap();
    ["old", "used"].into_iter().for_each(|name| wanted(&cache, name, 15));
    wanted(&cache, "new", 13);

    assert_eq!(cache.prune(UNUSED).unwrap(), ["old"]);
    assert_eq!(["new", "old", "used"].map(|name| cache.find(name).is_some()), [true, false, true]);
    assert!(cache.place("foreign").exists());
    drop(held);
    // Wanting it makes it new.
    cache.ensure("used", |_| panic!("it is there")).unwrap();
    assert_eq!(cache.prune(UNUSED).unwrap(), [""; 0]);
    assert!(cache.ensure("old", |folder| write(folder, "again")).unwrap().is_changed());
}

#[test]
fn who_waits_for_a_thing_that_is_removed_meanwhile_makes_it_alone() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path());
    cache.ensure("thing", |folder| write(folder, "whole")).unwrap();
    let made = std::sync::atomic::AtomicU32::new(0);
    for _ in 0..20 {
        made.store(0, std::sync::atomic::Ordering::SeqCst);
        std::thread::scope(|scope| {
            let lock = cache.lock("thing").unwrap();
            for _ in 0..3 {
                scope.spawn(|| {
                    let make = |folder: &Path| {
                        made.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        write(folder, "again")
                    };
                    cache.ensure("thing", make).unwrap()
                });
            }
            std::thread::sleep(Duration::from_millis(5));
            cache.clear("thing", lock).unwrap();
        });
        assert_eq!(made.load(std::sync::atomic::Ordering::SeqCst), 1);
    }
}

#[test]
fn what_a_killed_run_left_is_cleared_away() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path());
    let left = cache.place(".thing.kld-new");
    std::fs::create_dir_all(&left).unwrap();
    std::fs::write(left.join("half"), "half").unwrap();
    let thing = cache.ensure("thing", |folder| write(folder, "whole")).unwrap().into_inner();
    assert!(!thing.join("half").exists() && !left.exists());
}

#[test]
fn what_could_not_be_made_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path());
    let made = cache.ensure("thing", |folder| {
        write(folder, "half")?;
        Err(kld_core::Error::message("no more"))
    });
    assert_eq!(made.unwrap_err().to_string(), "no more");
    let left: Vec<_> =
        std::fs::read_dir(cache.place("")).unwrap().flatten().map(|it| it.file_name()).collect();
    assert_eq!(left, ["thing.lock"]);
}
