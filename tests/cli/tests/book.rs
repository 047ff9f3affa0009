//! The book's worked examples do what the book says: every ```console block of every page is run, on a libvirt host
//! of the page's own, and what it prints is compared. `KLD_BLESS=1` writes what was printed into the pages. In the lab
//! the pages that say the same of both stores are run, and the one on the ZFS store.

use std::path::{Path, PathBuf};

use kld_cli_tests::{home, image, only_on};
use kld_test_support::host::Store;
use kld_test_support::{Host, redact, tool};

/// What a page's commands may be: kld's own tools, and what people have beside them.
const OTHERS: [&str; 4] = ["virsh", "qemu-img", "qemu-io", "zfs"];

/// The pages that are run on the ZFS store, in the lab, where the book is not. The others print what is the directory
/// store's alone: its files, and how much of them is shared.
const ON_ZFS: [(&str, &str); 9] = [
    ("store-zfs.md", include_str!("../../../docs/src/store-zfs.md")),
    ("introduction.md", include_str!("../../../docs/src/introduction.md")),
    ("kvm-clone.md", include_str!("../../../docs/src/kvm-clone.md")),
    ("kvm-create.md", include_str!("../../../docs/src/kvm-create.md")),
    ("kvm-delete.md", include_str!("../../../docs/src/kvm-delete.md")),
    ("kvm-show.md", include_str!("../../../docs/src/kvm-show.md")),
    ("kvm-snap.md", include_str!("../../../docs/src/kvm-snap.md")),
    ("kvm-start.md", include_str!("../../../docs/src/kvm-start.md")),
    ("kvm-template.md", include_str!("../../../docs/src/kvm-template.md")),
];

/// The page whose examples need a pool.
const NEEDS_A_POOL: &str = "store-zfs.md";

#[test]
fn every_example_of_the_book_does_what_the_book_says() {
    if only_on(Store::Dir, "in the lab, some pages are run on the ZFS store") {
        return;
    }
    let mut wrong = Vec::new();
    let mut examples = 0;
    for page in pages().into_iter().filter(|page| !page.ends_with(NEEDS_A_POOL)) {
        let text = std::fs::read_to_string(&page).unwrap();
        if !text.contains("```console") {
            continue;
        }
        let host = Host::start();
        image(&host, "debian-13.qcow2");
        let run = text_as_it_runs(&host, &text, &mut examples);
        if redact(&run) != redact(&text) {
            if std::env::var_os("KLD_BLESS").is_some() {
                std::fs::write(&page, &run).unwrap();
            }
            wrong.push(format!("{}:\n{}", page.display(), difference(&redact(&text), &redact(&run))));
        }
    }
    assert!(examples > 20, "only {examples} commands were found in the book");
    assert!(wrong.is_empty(), "the book says otherwise (KLD_BLESS=1 rewrites it):\n{}", wrong.join("\n"));
}

#[test]
fn pages_on_machines_are_true_on_the_zfs_store() {
    if only_on(Store::Zfs, "it needs a pool") {
        return;
    }
    let host = Host::start();
    image(&host, "debian-13.qcow2");
    let mut wrong = Vec::new();
    for (page, text) in ON_ZFS {
        let run = text_as_it_runs(&host, text, &mut 0);
        if redact(&run) != redact(text) {
            wrong.push(format!("{page}:\n{}", difference(&redact(text), &redact(&run))));
        }
        for machine in host.run("kvm-list", ["--names"]).ok().lines() {
            host.run("kvm-delete", [machine, "--force", "--recursive"]);
        }
        assert_eq!(host.run("kvm-list", ["--names"]).ok(), "", "{page} leaves machines");
    }
    assert!(wrong.is_empty(), "the book says otherwise:\n{}", wrong.join("\n"));
}

