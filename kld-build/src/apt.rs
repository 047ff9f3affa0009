//! What this host's apt knows: its mirror of Debian, and which packages are installed.

use std::path::{Path, PathBuf};

use kld_core::exec::Exec;
use kld_core::{Error, Result, fsio};

/// The mirror of Debian that this host's apt uses, or `KLD_DEBIAN_MIRROR`.
pub fn mirror() -> Result<String> {
    if let Some(mirror) = std::env::var("KLD_DEBIAN_MIRROR").ok().filter(|mirror| !mirror.is_empty()) {
        return Ok(mirror);
    }
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    let folder = std::fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    let mut more: Vec<_> = folder.map(|entry| entry.path()).collect();
    more.sort();
    files.extend(more);
    let mut sources = Vec::new();
    for file in files {
        let text = fsio::read_text(&file, 1 << 20)?.unwrap_or_default();
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => sources.extend(parse_list(&text)),
            Some("sources") => sources.extend(parse_deb822(&text)),
            _ => {}
        }
    }
    debian_archive(&sources).ok_or_else(|| {
        Error::failed("cannot find a mirror of Debian", "this host's apt sources name none")
            .with_hint("name one in KLD_DEBIAN_MIRROR")
    })
}

/// Packages of `names` that are not installed.
pub fn missing(names: &[&'static str]) -> Vec<&'static str> {
    let installed = |name: &str| {
        let query =
            Exec::new("dpkg-query").args(["--show", "--showformat=${db:Status-Status}", name]).output();
        query.is_ok_and(|query| query.code == Some(0) && query.stdout == b"installed")
    };
    names.iter().copied().filter(|name| !installed(name)).collect()
}

/// The keyring that signs Debian's archive.
pub fn keyring() -> &'static Path {
    Path::new("/usr/share/keyrings/debian-archive-keyring.gpg")
}

/// One place that apt fetches from.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    uri: String,
    suite: String,
    components: Vec<String>,
}

/// The place that holds all of Debian: a component `main`, suites under Debian's own names (not those of its
/// security updates), and a path that ends in `debian`, as the archive's does on every mirror.
fn debian_archive(sources: &[Source]) -> Option<String> {
    const SUITES: &[&str] =
        &["bullseye", "bookworm", "trixie", "forky", "sid", "oldstable", "stable", "testing", "unstable"];
    sources
        .iter()
        .filter(|source| source.uri.starts_with("http://") || source.uri.starts_with("https://"))
        .filter(|source| SUITES.contains(&source.suite.as_str()))
        .filter(|source| source.components.iter().any(|component| component == "main"))
        .map(|source| source.uri.trim_end_matches('/').to_string())
        .find(|uri| uri.ends_with("debian"))
}

/// Reads the one-line format: `deb [options] uri suite component...`.
fn parse_list(text: &str) -> Vec<Source> {
    let line = |line: &str| {
        let line = line.split('#').next()?.trim().strip_prefix("deb")?;
        let line = line.starts_with(char::is_whitespace).then(|| line.trim())?;
        let line = match line.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?.1,
            None => line,
        };
        let mut words = line.split_whitespace().map(str::to_string);
        Some(Source { uri: words.next()?, suite: words.next()?, components: words.collect() })
    };
    text.lines().filter_map(line).collect()
}

/// Reads the paragraphs of deb822: `Types: deb`, `URIs:`, `Suites:`, `Components:`.
fn parse_deb822(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let text: String = text.lines().filter(|line| !line.starts_with('#')).fold(String::new(), |all, line| {
        // A line that begins with a space goes on with the one before.
        let joint = if line.starts_with([' ', '\t']) { " " } else { "\n" };
        all + joint + line.trim()
    });
    for paragraph in text.split("\n\n") {
        let field = |name: &str| -> Vec<String> {
            let field = paragraph.lines().filter_map(|line| line.split_once(':'));
            let mut field = field.filter(|(key, _)| key.eq_ignore_ascii_case(name));
            let value = field.next().map(|(_, value)| value).unwrap_or_default();
            value.split_whitespace().map(str::to_string).collect()
        };
        let off = field("Enabled").first().is_some_and(|word| word == "no");
        if off || !field("Types").iter().any(|kind| kind == "deb") {
            continue;
        }
        for uri in field("URIs") {
            for suite in field("Suites") {
                sources.push(Source { uri: uri.clone(), suite, components: field("Components") });
            }
        }
    }
    sources
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_found_among_security_updates_and_other_vendors() {
        let list = "# deb http://old.example/debian bookworm main\n\
                    deb-src http://src.example/debian bookworm main\n\
                    deb https://vendor.example/apt bookworm main\n\
                    deb http://m.example/debian-security bookworm-security main\n\
                    deb [arch=amd64 signed-by=/k.gpg] http://m.example/debian/ bookworm main contrib # ours\n";
        assert_eq!(debian_archive(&parse_list(list)).as_deref(), Some("http://m.example/debian"));
    }

    #[test]
    fn the_paragraph_format_is_read_too() {
        let sources = "Types: deb deb-src\n# a remark\nURIs: http://m.example/debian\nSuites: trixie\n trixie-updates\n\
                       Components: main\n\nTypes: deb\nEnabled: no\nURIs: http://n.example/debian\nSuites: sid\nComponents: main\n";
        let sources = parse_deb822(sources);
        assert_eq!(sources.len(), 2);
        assert_eq!(debian_archive(&sources).as_deref(), Some("http://m.example/debian"));
    }

    #[test]
    fn a_host_without_debian_has_no_archive() {
        assert_eq!(debian_archive(&parse_list("deb http://u.example/ubuntu noble main\n")), None);
        assert_eq!(debian_archive(&parse_list("deb cdrom:[x]/ bookworm main\ndeb\ndeb [x\n")), None);
    }
}
