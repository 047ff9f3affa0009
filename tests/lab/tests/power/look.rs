//! What `look.sh` prints, made comparable from run to run: a line for each thing.

use std::collections::BTreeMap;

use kld_test_support::redact;

/// A line for each definition, dataset with its owner, disk's contents, file and line of a file; sorted.
pub fn lines(text: &str) -> Vec<String> {
    let sections = sections(text);
    let section = |name: &str| sections.get(name).map_or(&[][..], Vec::as_slice);
    let mut lines = Vec::new();
    let mut owners = BTreeMap::new();
    let definitions = section("definitions").join("\n");
    for definition in definitions.split("</domain>").filter(|part| !part.trim().is_empty()) {
        let part = |tag: &str| {
            let (_, rest) = definition.split_once(&format!("<{tag}>")).unwrap_or_default();
            rest.split('<').next().unwrap_or_default().to_string()
        };
        owners.insert(part("uuid"), part("name"));
        lines.extend(
            definition.trim().lines().map(|line| format!("domain {}: {}", part("name"), line.trim())),
        );
    }
    for dataset in section("datasets") {
        let words: Vec<&str> = dataset.split('\t').collect();
        let [name, kind, machine, origin, mounted] = words[..] else { panic!("{dataset}") };
        let owner = owners.get(machine).map_or(machine, String::as_str);
        lines.push(format!("dataset {name}, {kind} of {owner}, on {origin}, mounted {mounted}"));
    }
    for (name, lines_of) in [("contents", "contents"), ("files", "file"), ("texts", "in")] {
        lines.extend(section(name).iter().map(|line| format!("{lines_of} {line}")));
    }
    let mut lines: Vec<String> = lines.iter().map(|line| plain(&redact(line))).collect();
    lines.sort();
    lines
}

fn sections(text: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut sections: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut at = "";
    for line in text.lines() {
        match line.strip_prefix("== ") {
            Some(name) => at = name,
            None => sections.entry(at).or_default().push(line),
        }
    }
    sections
}

/// The names that kld gives hidden snapshots differ from run to run, and so do the sizes of records; ids are left out
/// already.
fn plain(line: &str) -> String {
    let words = line.split_inclusive([' ', ',', '/']).map(|word| match word.split_once("@kld-") {
        Some((dataset, rest)) => {
            let kind = rest.split('-').next().unwrap_or_default();
            format!("{}@kld-{kind}{}", dataset, &word[word.trim_end_matches([' ', ',', '/']).len()..])
        }
        None => word.to_string(),
    });
    let line: String = words.collect();
    match line.strip_prefix("file ") {
        Some(file) if !file.contains(".iso ") => {
            line[..line.len() - file.len()].to_string() + file.rsplit_once(' ').map_or(file, |(rest, _)| rest)
        }
        _ => line,
    }
}

#[test]
fn what_differs_from_run_to_run_is_left_out() {
    let text = "== definitions\n<domain>\n <name>web</name>\n <uuid>6b29fc40-ca47-1067-b31d-00dd010662da</uuid>\n</domain>\n\
        == datasets\ntank/kld/web\tfilesystem\t6b29fc40-ca47-1067-b31d-00dd010662da\t-\tyes\n\
        tank/kld/.bases/0123456789abcdef0123456789abcdef-1@kld-clone-12345678\tsnapshot\t-\t-\t-\n\
        == contents\nd41d8cd9  /dev/zvol/tank/kld/.bases/0123456789abcdef0123456789abcdef-1\n\
        == files\n/var/lib/kld/zfs/a 600 12\n/var/lib/kld/zfs/seed.iso 600 12\n";
    assert_eq!(
        lines(text),
        [
            "contents d41d8cd9  /dev/zvol/tank/kld/.bases/[id]-1",
            "dataset tank/kld/.bases/[id]-1@kld-clone, snapshot of -, on -, mounted -",
            "dataset tank/kld/web, filesystem of web, on -, mounted yes",
            "domain web: <domain>",
            "domain web: <name>web</name>",
            "domain web: <uuid>[uuid]</uuid>",
            "file /var/lib/kld/zfs/a 600",
            "file /var/lib/kld/zfs/seed.iso 600 12",
        ]
    );
}
