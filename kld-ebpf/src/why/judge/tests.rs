use proptest::prelude::*;

use super::super::evidence::{
    Arc, Connects, Disk, Drops, Kill, Reads, Reclaim, Retransmits, RunQueue, Throttled,
};
use super::*;

/// What was recorded on Debian's kernels by the tests of `tests/kernel/why.rs`, which make these faults.
const RECORDED: [(&str, Kind, &str); 5] = [
    (include_str!("../recorded/hog.json"), Kind::Cpu, "kld-hog"),
    (include_str!("../recorded/disk.json"), Kind::Disk, "nullb0"),
    (include_str!("../recorded/loss.json"), Kind::Loss, "127.0.0.1:"),
    (include_str!("../recorded/memory.json"), Kind::Memory, "/kld-memory-"),
    (include_str!("../recorded/held.json"), Kind::Throttle, "/kld-held-"),
];

fn recorded(text: &str) -> Evidence {
    serde_json::from_str(text).unwrap()
}

fn idle() -> Evidence {
    recorded(include_str!("../recorded/idle.json"))
}

#[test]
fn of_what_was_recorded_each_fault_comes_first_with_its_subject() {
    for (text, kind, subject) in RECORDED {
        let found = judge(&recorded(text));
        assert!(!found.is_empty(), "{kind:?}");
        assert_eq!(found[0].kind, kind, "{found:#?}");
        assert!(found[0].subject.starts_with(subject), "{found:#?}");
        assert!(!found[0].title.is_empty() && !found[0].evidence.is_empty());
    }
}

#[test]
fn an_idle_host_has_nothing_wrong() {
    assert_eq!(judge(&idle()), []);
    assert_eq!(judge(&Evidence::default()), [], "nor has one that was not looked at");
}

/// Both faults at once: what waited waits in both, and all else stands side by side.
fn mixed(one: Evidence, mut other: Evidence) -> Evidence {
    let mut all = one;
    let (queue, others) = (all.run_queue.as_mut().unwrap(), other.run_queue.take().unwrap());
    queue.waits += others.waits;
    queue.waited_s += others.waited_s;
    queue.by_group.extend(others.by_group);
    queue.waiters.extend(others.waiters);
    queue.runners.extend(others.runners);
    all.busy_s = (all.busy_s + other.busy_s).min(all.seconds * f64::from(all.cpus));
    let reads = all.reads.as_mut().unwrap();
    reads.kib += other.reads.unwrap().kib;
    reads.again_kib += other.reads.unwrap().again_kib;
    all.disks.as_mut().unwrap().extend(other.disks.unwrap());
    all.throttled.as_mut().unwrap().extend(other.throttled.unwrap());
    if other.retransmits.as_ref().unwrap().segments > 0 {
        all.retransmits = other.retransmits;
    }
    if other.reclaim.as_ref().unwrap().times > 0 {
        all.reclaim = other.reclaim;
    }
    all
}

#[test]
fn of_two_faults_at_once_both_come_before_all_else() {
    for (first, one, _) in RECORDED {
        for (second, other, _) in RECORDED.iter().filter(|(_, kind, _)| *kind != one) {
            let found = judge(&mixed(recorded(first), recorded(second)));
            let kinds: Vec<Kind> = found.iter().map(|finding| finding.kind).collect();
            assert!(kinds[..2].contains(&one) && kinds[..2].contains(other), "{one:?}, {other:?}: {kinds:?}");
        }
    }
}

#[test]
fn a_fault_in_what_else_is_idle_is_not_hidden_by_a_long_watch() {
    for (text, kind, _) in RECORDED.iter().filter(|(_, kind, _)| *kind != Kind::Memory) {
        let short = recorded(text);
        let long = Evidence { seconds: short.seconds * 4.0, ..short };
        assert_eq!(judge(&long).first().map(|finding| finding.kind), Some(*kind));
    }
}

