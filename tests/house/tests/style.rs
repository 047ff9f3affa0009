//! What no file of the repository may hold, and what every manifest must.

use std::path::{Path, PathBuf};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Words and marks that stand for something forgotten, or for one person's machine. They are written in two halves,
/// so that this file does not hold them itself.
const FORBIDDEN: [(&str, &str); 8] = [
    (concat!("/ho", "me/"), "a path of one person's machine"),
    (concat!("TO", "DO"), "work that was put off: file it instead"),
    (concat!("FIX", "ME"), "work that was put off: file it instead"),
    (concat!("#[ign", "ore]"), "a test that never runs: give the reason in it"),
    (concat!("<<<<", "<<< "), "the mark of a merge"),
    (concat!(">>>>", ">>> "), "the mark of a merge"),
    ("\u{2013}", "a dash that keyboards lack: write '-'"),
    ("\u{2014}", "a dash that keyboards lack: write '-'"),
];

/// What domain crates may not hold: they return data, and programs print it.
const PRINTING: [&str; 6] =
    ["println!", "eprintln!", "print!(", "io::stdout()", "io::stderr()", "process::exit"];

/// Every text file of the repository, by its path from the root.
fn files() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(ROOT)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            let (kind, name) = (entry.file_type().unwrap(), entry.file_name().into_string().unwrap());
            let ours = !name.starts_with('.') || matches!(name.as_str(), ".ci" | ".cargo" | ".gitignore");
            if kind.is_dir() && ours && name != "target" {
                folders.push(entry.path());
            } else if kind.is_file() && ours && name != "Cargo.lock" {
                let path = entry.path();
                let path = path.strip_prefix(ROOT).unwrap_or(Path::new("")).to_str().unwrap().to_string();
                found.extend(std::fs::read_to_string(entry.path()).ok().map(|text| (path, text)));
            }
        }
    }
    found.sort();
    found
}

/// One line for each thing in a file that should not be there.
fn complaints(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        let mut say = |what: &str| found.push(format!("{path}:{number}: {what}"));
        for (word, what) in FORBIDDEN {
            if line.contains(word) {
                say(what);
            }
        }
        if line.ends_with([' ', '\t', '\r']) {
            say("space at the end of the line");
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        found.push(format!("{path}: no newline at the end of the file"));
    }
    found
}

/// One line for each place where a domain crate's source prints; what its tests print is theirs.
fn prints(path: &str, text: &str) -> Vec<String> {
    let domain = path.starts_with("kld-") && !path.starts_with("kld-core/") && path.contains("/src/");
    if !domain || path.ends_with("/tests.rs") {
        return Vec::new();
    }
    let printing =
        |line: &str| PRINTING.iter().any(|word| line.contains(word)) && !line.trim_start().starts_with("//");
    let lines = text.lines().zip(1..=before_tests(text)).filter(|(line, _)| printing(line));
    lines.map(|(line, number)| format!("{path}:{number}: a domain crate prints: {}", line.trim())).collect()
}

/// How many lines stand before a file's module of tests.
fn before_tests(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let starts_tests = |at: usize| {
        let item = lines[at..].iter().find(|line| !line.starts_with("#["));
        lines[at] == "#[cfg(test)]" && item.is_some_and(|line| line.starts_with("mod "))
    };
    (0..lines.len()).find(|at| starts_tests(*at)).unwrap_or(lines.len())
}

#[test]
fn no_file_holds_what_should_not_be_there() {
    let files = files();
    assert!(files.iter().any(|(path, _)| path == "kld-core/src/lib.rs"), "the files are found");
    let found: Vec<String> = files.iter().flat_map(|(path, text)| complaints(path, text)).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn no_domain_crate_prints() {
    let found: Vec<String> = files().iter().flat_map(|(path, text)| prints(path, text)).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_member_takes_the_workspace_s_lints() {
    let files = files();
    let manifests = files.iter().filter(|(path, _)| path.ends_with("/Cargo.toml"));
    let without: Vec<&str> = manifests
        .filter(|(_, text)| !text.contains("[lints]\nworkspace = true\n"))
        .map(|(path, _)| path.as_str())
        .collect();
    assert!(without.is_empty(), "{without:?}");
}

#[test]
fn what_should_not_be_there_is_named_with_its_line() {
    let bad = FORBIDDEN.map(|(word, _)| word).join("\n") + "\ngood\nspace \ncut";
    insta::assert_snapshot!(complaints("a.rs", &bad).join("\n"), @"
    a.rs:1: a path of one person's machine
    a.rs:2: work that was put off: file it instead
    a.rs:3: work that was put off: file it instead
    a.rs:4: a test that never runs: give the reason in it
    a.rs:5: the mark of a merge
    a.rs:5: space at the end of the line
    a.rs:6: the mark of a merge
    a.rs:6: space at the end of the line
    a.rs:7: a dash that keyboards lack: write '-'
    a.rs:8: a dash that keyboards lack: write '-'
    a.rs:10: space at the end of the line
    a.rs: no newline at the end of the file
    ");
    let source = "// println! is not for us\nlet out = std::io::stdout();\n#[cfg(test)]\n#[allow(a)]\nmod tests {\nprintln!(\"\");\n}\n";
    insta::assert_snapshot!(prints("kld-zfs/src/lib.rs", source).join("\n"), @"kld-zfs/src/lib.rs:2: a domain crate prints: let out = std::io::stdout();");
    assert!(
        prints("kld-core/src/ui.rs", source).is_empty() && prints("kld-zfs/tests/a.rs", source).is_empty()
    );
}
