//! Journal entries that this program cannot read: it says so, and touches nothing.

/// The exit code and what is said with such an entry in the journal; nothing else may differ afterwards.
fn with_entry(text: &str) -> String {
    let lab = crate::SOURCE.lend();
    let journal = lab.host.state_dir().join("journal");
    std::fs::create_dir_all(&journal).unwrap();
    std::fs::write(journal.join("6b29fc40-ca47-1067-b31d-00dd010662da.json"), text).unwrap();
    let before = lab.see();
    let ran = lab.host.run("kvm-clone", ["src", "web"]);
    for (tool, args) in [
        ("kvm-create", &["new", "--disk", "1G"][..]),
        ("kvm-snap", &["src", "create"]),
        ("kvm-delete", &["src"]),
        ("kvm-template", &["src"]),
        ("kvm-start", &["src"]),
    ] {
        let other = lab.host.run(tool, args);
        assert_eq!((other.code, &other.stderr), (ran.code, &ran.stderr), "{tool}");
    }
    lab.tool("kvm-list", &[]);
    assert_eq!(lab.see(), before, "{}", before.difference(&lab.see()));
    ran.to_string()
}

#[test]
fn a_journal_entry_that_is_damaged_is_told_and_nothing_is_touched() {
    insta::assert_snapshot!(with_entry("{\"version\":1,\"id\":"), @"
    exit 1
    -- stderr --
    error: cannot read the journal entry [host]/state/journal/[uuid].json: it is damaged (EOF while parsing a value at line 1 column 18)
    hint: it tells what an interrupted run had begun: look at that, and move the file away to go on without
    ");
}

#[test]
fn a_journal_entry_of_a_newer_kld_is_told_and_nothing_is_touched() {
    let entry = r#"{"version": 2, "id": "6b29fc40-ca47-1067-b31d-00dd010662da", "title": "clone src to web",
        "machines": ["src", "web"], "began": 1, "phase": "staging", "work": []}"#;
    insta::assert_snapshot!(with_entry(entry), @"
    exit 1
    -- stderr --
    error: cannot read the journal entry [host]/state/journal/[uuid].json: it has version 2, and only version 1 is known
    hint: another version of kld was interrupted: run any tool of that version to finish or undo it
    ");
}
