//! Runs that must change nothing, as text.

use std::ffi::{OsStr, OsString};

use kld_cli_tests::{everything, image};
use kld_test_support::{Host, Ran};

/// A host with an image `debian.qcow2` in its home folder and a machine `src` made from it.
pub fn host() -> (Host, String) {
    let host = Host::start();
    let image = image(&host, "debian.qcow2").display().to_string();
    host.run("kvm-create", ["src", "--from", &image, "--memory", "64M", "--cloud-init"]).ok();
    (host, image)
}

/// A command line in words; `IMAGE` and the like are replaced by the caller.
pub fn words(line: &str) -> Vec<OsString> {
    line.split(' ').map(OsString::from).collect()
}

/// Runs command lines of words without spaces, each of which must change nothing.
pub fn refused(host: &Host, lines: &[&str]) -> String {
    let runs: Vec<Vec<OsString>> = lines.iter().map(|line| words(line)).collect();
    refused_runs(host, &runs)
}

/// Runs command lines, each of which must change nothing and say nothing on standard output.
pub fn refused_runs(host: &Host, runs: &[Vec<OsString>]) -> String {
    let before = everything(host);
    let mut table = String::new();
    for run in runs {
        let ran = host.run(&run[0].to_string_lossy(), &run[1..]);
        let shown = show(run, &ran);
        assert_ne!(ran.code, Some(0), "it is not refused:\n{shown}");
        assert_eq!(ran.stdout, "", "data of a failed run:\n{shown}");
        assert_eq!(everything(host), before, "it changed something:\n{shown}");
        table += &shown;
        table.push('\n');
    }
    table
}

/// A command line and what it printed.
pub fn show(run: &[OsString], ran: &Ran) -> String {
    let words: Vec<String> = run.iter().map(|word| quoted(word)).collect();
    let said = ran.to_string().replace("-- stderr --\n", "");
    kld_test_support::redact(&format!("$ {}\n{said}", words.join(" ")))
        .replace(concat!("[host]/ho", "me"), "~")
}

fn quoted(word: &OsStr) -> String {
    let text: String = word.to_string_lossy().chars().flat_map(char::escape_debug).collect();
    let shown: String = text.chars().take(48).collect();
    match shown.is_empty() || shown.contains([' ', ';', '\\']) {
        true => format!("'{shown}'"),
        false => shown,
    }
}