#[test]
fn what_a_group_s_limit_explains_is_not_the_processors_fault() {
    let queue = |group: &str| RunQueue {
        waits: 30,
        waited_s: 8.0,
        by_group: [(group.to_string(), 8.0)].into(),
        ..RunQueue::default()
    };
    let held =
        Throttled { group: "/a".into(), periods: 100, used_up: 100, seconds: 8.0, quota_s: Some(0.02) };
    let of = |group: &str, held: &Throttled| {
        let (run_queue, throttled) = (Some(queue(group)), Some(vec![held.clone()]));
        let evidence =
            Evidence { seconds: 10.0, cpus: 2, busy_s: 12.0, run_queue, throttled, ..Evidence::default() };
        judge(&evidence).iter().map(|finding| finding.kind).collect::<Vec<_>>()
    };
    assert_eq!(of("/a", &held), [Kind::Throttle]);
    assert_eq!(of("/a/b", &held), [Kind::Throttle], "so are the groups below it");
    assert_eq!(of("/ab", &held), [Kind::Throttle, Kind::Cpu], "but no others");
    let hardly = Throttled { seconds: 0.1, used_up: 1, ..held };
    assert_eq!(of("/a", &hardly), [Kind::Cpu], "it was held for a moment only");
}

#[test]
fn a_disk_that_is_busy_but_answers_at_once_is_no_trouble_and_neither_are_rare_long_requests() {
    let disk = |awaited, awaited_s| {
        let disk = Disk { name: "sda".into(), requests: awaited, awaited, awaited_s, ..Disk::default() };
        judge(&Evidence { seconds: 10.0, disks: Some(vec![disk]), ..Evidence::default() }).len()
    };
    assert_eq!(disk(100_000, 10.0), 0, "0.1 ms each");
    assert_eq!(disk(2, 0.2), 0, "100 ms each, but two of them");
    assert_eq!(disk(200, 10.0), 1, "50 ms each, and somebody always waits");
}

#[test]
fn memory_that_is_short_is_to_blame_for_the_disk_that_it_makes_busy() {
    let disk = Disk { name: "sda".into(), awaited: 1000, awaited_s: 8.0, ..Disk::default() };
    let kinds = |again_kib, times| {
        let evidence = Evidence {
            seconds: 10.0,
            disks: Some(vec![disk.clone()]),
            reads: Some(Reads { kib: 1000, again_kib }),
            reclaim: Some(Reclaim { times, seconds: times as f64 / 1000.0, ..Reclaim::default() }),
            ..Evidence::default()
        };
        judge(&evidence).iter().map(|finding| finding.kind).collect::<Vec<_>>()
    };
    assert_eq!(kinds(950, 900), [Kind::Memory, Kind::Disk]);
    assert_eq!(kinds(20, 900), [Kind::Disk, Kind::Memory]);
    assert_eq!(kinds(20, 0), [Kind::Disk]);
}

#[test]
fn loss_is_told_by_the_part_of_the_segments_and_with_what_was_dropped_here() {
    let of = |segments, sent| {
        let retransmits = Some(Retransmits { segments, sent: Some(sent), stalled_s: 9.0, flows: vec![] });
        let drops = Some(Drops { packets: 7, reasons: [("NETFILTER_DROP".to_string(), 7)].into() });
        judge(&Evidence { seconds: 10.0, retransmits, drops, ..Evidence::default() })
    };
    let found = of(100, 900);
    assert!(found[0].score > 0.8 && found[0].title.contains("10.0 %"), "{found:?}");
    assert!(
        found[0].evidence.contains(&"7 packets of TCP were dropped on this host: NETFILTER_DROP 7".into())
    );
    assert_eq!(of(100, 1_000_000), [], "of very many some are always lost");
}

