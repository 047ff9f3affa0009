//! Giving a clone's user-data the clone's name: every top-level `hostname:` and `fqdn:` of a cloud-config, because
//! they win over the meta-data's `local-hostname`. All other bytes stay as they are.

use std::ops::Range;

use kld_core::MachineName;

use super::mime;
use super::user_data::{Form, form, is_cloud_config};
use super::yaml::{find_scalar, scalar};

/// The text with the clone's name in it, and what a person should know about that.
pub(super) fn rename(text: &str, hostname: &MachineName) -> (String, Vec<String>) {
    let mut notes = Vec::new();
    let mut renamed = String::new();
    let mut done = 0;
    for range in configs(text, &mut notes) {
        renamed.push_str(&text[done..range.start]);
        rename_config(&text[range.clone()], hostname, &mut renamed, &mut notes);
        done = range.end;
    }
    renamed.push_str(&text[done..]);
    (renamed, notes)
}

/// Where the text has cloud-configs.
fn configs(text: &str, notes: &mut Vec<String>) -> Vec<Range<usize>> {
    let unread =
        |what: &str| format!("{what} may set a host name, and a clone's is not changed there: look at it");
    match form(text) {
        Some((Form::Mime, _)) => match mime::parts(text) {
            Some(parts) => parts
                .into_iter()
                .filter(|part| {
                    let readable = !part.encoded && !part.nested;
                    if !readable {
                        notes.push(unread("an encoded or nested part of the user-data"));
                    }
                    readable
                        && (part.content_type == "text/cloud-config"
                            || is_cloud_config(&text[part.body.clone()]))
                })
                .map(|part| part.body)
                .collect(),
            None => {
                notes.push(unread("user-data in MIME form that has no boundary"));
                Vec::new()
            }
        },
        _ if is_cloud_config(text) => std::iter::once(0..text.len()).collect(),
        Some((Form::Other, mime)) if mime.starts_with("text/cloud-config-") && names_host(text) => {
            notes.push(unread(&format!("user-data of the type {mime}")));
            Vec::new()
        }
        _ => Vec::new(),
    }
}

fn names_host(text: &str) -> bool {
    text.contains("hostname") || text.contains("fqdn")
}

fn rename_config(body: &str, hostname: &MachineName, out: &mut String, notes: &mut Vec<String>) {
    let lines: Vec<&str> = body.split_inclusive('\n').collect();
    let content = |line: &&&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    if lines.iter().find(content).is_some_and(|line| line.trim_start().starts_with('{')) && names_host(body) {
        notes.push(
            "the user-data is JSON that may set a host name: it is not changed, look at it".to_string(),
        );
    }
    for (index, line) in lines.iter().enumerate() {
        let Some((key, value_at)) = host_key(line) else {
            out.push_str(line);
            continue;
        };
        let goes_on =
            lines[index + 1..].iter().find(content).is_some_and(|next| next.starts_with([' ', '\t']));
        let found = find_scalar(&line[value_at..]).filter(|found| !goes_on && !found.value.contains("{{"));
        match found {
            Some(found) if key == "preserve_hostname" => {
                if is_true(&found.value) {
                    notes.push(format!(
                        "the user-data has 'preserve_hostname: true': the guest keeps its source's name until \
                         somebody tells it that it is {hostname}"
                    ));
                }
                out.push_str(line);
            }
            Some(found) => {
                let new = with_domain(hostname, &found.value);
                if new != found.value {
                    notes.push(format!(
                        "the user-data sets {key} to '{}': the clone's says '{new}'",
                        found.value.escape_debug()
                    ));
                }
                out.push_str(&line[..value_at + found.span.start]);
                out.push_str(&scalar(&new));
                out.push_str(&line[value_at + found.span.end..]);
            }
            None => {
                notes.push(format!(
                    "the user-data sets {key} in a way that is not changed for the clone: look at it"
                ));
                out.push_str(line);
            }
        }
    }
}

/// The clone's name, in the source's domain where the source's name had one.
fn with_domain(hostname: &MachineName, old: &str) -> String {
    match old.split_once('.') {
        Some((_, domain)) if !hostname.as_str().contains('.') => format!("{hostname}.{domain}"),
        _ => hostname.to_string(),
    }
}

