//! Every dependency's licence is one that deny.toml allows: the part of `cargo deny check` that needs no further
//! program.

mod metadata;

use std::collections::BTreeMap;
use std::path::Path;

/// What deny.toml allows: to all, and to single crates.
struct Allowed {
    all: Vec<String>,
    exceptions: BTreeMap<String, Vec<String>>,
}

impl Allowed {
    fn read() -> Allowed {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deny.toml");
        let text = std::fs::read_to_string(path).unwrap();
        let table: toml::Table = text.parse().unwrap();
        let strings = |value: &toml::Value| -> Vec<String> {
            value.as_array().unwrap().iter().map(|one| one.as_str().unwrap().to_string()).collect()
        };
        let licences = table["licenses"].as_table().unwrap();
        let exceptions = licences["exceptions"].as_array().unwrap().iter();
        let exceptions =
            exceptions.map(|one| (one["crate"].as_str().unwrap().to_string(), strings(&one["allow"])));
        Allowed { all: strings(&licences["allow"]), exceptions: exceptions.collect() }
    }

    fn allows(&self, package: &str, expression: &str) -> bool {
        let own = self.exceptions.get(package);
        let known = |id: &str| self.all.iter().chain(own.into_iter().flatten()).any(|one| one == id);
        // "MIT/Apache-2.0" is how it was written before SPDX expressions.
        let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
        let words: Vec<&str> = spaced.split_whitespace().collect();
        let mut rest = words.as_slice();
        either(&mut rest, &known) && rest.is_empty()
    }
}

/// `a OR b`, of an SPDX expression in words; what was read is taken off.
fn either(words: &mut &[&str], known: &dyn Fn(&str) -> bool) -> bool {
    let mut fine = both(words, known);
    while let ["OR", rest @ ..] = words {
        *words = rest;
        fine |= both(words, known);
    }
    fine
}

/// `a AND b`.
fn both(words: &mut &[&str], known: &dyn Fn(&str) -> bool) -> bool {
    let mut fine = one(words, known);
    while let ["AND", rest @ ..] = words {
        *words = rest;
        fine &= one(words, known);
    }
    fine
}

/// A licence, one with an exception, or something in parentheses.
fn one(words: &mut &[&str], known: &dyn Fn(&str) -> bool) -> bool {
    match words {
        ["(", rest @ ..] => {
            *words = rest;
            let fine = either(words, known);
            *words = words.strip_prefix(&[")"]).unwrap_or(words);
            fine
        }
        [id, "WITH", exception, rest @ ..] => {
            *words = rest;
            known(&format!("{id} WITH {exception}"))
        }
        [id, rest @ ..] => {
            *words = rest;
            known(id)
        }
        [] => false,
    }
}

#[test]
fn every_dependency_has_a_licence_that_deny_toml_allows() {
    let allowed = Allowed::read();
    // As deny.toml looks at them: those behind features that are off by default too.
    let metadata = metadata::metadata(&["--all-features", "--filter-platform", "x86_64-unknown-linux-gnu"]);
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        let (name, licence) =
            (package["name"].as_str().unwrap(), package["license"].as_str().unwrap_or("none"));
        if !allowed.allows(name, licence) {
            wrong.push(format!("{name}: {licence}"));
        }
    }
    assert!(wrong.is_empty(), "not allowed by deny.toml: {wrong:#?}");
}

#[test]
fn expressions_are_read_as_spdx_says() {
    let exception = |package: &str, allowed: &str| (package.to_string(), vec![allowed.to_string()]);
    let exceptions = BTreeMap::from([
        exception("virt", "LGPL-2.1"),
        exception("archive", "Apache-2.0 WITH LLVM-exception"),
    ]);
    let allowed = Allowed { all: vec!["MIT".into(), "Apache-2.0".into()], exceptions };
    for (package, expression, fine) in [
        ("a", "MIT", true),
        ("a", "GPL-3.0", false),
        ("a", "MIT OR GPL-3.0", true),
        ("a", "MIT AND GPL-3.0", false),
        ("a", "(MIT OR GPL-3.0) AND Apache-2.0", true),
        ("a", "Apache-2.0 WITH LLVM-exception OR MIT", true),
        ("a", "Apache-2.0 WITH LLVM-exception", false),
        ("archive", "Apache-2.0 WITH LLVM-exception", true),
        ("a", "Unlicense/MIT", true),
        ("a", "LGPL-2.1", false),
        ("virt", "LGPL-2.1", true),
        ("a", "none", false),
    ] {
        assert_eq!(allowed.allows(package, expression), fine, "{package}: {expression}");
    }
}
