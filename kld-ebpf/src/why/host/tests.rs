use proptest::prelude::*;

use super::*;

#[test]
fn processors_have_worked_when_they_were_neither_idle_nor_stolen() {
    let stat = "cpu  100 20 30 5000 60 7 8 9 10 0\ncpu0 50 10 15 2500 30 3 4 5 5 0\n\
                cpu1 50 10 15 2500 30 4 4 4 5 0\nintr 1 2\n";
    assert_eq!(processors(stat), (2, 100 + 20 + 30 + 7 + 8));
    assert_eq!(processors(""), (0, 0));
}

#[test]
fn pressure_is_what_was_added_to_the_totals() {
    let file = "some avg10=0.05 avg60=5.40 avg300=6.64 total=19832351100\n\
                full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
    assert_eq!(stalled(file), Some(Stalled { some: 19_832_351_100, full: 7 }));
    // Before 5.13 the processors' file has no second line.
    assert_eq!(stalled("some avg10=0.00 total=5\n"), Some(Stalled { some: 5, full: 0 }));
    assert_eq!(stalled(""), None);
    let at = |some| Host { pressure: Some([Stalled { some, full: 0 }; 3]), ..Host::default() };
    let told = at(2_500_000).pressure_since(&at(500_000), 4.0).unwrap();
    assert_eq!((told.cpu.some, told.io.some, told.memory.full), (0.5, 0.5, 0.0));
}

#[test]
fn both_versions_of_control_groups_tell_how_long_they_were_throttled() {
    let second = "usage_usec 9\nuser_usec 5\nsystem_usec 4\nnr_periods 100\nnr_throttled 40\n\
                  throttled_usec 2500000\n";
    let first = "nr_periods 100\nnr_throttled 40\nthrottled_time 2500000000\n";
    for stat in [second, first] {
        let wanted = Bandwidth { periods: 100, used_up: 40, throttled_s: 2.5, quota_s: None };
        assert_eq!(Bandwidth::parse(stat), Some(wanted));
    }
    assert_eq!(Bandwidth::parse("usage_usec 9\n"), None, "the root has no limit");
    assert_eq!([quota("20000 100000\n"), quota("20000\n")], [Some(0.02); 2]);
    assert_eq!([quota("max 100000\n"), quota("-1\n"), quota("")], [None; 3]);
}

#[test]
fn only_groups_that_have_used_their_share_up_meanwhile_are_told() {
    let at = |used_up, seconds| {
        let one = Bandwidth { periods: 10 + used_up, used_up, throttled_s: seconds, quota_s: Some(0.02) };
        let idle = Bandwidth { periods: 3, used_up: 3, throttled_s: 1.0, quota_s: None };
        let groups = [("/slow", one), ("/was-slow", idle)].map(|(path, group)| (path.into(), group));
        Host { groups: Some(groups.into()), ..Host::default() }
    };
    let told = at(30, 3.5).throttled_since(&at(20, 1.5)).unwrap();
    let slow =
        Throttled { group: "/slow".into(), periods: 10, used_up: 10, seconds: 2.0, quota_s: Some(0.02) };
    assert_eq!(told, [slow]);
}

#[test]
fn the_hierarchy_of_the_processors_is_found_in_either_version() {
    let mounts = "31 30 0:27 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
                  32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                  33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    assert_eq!(first_version(mounts, "cpu"), Some(PathBuf::from("/sys/fs/cgroup/cpu,cpuacct")));
    assert_eq!(first_version("33 30 0:29 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "cpu"), None);
    let groups = "3:cpuset:/a\n2:cpu,cpuacct:/b:c\n0::/d\n";
    assert_eq!(group_in(groups, Some("cpu")).as_deref(), Some("/b:c"));
    assert_eq!(group_in(groups, None).as_deref(), Some("/d"));
}

#[test]
fn segments_are_counted_below_their_heading() {
    let snmp = "Ip: Forwarding DefaultTTL\nIp: 1 64\nTcp: RtoMin MaxConn InSegs OutSegs RetransSegs\n\
                Tcp: 200 -1 31 45 6\nUdp: InDatagrams\nUdp: 9\n";
    assert_eq!((tcp_counter(snmp, "OutSegs"), tcp_counter(snmp, "MaxConn")), (Some(45), None));
    assert_eq!(tcp_counter("", "OutSegs"), None);
}

#[test]
fn what_is_read_again_is_told_of_what_is_read() {
    let newer = "pgpgin 1000\npgpgout 5\nworkingset_refault_anon 7\nworkingset_refault_file 200\n";
    assert_eq!(reads(newer, 4), Some((1000, 800)));
    assert_eq!(reads("pgpgin 1000\nworkingset_refault 200\n", 4), Some((1000, 800)));
    assert_eq!(reads("pgpgin 1000\n", 4), None);
    let at = |kib, again| Host { reads: Some((kib, again)), ..Host::default() };
    let told = at(1000, 800).reads_since(&at(600, 500)).unwrap();
    assert_eq!((told.kib, told.again_kib, told.again()), (400, 300, 0.75));
}

/// The beginning, and the rows that are read, of what OpenZFS 2.3 writes.
const ARCSTATS: &str = "9 1 0x01 147 39984 3420846041 1267041187610\n\
    name                            type data\n\
    hits                            4    {hits}\n\
    iohits                          4    12\n\
    misses                          4    {misses}\n\
    c                               4    268435456\n\
    c_max                           4    8589934592\n\
    size                            4    268000000\n\
    memory_throttle_count           4    {held}\n\
    memory_all_bytes                4    16801259520\n\
    memory_available_bytes          3    -5242880\n";

#[test]
fn what_zfs_s_cache_did_is_told_by_its_counters() {
    let at = |hits: u64, misses: u64, held: u64| {
        let text = ARCSTATS.replace("{hits}", &hits.to_string()).replace("{misses}", &misses.to_string());
        Host { arc: Some(kstat(&text.replace("{held}", &held.to_string()))), ..Host::default() }
    };
    let told = at(1500, 800, 3).arc_since(&at(1000, 500, 3)).unwrap();
    let wanted =
        Arc { hits: 500, misses: 300, size: 268_000_000, target: 256 << 20, most: 8 << 30, held_up: 0 };
    assert_eq!(told, wanted);
    assert_eq!(Host::default().arc_since(&at(0, 0, 0)), None);
}

proptest! {
    #[test]
    fn no_text_makes_a_parser_panic(text in "[ -~\n:=,/]{0,300}") {
        processors(&text);
        stalled(&text);
        reads(&text, 4);
        Bandwidth::parse(&text);
        quota(&text);
        first_version(&text, "cpu");
        group_in(&text, Some("cpu"));
        tcp_counter(&text, "OutSegs");
        kstat(&text);
    }
}