#[test]
fn connections_that_wait_are_told() {
    let of = |answered, waited_s| {
        let connects = Some(Connects { answered, waited_s, stalled_s: waited_s, ..Connects::default() });
        judge(&Evidence { seconds: 10.0, connects, ..Evidence::default() })
    };
    assert_eq!(of(9, 9.0)[0].title, "connections wait 1000 ms for their answer in the mean");
    assert_eq!(of(1000, 1.0), []);
}

#[test]
fn a_process_that_was_killed_comes_before_all_else() {
    let (text, kind, _) = RECORDED[0];
    let kill = Kill { pid: 7, comm: Some("db".into()), asked: "cron".into() };
    let found = judge(&Evidence { kills: Some(vec![kill]), ..recorded(text) });
    assert_eq!((found[0].kind, found[1].kind), (Kind::Kill, kind));
    assert_eq!(found[0].title, "db was killed for want of memory");
    assert_eq!(found[0].evidence, ["db (pid 7), since cron asked for memory"]);
}

#[test]
fn a_cache_of_zfs_s_that_was_cut_down_is_told_and_one_that_fills_is_not() {
    let of = |target| {
        let arc = Arc { hits: 5000, misses: 5000, size: 1 << 30, target, most: 8 << 30, held_up: 3 };
        judge(&Evidence { seconds: 10.0, arc: Some(arc), ..Evidence::default() })
    };
    let found = of(1 << 30);
    assert_eq!(found[0].title, "ZFS's cache was cut down, and misses 50 % of what is asked for");
    assert_eq!(found[0].evidence[1], "it has 1024 MiB, aims at 1024 MiB, and might have 8192 MiB");
    assert_eq!(of(8 << 30), []);
}

#[test]
fn the_kernel_s_own_figures_stand_in_for_a_probe_that_does_not_run() {
    let share = Share { some: 0.4, full: 0.1 };
    let pressure = Some(Pressure { io: share, ..Pressure::default() });
    let found = judge(&Evidence { pressure, disks: None, ..idle() });
    assert_eq!(
        (found[0].kind, found[0].title.as_str()),
        (Kind::Pressure, "somebody waits for a disk 40 % of the time")
    );
    assert_eq!(judge(&Evidence { pressure, ..idle() }), [], "with the probe they only corroborate");
}

#[test]
fn a_kind_s_name_is_the_one_that_programs_read() {
    let kinds = [Kind::Kill, Kind::Cpu, Kind::Throttle, Kind::Disk, Kind::Memory, Kind::Loss, Kind::Connect];
    for kind in kinds.into_iter().chain([Kind::Arc, Kind::Pressure]) {
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
    }
}

proptest! {
    #[test]
    fn scores_are_parts_of_one_and_ranked_whatever_was_seen(
        seconds in 0.0..100.0_f64, waited_s in 0.0..1e6_f64, busy_s in 0.0..1e3_f64, awaited in 0_u64..1_000_000,
        held in 0.0..1e3_f64, sent in 0_u64..1_000, segments in 0_u64..1_000, times in 0_u64..10, again in 0_u64..100,
    ) {
        let evidence = Evidence {
            seconds,
            busy_s,
            run_queue: Some(RunQueue { waited_s, ..RunQueue::default() }),
            disks: Some(vec![Disk { awaited, awaited_s: waited_s, ..Disk::default() }; 2]),
            throttled: Some(vec![Throttled { seconds: held, ..Throttled::default() }]),
            retransmits: Some(Retransmits { segments, sent: Some(sent), stalled_s: held, flows: vec![] }),
            reclaim: Some(Reclaim { times, seconds: busy_s, ..Reclaim::default() }),
            reads: Some(Reads { kib: 50, again_kib: again }),
            ..Evidence::default()
        };
        let found = judge(&evidence);
        prop_assert!(found.iter().all(|finding| (THRESHOLD..=1.0).contains(&finding.score)), "{found:?}");
        prop_assert!(found.is_sorted_by(|a, b| a.score >= b.score));
    }
}