#[test]
fn every_tool_has_a_page() {
    if only_on(Store::Dir, "the book is not in the lab") {
        return;
    }
    let missing: Vec<&str> = kld_test_support::tool::names()
        .into_iter()
        .filter(|name| !folder().join(format!("{name}.md")).is_file())
        .collect();
    assert!(missing.is_empty(), "no page for {missing:?}");
    let summary = std::fs::read_to_string(folder().join("SUMMARY.md")).unwrap();
    for page in pages() {
        let name = page.file_name().unwrap().to_string_lossy().into_owned();
        assert!(
            name == "SUMMARY.md" || summary.contains(&format!("({name})")),
            "SUMMARY.md does not name {name}"
        );
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/src")
}

fn pages() -> Vec<PathBuf> {
    let mut pages: Vec<PathBuf> =
        std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages.sort();
    pages
}

/// The page with what its commands print now in the place of what it says they print.
fn text_as_it_runs(host: &Host, text: &str, examples: &mut usize) -> String {
    let mut out = String::new();
    let mut lines = text.lines().peekable();
    let mut inside = false;
    let mut hidden = false;
    while let Some(line) = lines.next() {
        match line {
            "<!-- setup" => hidden = true,
            "-->" => hidden = false,
            "```console" => inside = true,
            "```" => inside = false,
            _ if hidden => drop(run(host, line)),
            _ => {}
        }
        out += line;
        out.push('\n');
        let Some(command) = line.strip_prefix("$ ").filter(|_| inside) else { continue };
        *examples += 1;
        let mut expected = Vec::new();
        while lines.peek().is_some_and(|next| !next.starts_with("$ ") && *next != "```") {
            expected.extend(lines.next());
        }
        let printed = run(host, command);
        match matches(&expected, &printed) {
            true => out += &expected.iter().map(|line| format!("{line}\n")).collect::<String>(),
            false => out += &printed,
        }
    }
    out
}

/// Whether the output is as expected; a line of dots stands for any number of lines.
fn matches(expected: &[&str], printed: &str) -> bool {
    let printed: Vec<String> = printed.lines().map(redact).collect();
    let mut at = 0;
    let mut skipping = false;
    for line in expected {
        if *line == "..." {
            skipping = true;
            continue;
        }
        let wanted = redact(line);
        let found = printed[at..].iter().position(|line| *line == wanted);
        match found {
            Some(0) => at += 1,
            Some(skipped) if skipping => at += skipped + 1,
            _ => return false,
        }
        skipping = false;
    }
    skipping || at == printed.len()
}

/// Runs one command line. Words are split at spaces, and may stand in single or double quotes; there is no shell.
fn run(host: &Host, line: &str) -> String {
    let pool = host.pool().map(|pool| pool.name());
    let own = |text: &str| pool.map_or(text.to_string(), |pool| text.replace("tank/", &format!("{pool}/")));
    let words: Vec<String> = words(line).iter().map(|word| own(word)).collect();
    let Some((program, args)) = words.split_first() else { return String::new() };
    let ran = if OTHERS.contains(&program.as_str()) {
        let mut all = vec![format!("--chdir={}", home(host).display()), program.clone()];
        if program == "virsh" {
            all.extend(["--quiet".to_string(), format!("--connect={}", host.uri())]);
        }
        all.extend(args.iter().cloned());
        host.inside("env", all)
    } else {
        let mut command = host.command(program);
        command.args(args).current_dir(home(host));
        tool::run(command)
    };
    let folder = host.folder().display().to_string();
    // Whether this host has hardware virtualisation is not the book's matter.
    let said = ran.stderr.lines().filter(|line| !line.starts_with("note: this host runs no hardware"));
    let said: String = said.map(|line| format!("{line}\n")).collect();
    let mut text = ran.stdout + &said;
    for (inside, outside) in [
        ("store", "/var/lib/kld/store"),
        ("state", "/var/lib/kld"),
        ("home", "/root"),
        ("hooks", "/etc/libvirt/hooks"),
    ] {
        text = text.replace(&format!("{folder}/{inside}"), outside);
    }
    text = pool.map_or(text.clone(), |pool| text.replace(pool, "tank"));
    if ran.code != Some(0) {
        text += &format!("[exit {}]\n", ran.code.map_or("by a signal".into(), |code| code.to_string()));
    }
    text
}

fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = None::<String>;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

fn difference(old: &str, new: &str) -> String {
    let old_lines: Vec<&str> = old.lines().collect();
    let new_lines: Vec<&str> = new.lines().collect();
    let minus = old_lines.iter().filter(|line| !new_lines.contains(line)).map(|line| format!("- {line}\n"));
    let plus = new_lines.iter().filter(|line| !old_lines.contains(line)).map(|line| format!("+ {line}\n"));
    minus.chain(plus).collect()
}
