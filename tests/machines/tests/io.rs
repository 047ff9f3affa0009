//! I/O of machines on ZFS volumes, joined to the machine, and beside what fio measures of the same.
#![allow(
    clippy::print_stderr,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "these are tests"
)]

use kld_machine_tests::{Begins, Lab};
use serde_json::Value;

/// What fio is told: writes past all caches, one after the other.
const FIO: [&str; 8] = [
    "--name=io",
    "--direct=1",
    "--ioengine=psync",
    "--rw=randwrite",
    "--bs=16k",
    "--size=8M",
    "--norandommap",
    "--output-format=json",
];

const UUID: &str = "5e1f0e5d-6f0b-4c0c-9a53-0d7a5f1f5a05";

fn volume(lab: &Lab) -> String {
    format!("{}/web-5/vda", lab.root())
}

/// What fio says of its writes to the disk of web-5, of so much.
fn fio(lab: &Lab, much: &str) -> Value {
    let filename = format!("--filename={}", lab.link("web-5").display());
    let said = lab.ok("fio", &[&FIO[..], &[&filename, much]].concat());
    let json = &said[said.find('{').unwrap()..];
    serde_json::from_str::<Value>(json).unwrap()["jobs"][0]["write"].take()
}

/// The JSON of a tool's last interval.
fn last(text: &str) -> Value {
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

/// Those rows of a list that are of a machine.
fn of(list: &Value, machine: &str) -> Vec<Value> {
    list.as_array().unwrap().iter().filter(|row| row["machine"] == machine).cloned().collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn io_to_a_machine_s_volume_is_told_of_it_and_agrees_with_fio() {
    // What a call takes before and after the volume has it is no small part of a short one where instructions are
    // translated.
    let Some(lab) = Lab::on_a_slow_disk() else { return };
    lab.datasets("web-5", UUID);
    // What is written is on the pool's disk when it ends.
    lab.ok("zfs", &["set", "sync=always", &volume(&lab)]);
    agrees_with_fio(&lab);
    is_told_with_its_lineage(&lab);
}

fn agrees_with_fio(lab: &Lab) {
    let mut told = Value::Null;
    let args = ["--by", "machine", "-c", "fio", "--json"];
    let text = lab.watch("biolatency", &args, Begins::WithNote, || told = fio(lab, "--io_size=6400k"));
    let found = of(&last(&text)["distributions"], "web-5");
    let [row] = &found[..] else { panic!("one row of the machine: {text}") };
    assert_eq!((&row["uuid"], &row["dataset"]), (&UUID.into(), &format!("{}/web-5", lab.root()).into()));
    assert_eq!(row["count"], told["total_ios"]);

    // fio's clock stands around the system call, so that it sees a little more; the tool's quantiles are at most an
    // eighth too great. Beyond them are a few writes during which the host had other things to do than to run the lab.
    let clat = &told["clat_ns"];
    let mean = (number(&row["mean"]), number(&clat["mean"]) / 1e3);
    eprintln!("mean: {:.0} us, and fio says {:.0} us ({:+.1} %)", mean.0, mean.1, off(mean));
    assert!(off(mean).abs() < 10.0, "{mean:?}");
    for (name, percentile) in [("p50", "50.000000"), ("p90", "90.000000")] {
        let pair = (number(&row[name]), number(&clat["percentile"][percentile]) / 1e3);
        eprintln!("{name}: {:.0} us, and fio says {:.0} us ({:+.1} %)", pair.0, pair.1, off(pair));
        assert!(off(pair) > -10.0 && off(pair) < 10.0 + 12.5, "{name}: {pair:?}");
    }
}

/// By how much the first differs from the second, in per cent.
fn off((told, fio): (f64, f64)) -> f64 {
    (told - fio) / fio * 100.0
}

fn is_told_with_its_lineage(lab: &Lab) {
    let writes = || drop(fio(lab, "--io_size=800k"));
    let (volume, origin) = (volume(lab), format!("{}/template/vda@kld-clone-1", lab.root()));

    let text = lab.watch("biotop", &["--by", "zvol", "--json", "1"], Begins::WithOutput, writes);
    let intervals = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let rows: Vec<Value> = intervals.flat_map(|interval| of(&interval["places"], "web-5")).collect();
    let written = rows.iter().filter(|row| row["direction"] == "W");
    assert_eq!(written.map(|row| row["bytes"].as_u64().unwrap()).sum::<u64>(), 50 * 16384, "{text}");
    for row in rows {
        assert_eq!(row["dataset"], volume.as_str());
        assert_eq!((&row["origin"], &row["uuid"]), (&origin.as_str().into(), &UUID.into()));
        assert!(row["disk"].as_str().unwrap().starts_with("zd"), "{row}");
    }

    let text = lab.watch("biosnoop", &["-Z", "-c", "fio"], Begins::WithOutput, writes);
    let lines = text.lines().filter(|line| line.contains(" W ") && line.contains(" web-5 "));
    assert_eq!(lines.filter(|line| line.ends_with(&format!(" {volume}"))).count(), 50, "{text}");
    assert!(text.lines().next().unwrap().ends_with(" LAT(ms) MACHINE          DATASET"), "{text}");
}

#[test]
fn what_a_guest_reads_is_told_of_its_machine() {
    let Some(lab) = Lab::get() else { return };
    lab.template();
    lab.clones(&["web-5".to_string(), "web-6".to_string()]);
    // What QEMU has read once stays in the host's memory, so that its start is looked at.
    let starts = || {
        lab.ok("kvm-start", &["web-5"]);
        lab.sees_its_own_disk("web-5");
    };
    let text = lab.watch("biosnoop", &["-Z"], Begins::WithOutput, starts);
    let qemu = lab.ok("cat", &["/run/libvirt/qemu/web-5.pid"]);
    let is_qemu = |line: &&str| line.split_whitespace().any(|word| word == qemu.trim());
    let end = format!(" web-5            {}", volume(&lab));
    let reads = text.lines().filter(is_qemu).filter(|line| line.contains(" R ") && line.ends_with(&end));
    assert!(reads.count() > 0, "{text}");
    assert!(!text.lines().filter(is_qemu).any(|line| line.contains(" web-6 ")), "{text}");
}
