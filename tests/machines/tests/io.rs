//! I/O of machines on ZFS volumes, joined to the machine, and beside what fio measures of the same.
#![allow(
    clippy::print_stderr,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "these are tests"
)]

use kld_machine_tests::{Begins, Lab};
use serde_json::Value;

/// What fio is told: writes of 4 KiB past all caches, one after the other.
const FIO: [&str; 9] = [
    "--name=io",
    "--direct=1",
    "--ioengine=psync",
    "--rw=randwrite",
    "--bs=4k",
    "--size=1M",
    "--output-format=json",
    "--allow_file_create=0",
    "--norandommap",
];

/// A lab with the machines web-5 and web-6. What is written to web-5's disk is on the pool's when it ends.
fn lab() -> Option<Lab> {
    let lab = Lab::get()?;
    lab.template();
    lab.clones(&["web-5".to_string(), "web-6".to_string()]);
    lab.ok("zfs", &["set", "sync=always", &volume(&lab)]);
    Some(lab)
}

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
fn biolatency_by_machine_names_the_machine_and_agrees_with_fio() {
    let Some(lab) = lab() else { return };
    let uuid = lab.ok("virsh", &["domuuid", "web-5"]);
    let mut told = Value::Null;
    let args = ["--by", "machine", "-c", "fio", "--json"];
    let text = lab.watch("biolatency", &args, Begins::WithNote, || told = fio(&lab, "--io_size=8M"));
    let found = of(&last(&text)["distributions"], "web-5");
    let [row] = &found[..] else { panic!("one row of the machine: {text}") };
    assert_eq!(
        (&row["uuid"], &row["dataset"]),
        (&uuid.trim().into(), &format!("{}/web-5", lab.root()).into())
    );
    assert_eq!(row["count"], told["total_ios"]);

    // fio's clock stands around the system call, so that it sees a little more; the tool's quantiles are at most an
    // eighth too great.
    let clat = &told["clat_ns"];
    let mean = (number(&row["mean"]), number(&clat["mean"]) / 1e3);
    eprintln!("mean: {:.0} us, and fio says {:.0} us ({:+.1} %)", mean.0, mean.1, off(mean));
    assert!(off(mean).abs() < 10.0, "{mean:?}");
    for (name, percentile) in [("p50", "50.000000"), ("p90", "90.000000"), ("p99", "99.000000")] {
        let pair = (number(&row[name]), number(&clat["percentile"][percentile]) / 1e3);
        eprintln!("{name}: {:.0} us, and fio says {:.0} us ({:+.1} %)", pair.0, pair.1, off(pair));
        assert!(off(pair) > -10.0 && off(pair) < 10.0 + 12.5, "{name}: {pair:?}");
    }
}

/// By how much the first differs from the second, in per cent.
fn off((told, fio): (f64, f64)) -> f64 {
    (told - fio) / fio * 100.0
}

#[test]
fn volumes_are_told_with_their_machine_and_what_they_are_clones_of() {
    let Some(lab) = lab() else { return };
    let writes = || drop(fio(&lab, "--io_size=200k"));
    let (volume, template) = (volume(&lab), format!("{}/template/vda@kld-clone-", lab.root()));

    let text = lab.watch("biotop", &["--by", "zvol", "--json", "1"], Begins::WithOutput, writes);
    let intervals = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let rows: Vec<Value> = intervals.flat_map(|interval| of(&interval["places"], "web-5")).collect();
    let written = rows.iter().filter(|row| row["direction"] == "W");
    assert_eq!(written.map(|row| row["bytes"].as_u64().unwrap()).sum::<u64>(), 50 * 4096, "{text}");
    for row in rows {
        assert_eq!(row["dataset"], volume.as_str());
        assert!(row["origin"].as_str().unwrap().starts_with(&template), "{row}");
        assert!(row["disk"].as_str().unwrap().starts_with("zd"), "{row}");
    }

    let text = lab.watch("biosnoop", &["-Z", "-c", "fio"], Begins::WithOutput, writes);
    let lines = text.lines().filter(|line| line.contains(" W ") && line.contains(" web-5 "));
    assert_eq!(lines.filter(|line| line.ends_with(&format!(" {volume}"))).count(), 50, "{text}");
    assert!(text.lines().next().unwrap().ends_with(" LAT(ms) MACHINE          DATASET"), "{text}");
}

#[test]
fn what_a_guest_reads_is_told_of_its_machine() {
    let Some(lab) = lab() else { return };
    lab.ok("kvm-start", &["web-5"]);
    lab.sees_its_own_disk("web-5");
    // It reads its disk for each key.
    let reads = || (0..3).for_each(|_| lab.sees_its_own_disk("web-5"));
    let text = lab.watch("biolatency", &["--by", "machine", "--json"], Begins::WithNote, reads);
    let list = &last(&text)["distributions"];
    let found = of(list, "web-5");
    let [row] = &found[..] else { panic!("one row of the machine: {text}") };
    assert!(number(&row["count"]) >= 3.0, "{row}");
    assert!(of(list, "web-6").is_empty(), "{text}");
}
