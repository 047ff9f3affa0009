//! The little YAML that seeds need: writing one scalar, and finding one at the start of a line's value.

use std::ops::Range;

/// Words that YAML 1.1, which cloud-init's parser speaks, reads as something other than text.
const WORDS: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];

/// Text as a YAML scalar: bare where nothing could misread it, else double-quoted.
pub(super) fn scalar(text: &str) -> String {
    let bare = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        && !WORDS.iter().any(|word| text.eq_ignore_ascii_case(word));
    if bare {
        return text.to_string();
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            ' '..='~' => quoted.push(c),
            c if c.is_alphanumeric() => quoted.push(c),
            c => quoted.push_str(&format!("\\U{:08x}", c as u32)),
        }
    }
    quoted.push('"');
    quoted
}

/// A scalar that stands alone on a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Where it stands in the text, its quotes included.
    pub(super) span: Range<usize>,
    /// What it says.
    pub(super) value: String,
}

/// Finds the one scalar in what follows a key's colon, up to the end of the line. `None` where there is no value,
/// or one of another kind (a block, a list, an anchor), or an escape beyond `\"` and `\\`.
pub(super) fn find_scalar(rest: &str) -> Option<Found> {
    let start = rest.len() - rest.trim_start().len();
    let text = rest.trim();
    let (value, length) = match text.chars().next()? {
        '"' => double_quoted(text)?,
        '\'' => single_quoted(text)?,
        '|' | '>' | '&' | '*' | '!' | '{' | '[' | '%' | '@' | '`' | '#' | ',' | ']' | '}' => return None,
        _ => {
            let end = [" #", "\t#"].iter().filter_map(|mark| text.find(mark)).min().unwrap_or(text.len());
            let plain = text[..end].trim_end();
            (!plain.contains(": ") && !plain.ends_with(':')).then(|| (plain.to_string(), plain.len()))?
        }
    };
    let after = &text[length..];
    let only_comment = after.is_empty() || (after.starts_with([' ', '\t']) && after.trim().starts_with('#'));
    only_comment.then_some(Found { span: start..start + length, value })
}

fn double_quoted(text: &str) -> Option<(String, usize)> {
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, at + 1)),
            '\\' => value.push(chars.next().map(|(_, c)| c).filter(|c| matches!(c, '"' | '\\'))?),
            c => value.push(c),
        }
    }
    None
}

fn single_quoted(text: &str) -> Option<(String, usize)> {
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '\'' if chars.next_if(|(_, next)| *next == '\'').is_none() => return Some((value, at + 1)),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_yaml_would_take_for_something_else_is_quoted() {
        for (text, written) in [
            ("web-5", "web-5"),
            ("db.example.org", "db.example.org"),
            ("123", "\"123\""),
            ("1e5", "\"1e5\""),
            ("No", "\"No\""),
            ("null", "\"null\""),
            ("", "\"\""),
            ("a: b", "\"a: b\""),
            ("a #b", "\"a #b\""),
            ("say \"hi\\\"", r#""say \"hi\\\"""#),
            ("Jörg\u{7f}\n", r#""Jörg\U0000007f\U0000000a""#),
        ] {
            assert_eq!(scalar(text), written);
        }
    }

    #[test]
    fn a_scalar_is_found_in_each_of_its_three_forms() {
        for (rest, value, span) in [
            (" web-1\n", "web-1", 1..6),
            ("  \"web # 1\" # why\r\n", "web # 1", 2..11),
            (" 'it''s'", "it's", 1..8),
            (" web-1  # the first", "web-1", 1..6),
            (" a#b", "a#b", 1..4),
        ] {
            assert_eq!(find_scalar(rest), Some(Found { span, value: value.to_string() }), "{rest}");
        }
    }

    #[test]
    fn what_is_no_scalar_on_one_line_is_not_found() {
        for rest in ["", " # none", " |", " >-", " &a web", " {a: b}", " [a]", " \"open", " 'a' b", " a: b"] {
            assert_eq!(find_scalar(rest), None, "{rest}");
        }
    }

    proptest::proptest! {
        #[test]
        fn finding_never_panics_and_spans_are_in_the_text(rest in "\\PC{0,40}") {
            if let Some(found) = find_scalar(&rest) {
                assert!(rest.get(found.span).is_some());
            }
        }

        #[test]
        fn what_is_written_is_found_again(text in "[ -~a-zäöü]{0,30}") {
            let written = scalar(&text);
            let found = find_scalar(&written).unwrap();
            assert_eq!((found.value, found.span), (text, 0..written.len()));
        }
    }
}
