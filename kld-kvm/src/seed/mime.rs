//! MIME multipart messages, as far as user-data needs them: joining texts, and finding the parts again.

use std::fmt::Write;
use std::ops::Range;

/// A part of a message to be written.
pub(super) struct NewPart<'a> {
    pub(super) content_type: &'a str,
    /// Further header lines, each with its newline.
    pub(super) headers: &'a str,
    pub(super) body: &'a str,
}

/// A part found in a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// In lower case and without parameters; empty where the part has none.
    pub(super) content_type: String,
    /// True where the body is base64.
    pub(super) encoded: bool,
    /// True where the body has parts of its own.
    pub(super) nested: bool,
    /// Where its body stands in the message.
    pub(super) body: Range<usize>,
}

/// Joins texts to one message. Decoding gives back each body byte for byte.
pub(super) fn join(parts: &[NewPart<'_>]) -> String {
    let boundary = (1..)
        .map(|n| format!("kld-part-{n}"))
        .find(|boundary| !parts.iter().any(|part| part.body.contains(boundary.as_str())))
        .unwrap_or_default();
    let mut message = format!("Content-Type: multipart/mixed; boundary=\"{boundary}\"\nMIME-Version: 1.0\n");
    for part in parts {
        // cloud-init cannot read 8-bit bodies: Python takes them for Latin-1.
        let (encoding, body) = match part.body.is_ascii() {
            true => ("7bit", part.body.to_string()),
            false => ("quoted-printable", quoted_printable(part.body)),
        };
        let NewPart { content_type, headers, .. } = part;
        message.push_str(&format!(
            "\n--{boundary}\nContent-Type: {content_type}; charset=\"utf-8\"\n{headers}\
             Content-Transfer-Encoding: {encoding}\n\n{body}"
        ));
    }
    message.push_str(&format!("\n--{boundary}--\n"));
    message
}

/// RFC 2045, section 6.7: lines stay lines, so the text can still be read and its ASCII lines be found.
fn quoted_printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    let mut column = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte == b'\n' {
            out.push('\n');
            column = 0;
            continue;
        }
        let ends_line = matches!(text.as_bytes().get(at + 1), None | Some(b'\n'));
        let plain = matches!(byte, b'!'..=b'~') && byte != b'=' || byte == b' ' && !ends_line;
        let width = if plain { 1 } else { 3 };
        if column + width > 75 {
            out.push_str("=\n");
            column = 0;
        }
        column += width;
        if plain {
            out.push(byte as char);
        } else {
            let _ = write!(out, "={byte:02X}");
        }
    }
    out
}

/// The parts of a message; `None` where it names no boundary.
pub(super) fn parts(message: &str) -> Option<Vec<Part>> {
    let (header, _) = split_header(message, 0);
    let boundary = boundary(header)?;
    let (delimiter, end) = (format!("--{boundary}"), format!("--{boundary}--"));
    let mut parts = Vec::new();
    let mut open = None;
    let mut at = 0;
    for line in message.split_inclusive('\n') {
        let text = line.trim_end();
        if text == delimiter || text == end {
            parts.extend(open.map(|start| part(message, start, at)));
            open = (text == delimiter).then_some(at + line.len());
            if text == end {
                break;
            }
        }
        at += line.len();
    }
    parts.extend(open.map(|start| part(message, start, message.len())));
    Some(parts)
}

fn part(message: &str, start: usize, end: usize) -> Part {
    let (header, body) = split_header(&message[..end], start);
    let field = |name: &str| {
        let found =
            header.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix(name).map(str::to_string));
        found.unwrap_or_default().trim().to_string()
    };
    Part {
        content_type: field("content-type:").split(';').next().unwrap_or_default().trim().to_string(),
        encoded: field("content-transfer-encoding:") == "base64",
        nested: field("content-type:").starts_with("multipart/"),
        body,
    }
}

/// The header that begins at `start`, and where the body behind its blank line stands.
fn split_header(text: &str, start: usize) -> (&str, Range<usize>) {
    let mut at = start;
    for line in text[start..].split_inclusive('\n') {
        if line.trim().is_empty() {
            return (&text[start..at], at + line.len()..text.len());
        }
        at += line.len();
    }
    (&text[start..], text.len()..text.len())
}

fn boundary(header: &str) -> Option<&str> {
    let start = header.to_ascii_lowercase().find("boundary=")? + "boundary=".len();
    let rest = &header[start..];
    let boundary = match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next()?,
        None => rest.split([';', ' ', '\r', '\n']).next()?,
    };
    (!boundary.is_empty()).then_some(boundary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_joined_readably_and_found_again() {
        let (script, config) = ("#!/bin/sh\necho kld-part-1\n", "#cloud-config\nmotd: Grüße = \n");
        let message = join(&[
            NewPart { content_type: "text/x-shellscript", headers: "", body: script },
            NewPart {
                content_type: "text/cloud-config",
                headers: "Merge-Type: list(append)\n",
                body: config,
            },
        ]);
        insta::assert_snapshot!(message, @r#"
        Content-Type: multipart/mixed; boundary="kld-part-2"
        MIME-Version: 1.0

        --kld-part-2
        Content-Type: text/x-shellscript; charset="utf-8"
        Content-Transfer-Encoding: 7bit

        #!/bin/sh
        echo kld-part-1

        --kld-part-2
        Content-Type: text/cloud-config; charset="utf-8"
        Merge-Type: list(append)
        Content-Transfer-Encoding: quoted-printable

        #cloud-config
        motd: Gr=C3=BC=C3=9Fe =3D=20

        --kld-part-2--
        "#);
        let parts = parts(&message).unwrap();
        assert_eq!(parts[0].content_type, "text/x-shellscript");
        assert_eq!(parts[1].content_type, "text/cloud-config");
        // The newline before a boundary belongs to the boundary.
        assert_eq!(&message[parts[0].body.clone()], format!("{script}\n"));
        assert!(!parts[1].encoded && !parts[1].nested);
    }

    proptest::proptest! {
        #[test]
        fn finding_parts_never_panics(text in "(Content-Type: a; boundary=\"?B\"?;?\r?\n)?(\r?\n|--B\n|--B--|\\PC{0,8}\n){0,9}") {
            for part in parts(&text).unwrap_or_default() {
                assert!(text.get(part.body).is_some());
            }
        }

        #[test]
        fn encoded_lines_are_ascii_and_at_most_76_wide(text in "[ -~ü\n\t]{0,300}") {
            let encoded = quoted_printable(&text);
            assert!(encoded.is_ascii() && encoded.lines().all(|line| line.len() <= 76 && !line.ends_with(' ')));
        }
    }
}
