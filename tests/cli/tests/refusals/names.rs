use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use crate::table::{host, refused, refused_runs, words};

/// Every kind of name that some system underneath would misread.
fn bad_names() -> Vec<OsString> {
    let long = "a".repeat(300);
    let texts = ["", "-x", "a/b", "..", "a b", "a\nb", "a;b", &long];
    let mut names: Vec<OsString> = texts.iter().map(OsString::from).collect();
    names.push(OsStr::from_bytes(b"caf\xe9").to_os_string());
    names
}

/// The command line once with each bad name in the place of `NAME`.
fn with_each_name(line: &str) -> Vec<Vec<OsString>> {
    bad_names().iter().map(|name| words(line).into_iter().map(|word| put(word, name)).collect()).collect()
}

fn put(word: OsString, name: &OsStr) -> OsString {
    match word.to_str().and_then(|word| word.strip_suffix("NAME")) {
        Some(before) => [OsStr::new(before), name].into_iter().collect(),
        None => word,
    }
}

/// All that a table says, without its command lines.
fn said(table: &str) -> Vec<&str> {
    table.lines().filter(|line| !line.starts_with("$ ")).collect()
}

#[test]
fn a_bad_name_of_a_new_machine_is_told_with_its_reason() {
    let (host, _) = host();
    insta::assert_snapshot!(refused_runs(&host, &with_each_name("kvm-create --disk 1G -- NAME")), @r"
    $ kvm-create --disk 1G -- ''
    exit 2
    error: the machine name '' is empty
    hint: use letters, digits, '.', '_' and '-', starting with a letter or a digit, at most 63 bytes

    $ kvm-create --disk 1G -- -x
    exit 2
    error: the machine name '-x' starts with '-'
    hint: use letters, digits, '.', '_' and '-', starting with a letter or a digit, at most 63 bytes

    $ kvm-create --disk 1G -- a/b
    exit 2
    error: the machine name 'a/b' contains '/'
    hint: use letters, digits, '.', '_' and '-', starting with a letter or a digit, at most 63 bytes

    $ kvm-create --disk 1G -- ..
    exit 2
    error: the machine name '..' starts with '.'
    hint: use letters, digits, '.', '_' and '-', starting with a letter or a digit, at most 63 bytes

    $ kvm-create --disk 1G -- 'a b'
    exit 2
    error: the machine name 'a b' contains a space
    hint: use letters, digits, '.', '_' and '-', starting with a letter or a digit, at most 63 bytes

    $ kvm-create --disk 1G -- 'a\nb'
    exit 2
    error: the machine name 'a\nb' contains a newline
    hint: use letters, digits, '.', '_' and '-', starting with a letter or a digit, at most 63 bytes

    $ kvm-create --disk 1G -- 'a;b'
    exit 2
    error: the machine name 'a;b' contains ';'
    hint: use letters, digits, '.', '_' and '-', starting with a letter or a digit, at most 63 bytes

    $ kvm-create --disk 1G -- aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
    exit 2
    error: the machine name 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa...' is 300 bytes long
    hint: use letters, digits, '.', '_' and '-', starting with a letter or a digit, at most 63 bytes

    $ kvm-create --disk 1G -- caf�
    exit 2
    error: the machine name 'caf�' is not UTF-8
    hint: use letters, digits, '.', '_' and '-', starting with a letter or a digit, at most 63 bytes
    ");
}

#[test]
fn every_tool_tells_a_bad_name_in_the_same_words() {
    let (host, _) = host();
    let expected = refused_runs(&host, &with_each_name("kvm-create --disk 1G -- NAME"));
    for line in [
        "kvm-clone src -- NAME",
        "kvm-clone src -- web NAME",
        "kvm-clone -- NAME web",
        "kvm-snap -- NAME",
        "kvm-show -- NAME",
        "kvm-start -- NAME",
        "kvm-stop -- NAME",
        "kvm-console -- NAME",
        "kvm-ip -- NAME",
        "kvm-template -- NAME",
        "kvm-delete -- NAME",
        "kvm-delete -- src NAME",
    ] {
        let table = refused_runs(&host, &with_each_name(line));
        assert_eq!(said(&table), said(&expected), "{line}");
    }
}

#[test]
fn a_bad_tag_of_a_snapshot_is_told_with_its_reason() {
    let (host, _) = host();
    let table = refused_runs(&host, &with_each_name("kvm-snap src create -- NAME"));
    insta::assert_snapshot!(&table, @r"
    $ kvm-snap src create -- ''
    exit 2
    error: the snapshot tag '' is empty
    hint: use letters, digits, '.', '_' and '-', starting with a letter or a digit, at most 63 bytes

    $ kvm-snap src create -- -x
    exit 2
    error: the snapshot tag '-x' starts with '-'
    hint: use letters, digits, '.', '_' and '-', starting with a letter or a digit, at most 63 bytes

    $ kvm-snap src create -- a/b
    exit 2
    error: the snapshot tag 'a/b' contains '/'
    hint: use letters, digits, '.', '_' and '-', starting with a letter or a digit, at most 63 bytes

    $ kvm-snap src create -- ..
    exit 2
    error: the snapshot tag '..' starts with '.'
    hint: use letters, digits, '.', '_' and '-', starting with a letter or a digit, at most 63 bytes

    $ kvm-snap src create -- 'a b'
    exit 2
    error: the snapshot tag 'a b' contains a space
    hint: use letters, digits, '.', '_' and '-', starting with a letter or a digit, at most 63 bytes

    $ kvm-snap src create -- 'a\nb'
    exit 2
    error: the snapshot tag 'a\nb' contains a newline
    hint: use letters, digits, '.', '_' and '-', starting with a letter or a digit, at most 63 bytes

    $ kvm-snap src create -- 'a;b'
    exit 2
    error: the snapshot tag 'a;b' contains ';'
    hint: use letters, digits, '.', '_' and '-', starting with a letter or a digit, at most 63 bytes

    $ kvm-snap src create -- aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
    exit 2
    error: the snapshot tag 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa...' is 300 bytes long
    hint: use letters, digits, '.', '_' and '-', starting with a letter or a digit, at most 63 bytes

    $ kvm-snap src create -- caf�
    exit 2
    error: the snapshot tag 'caf�' is not UTF-8
    hint: use letters, digits, '.', '_' and '-', starting with a letter or a digit, at most 63 bytes
    ");
    for line in
        ["kvm-snap src rollback -- NAME", "kvm-snap src delete -- NAME", "kvm-clone src web --snapshot=NAME"]
    {
        let other = refused_runs(&host, &with_each_name(line));
        assert_eq!(said(&other), said(&table), "{line}");
    }
}

#[test]
fn a_name_with_a_dash_reads_as_an_option_unless_two_dashes_come_before() {
    let (host, _) = host();
    insta::assert_snapshot!(refused(&host, &["kvm-create -x", "kvm-clone src -x", "kvm-delete -x"]), @"
    $ kvm-create -x
    exit 2
    error: unexpected argument '-x' found

      tip: to pass '-x' as a value, use '-- -x'

    Usage: kvm-create [OPTIONS] <NAME>

    For more information, try '--help'.

    $ kvm-clone src -x
    exit 2
    error: unexpected argument '-x' found

      tip: to pass '-x' as a value, use '-- -x'

    Usage: kvm-clone [OPTIONS] <SRC> [NEW]...

    For more information, try '--help'.

    $ kvm-delete -x
    exit 2
    error: unexpected argument '-x' found

      tip: to pass '-x' as a value, use '-- -x'

    Usage: kvm-delete [OPTIONS] <VM>...

    For more information, try '--help'.
    ");
}

#[test]
fn numbered_clones_need_a_prefix_that_makes_names() {
    let (host, _) = host();
    insta::assert_snapshot!(refused(&host, &[
        "kvm-clone src",
        "kvm-clone src web web",
        "kvm-clone src src",
        "kvm-clone src --count 2",
        "kvm-clone src --count 0 --prefix web-",
        "kvm-clone src --count 2 --prefix a/b",
        "kvm-clone src web-2 --count 2 --prefix web-",
    ]), @"
    $ kvm-clone src
    exit 2
    error: no name is given for the clone
    hint: write kvm-clone SRC NEW..., or --count N --prefix PREFIX

    $ kvm-clone src web web
    exit 2
    error: the name 'web' is given twice
    hint: each clone needs a name of its own

    $ kvm-clone src src
    exit 2
    error: the name 'src' is given twice
    hint: each clone needs a name of its own

    $ kvm-clone src --count 2
    exit 2
    error: the following required arguments were not provided:
      --prefix <PREFIX>

    Usage: kvm-clone --count <N> --prefix <PREFIX> <SRC> [NEW]...

    For more information, try '--help'.

    $ kvm-clone src --count 0 --prefix web-
    exit 2
    error: invalid value '0' for '--count <N>': 0 is not in 1..=1000

    For more information, try '--help'.

    $ kvm-clone src --count 2 --prefix a/b
    exit 2
    error: the machine name 'a/b1' contains '/'
    hint: use letters, digits, '.', '_' and '-', starting with a letter or a digit, at most 63 bytes

    $ kvm-clone src web-2 --count 2 --prefix web-
    exit 2
    error: the name 'web-2' is given twice
    hint: each clone needs a name of its own
    ");
}