/// A top-level key that decides over the host name, and where its value begins.
fn host_key(line: &str) -> Option<(&'static str, usize)> {
    ["hostname", "fqdn", "preserve_hostname"].into_iter().find_map(|key| {
        let after = ["", "\"", "'"].into_iter().find_map(|quote| {
            line.strip_prefix(quote)?
                .strip_prefix(key)?
                .strip_prefix(quote)?
                .trim_start_matches(' ')
                .strip_prefix(':')
        })?;
        let whole = after.is_empty() || after.starts_with([' ', '\t', '\r', '\n']);
        whole.then_some((key, line.len() - after.len()))
    })
}

fn is_true(value: &str) -> bool {
    ["true", "yes", "on", "y"].iter().any(|word| value.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renamed(text: &str) -> (String, Vec<String>) {
        rename(text, &MachineName::parse("web-5").unwrap())
    }

    #[test]
    fn only_the_value_of_a_top_level_host_name_is_replaced() {
        let text = "#cloud-config\n# hostname: no\nhostname:   'web-1' # first\r\n\"fqdn\" : web-1.example.org\n\
                    write_files:\n  - hostname: web-1\nhostname_x: web-1\nruncmd: [\"echo web-1\"]";
        let (new, notes) = renamed(text);
        insta::assert_snapshot!(new, @r#"
        #cloud-config
        # hostname: no
        hostname:   web-5 # first
        "fqdn" : web-5.example.org
        write_files:
          - hostname: web-1
        hostname_x: web-1
        runcmd: ["echo web-1"]
        "#);
        insta::assert_snapshot!(notes.join("\n"), @"
        the user-data sets hostname to 'web-1': the clone's says 'web-5'
        the user-data sets fqdn to 'web-1.example.org': the clone's says 'web-5.example.org'
        ");
        assert!(new.contains("first\r\n"));
    }

    #[test]
    fn what_sets_no_name_is_kept_byte_for_byte() {
        for text in [
            "#cloud-config\npackages:\r\n - a\n\n\n",
            "#!/bin/sh\nhostname: web-1\n",
            "#include\nhttp://example.org/hostname\n",
            "#cloud-config\nhostname: web-5",
        ] {
            assert_eq!(renamed(text), (text.to_string(), vec![]));
        }
    }

    #[test]
    fn what_cannot_be_changed_is_left_and_said() {
        for (text, note) in [
            ("#cloud-config\nhostname: >\n  web-1\n", "in a way that is not changed"),
            ("#cloud-config\nhostname: web\n  one\n", "in a way that is not changed"),
            ("#cloud-config\n{\"hostname\": \"web-1\"}\n", "is JSON"),
            ("#cloud-config-archive\n- hostname: web-1\n", "text/cloud-config-archive"),
            ("#cloud-config\npreserve_hostname: true\n", "keeps its source's name"),
            ("## template: jinja\n#cloud-config\nhostname: \"{{ v1.name }}\"\n", "not changed"),
            (
                "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=B\n\n--B\nContent-Type: text/cloud-config\n\
              Content-Transfer-Encoding: base64\n\nI2Nsb3VkLWNvbmZpZwo=\n--B--\n",
                "an encoded or nested part",
            ),
        ] {
            let (new, notes) = renamed(text);
            assert_eq!(new, text);
            assert!(notes.len() == 1 && notes[0].contains(note), "{notes:?}");
        }
    }

    #[test]
    fn the_cloud_configs_of_a_mime_message_are_renamed_and_nothing_else_in_it() {
        let text = "Content-Type: multipart/mixed; boundary=\"B\"\nMIME-Version: 1.0\n\n--B\n\
                    Content-Type: text/x-shellscript\n\nhostname: web-1\n--B\ncontent-type: text/cloud-config\n\n\
                    #cloud-config\n---\nhostname: web-1\n\n--B--\n";
        let (new, notes) = renamed(text);
        assert_eq!(new, text.replace("---\nhostname: web-1", "---\nhostname: web-5"));
        assert_eq!(notes, ["the user-data sets hostname to 'web-1': the clone's says 'web-5'"]);
    }

    proptest::proptest! {
        #[test]
        fn renaming_never_panics_and_twice_is_once(
            text in "(#cloud-config\n|MIME-Version: 1\nContent-Type: a; boundary=B\n\n--B\nContent-Type: text/cloud-config\n\n)\
                     (hostname: ?['\"]?[a-z. {#ü]{0,8}['\"]?\n|fqdn:[ a-z.]{0,6}\n|--B\n|\\PC{0,9}\n){0,6}"
        ) {
            let (once, _) = renamed(&text);
            assert_eq!(renamed(&once).0, once);
        }
    }
}
