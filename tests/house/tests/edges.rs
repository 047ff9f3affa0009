//! Which crate may know which, read from `cargo metadata`. The rules are those of "Who may know whom" in the plan
//! of the house; a new family or domain crate needs a row here.

mod metadata;

use std::path::Path;

use metadata::metadata;
use serde_json::Value;

/// What prints or parses command lines.
const TERMINAL: [&str; 5] = ["clap", "clap_complete", "clap_mangen", "tabled", "indicatif"];

/// Each folder of `bins/` and the domain crates that its program may know.
const FAMILIES: [(&str, &[&str]); 4] =
    [("catalog", &[]), ("kld", &[]), ("kvm", &["kld-kvm", "kld-zfs"]), ("trace", &["kld-ebpf"])];

/// A member of the workspace.
#[derive(Clone)]
struct Member {
    name: String,
    /// Its folder, from the repository's root, such as `bins/kvm`.
    folder: String,
    license: String,
    /// What it names in its manifest, with `dev` where only its tests use it.
    dependencies: Vec<(String, bool)>,
}

impl Member {
    fn is_domain(&self) -> bool {
        !self.folder.contains('/') && self.folder.starts_with("kld-") && self.name != "kld-core"
    }

    /// A part of a domain crate, in its folder: the crate may know it, and it knows nobody.
    fn is_part(&self) -> bool {
        self.folder.starts_with("kld-") && self.folder.contains('/')
    }

    fn family(&self) -> Option<&str> {
        self.folder.strip_prefix("bins/")
    }

    /// The members that it may know outside its tests; `None` for the tests and tasks, which may know any.
    fn may_know<'a>(&'a self, members: &'a [Member]) -> Option<Vec<&'a str>> {
        if self.name == "kld-core" || self.folder == "bins/catalog" || self.is_part() {
            Some(vec![])
        } else if self.is_domain() {
            let own = format!("{}/", self.folder);
            let parts = members.iter().filter(|member| member.folder.starts_with(&own));
            Some(parts.map(|part| part.name.as_str()).chain(["kld-core"]).collect())
        } else if let Some(family) = self.family() {
            let row = FAMILIES.iter().find(|(name, _)| *name == family).map_or(&[][..], |(_, crates)| crates);
            Some([&["kld-core", "kld-catalog"], row].concat())
        } else {
            None
        }
    }
}

fn members() -> Vec<Member> {
    let metadata = metadata(&["--no-deps"]);
    let root = text(&metadata["workspace_root"]);
    let member = |package: &Value| {
        let folder = Path::new(text(&package["manifest_path"])).parent().unwrap();
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        Member {
            name: text(&package["name"]).to_string(),
            folder: folder.strip_prefix(root).unwrap().to_str().unwrap().to_string(),
            license: package["license"].as_str().unwrap_or_default().to_string(),
            dependencies: dependencies
                .map(|it| (text(&it["name"]).to_string(), it["kind"] == "dev"))
                .collect(),
        }
    };
    metadata["packages"].as_array().unwrap().iter().map(member).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

/// One sentence for each edge that the house does not have.
fn violations(members: &[Member]) -> Vec<String> {
    let mut found = Vec::new();
    for member in members {
        let name = &member.name;
        let terminal = name == "kld-core" || name == "xtask" || member.family().is_some();
        let known = member.may_know(members);
        for (dependency, dev) in &member.dependencies {
            let edge = format!("{name} depends on {dependency}{}", if *dev { " in its tests" } else { "" });
            let ours = members.iter().any(|other| other.name == *dependency);
            let allowed = match &known {
                Some(known) => {
                    // A crate's own tests may ask for features of its own.
                    let for_tests = *dev && (dependency == "kld-test-support" || dependency == name);
                    known.contains(&dependency.as_str()) || for_tests
                }
                None => true,
            };
            if ours && !allowed {
                found.push(edge);
            } else if TERMINAL.contains(&dependency.as_str()) && !terminal {
                found.push(format!("{edge}: only kld-core, bins/ and xtask speak to terminals"));
            }
        }
        if let Some(family) = member.family()
            && !FAMILIES.iter().any(|(name, _)| *name == family)
        {
            found.push(format!("bins/{family} is not in the table of families"));
        }
        if member.license != "MIT OR Apache-2.0" {
            found.push(format!("{name} is not under the workspace's licence"));
        }
    }
    found
}

#[test]
fn the_crates_know_only_whom_they_may_know() {
    let members = members();
    assert!(members.iter().any(Member::is_domain) && members.iter().any(|member| member.family().is_some()));
    assert_eq!(violations(&members), Vec::<String>::new());
}

#[test]
fn each_edge_that_the_house_does_not_have_is_named() {
    let member = |name: &str, folder: &str, dependencies: &[&str]| Member {
        name: name.into(),
        folder: folder.into(),
        license: "MIT OR Apache-2.0".into(),
        dependencies: dependencies
            .iter()
            .map(|name| (name.trim_end_matches(" (dev)").into(), name.ends_with(" (dev)")))
            .collect(),
    };
    let mut members = vec![
        member("kld-core", "kld-core", &["clap", "kld-kvm", "kld-test-support (dev)"]),
        member("kld-kvm", "kld-kvm", &["kld-core", "kld-gpu", "tabled", "clap (dev)", "kld-bin-kvm (dev)"]),
        member("kld-gpu", "kld-gpu", &["kld-core", "kld-gpu-part", "kld-gpu (dev)"]),
        member("kld-gpu-part", "kld-gpu/part", &["kld-core"]),
        member("kld-catalog", "bins/catalog", &["kld-core"]),
        member("kld-bin-kvm", "bins/kvm", &["kld-core", "kld-catalog", "kld-kvm", "kld-gpu", "clap"]),
        member("kld-bin-new", "bins/new", &["kld-core", "clap"]),
        member("kld-test-support", "tests/support", &["kld-kvm", "indicatif"]),
        member("xtask", "xtask", &["kld-core", "clap"]),
    ];
    members[2].license = "GPL-3.0".into();
    insta::assert_snapshot!(violations(&members).join("\n"), @"
    kld-core depends on kld-kvm
    kld-kvm depends on kld-gpu
    kld-kvm depends on tabled: only kld-core, bins/ and xtask speak to terminals
    kld-kvm depends on clap in its tests: only kld-core, bins/ and xtask speak to terminals
    kld-kvm depends on kld-bin-kvm in its tests
    kld-gpu is not under the workspace's licence
    kld-gpu-part depends on kld-core
    kld-catalog depends on kld-core
    kld-bin-kvm depends on kld-gpu
    bins/new is not in the table of families
    kld-test-support depends on indicatif: only kld-core, bins/ and xtask speak to terminals
    ");
}
