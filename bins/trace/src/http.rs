//! The little of HTTP/1.1 (RFC 9112) that a metrics endpoint needs: the head of a request, and an answer to it.

/// No head of a request is longer.
pub const LONGEST: usize = 8 << 10;

/// What is asked, by the bytes that have come so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Head {
    /// The head has not ended yet.
    Partial,
    /// The head is whole.
    Whole(Request),
    /// It is none, or is not served; the answer says which.
    Refused(Status),
}

/// A request that may be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What is asked for, without its query.
    pub path: String,
    /// Whether only the answer's head is wanted.
    pub head_only: bool,
}

/// How a request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// What was asked for follows.
    Ok,
    /// It is no request.
    Bad,
    /// There is no such path.
    NotFound,
    /// Only GET and HEAD are served.
    NotAllowed,
    /// It took too long.
    TimedOut,
    /// Its head is longer than [`LONGEST`].
    TooLarge,
    /// It is of another version.
    Version,
}

impl Status {
    /// Its number and phrase.
    const fn line(self) -> &'static str {
        match self {
            Status::Ok => "200 OK",
            Status::Bad => "400 Bad Request",
            Status::NotFound => "404 Not Found",
            Status::NotAllowed => "405 Method Not Allowed",
            Status::TimedOut => "408 Request Timeout",
            Status::TooLarge => "431 Request Header Fields Too Large",
            Status::Version => "505 HTTP Version Not Supported",
        }
    }
}

/// Reads the head of a request. What stands behind it is not looked at: each connection has one request.
pub fn head(bytes: &[u8]) -> Head {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let head = match end {
        Some(end) if end + 4 <= LONGEST => &bytes[..end],
        None if bytes.len() < LONGEST => return Head::Partial,
        _ => return Head::Refused(Status::TooLarge),
    };
    // A head is visible ASCII, spaces and tabs, in lines that end with both marks.
    let is_text = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
    let mut lines = head.split(|byte| *byte == b'\n').peekable();
    let mut whole = Vec::new();
    while let Some(line) = lines.next() {
        let line = match lines.peek() {
            Some(_) => line.strip_suffix(b"\r"),
            None => Some(line),
        };
        match line.filter(|line| line.iter().all(is_text)).map(String::from_utf8_lossy) {
            Some(line) => whole.push(line),
            None => return Head::Refused(Status::Bad),
        }
    }
    match whole.split_first() {
        Some((first, fields)) => request(first, fields),
        None => Head::Refused(Status::Bad),
    }
}

fn request(line: &str, fields: &[std::borrow::Cow<'_, str>]) -> Head {
    let words: Vec<&str> = line.split(' ').collect();
    let [method, target, version] = words[..] else { return Head::Refused(Status::Bad) };
    let is_token = |word: &str| !word.is_empty() && word.bytes().all(is_token_byte);
    if !is_token(method) || !version.starts_with("HTTP/") {
        return Head::Refused(Status::Bad);
    }
    let names: Option<Vec<&str>> =
        fields.iter().map(|field| Some(field.split_once(':')?.0).filter(|name| is_token(name))).collect();
    let Some(names) = names else { return Head::Refused(Status::Bad) };
    let hosts = names.iter().filter(|name| name.eq_ignore_ascii_case("host")).count();
    match version {
        "HTTP/1.1" if hosts != 1 => return Head::Refused(Status::Bad),
        "HTTP/1.1" | "HTTP/1.0" => {}
        _ => return Head::Refused(Status::Version),
    }
    if !matches!(method, "GET" | "HEAD") {
        return Head::Refused(Status::NotAllowed);
    }
    let path = target.split('?').next().unwrap_or_default();
    match path.starts_with('/') {
        true => Head::Whole(Request { path: path.to_string(), head_only: method == "HEAD" }),
        false => Head::Refused(Status::Bad),
    }
}

/// A byte of a method's or a field's name.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// An answer, after which the connection ends.
pub fn answer(status: Status, kind: &str, body: &str, head_only: bool) -> Vec<u8> {
    let allow = if status == Status::NotAllowed { "Allow: GET, HEAD\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 {}\r\n{allow}Content-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        status.line(),
        body.len()
    );
    [head.as_bytes(), if head_only { b"" } else { body.as_bytes() }].concat()
}

/// The answer to what is not served.
pub fn refusal(status: Status) -> Vec<u8> {
    answer(status, "text/plain; charset=utf-8", &format!("{}\n", status.line()), false)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(path: &str, head_only: bool) -> Head {
        Head::Whole(Request { path: path.into(), head_only })
    }

    #[test]
    fn a_request_has_a_path_and_may_want_the_head_only() {
        for (text, wanted) in [
            ("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", whole("/metrics", false)),
            ("HEAD /metrics?x=1 HTTP/1.1\r\nhost: a\r\nAccept: */*\r\n\r\nmore", whole("/metrics", true)),
            ("GET / HTTP/1.0\r\n\r\n", whole("/", false)),
        ] {
            assert_eq!(head(text.as_bytes()), wanted, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for (text, wanted) in [
            ("\r\n\r\n", Status::Bad),
            ("GET /metrics\r\n\r\n", Status::Bad),
            ("GET  /metrics HTTP/1.1\r\nHost: a\r\n\r\n", Status::Bad),
            ("GET metrics HTTP/1.1\r\nHost: a\r\n\r\n", Status::Bad),
            ("GET /metrics HTTP/1.1\r\n\r\n", Status::Bad),
            ("GET /metrics HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Status::Bad),
            ("GET /metrics HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", Status::Bad),
            ("GET /metrics HTTP/1.1\r\nHost : a\r\n\r\n", Status::Bad),
            ("GET /met\0rics HTTP/1.1\r\nHost: a\r\n\r\n", Status::Bad),
            ("POST /metrics HTTP/1.1\r\nHost: a\r\n\r\n", Status::NotAllowed),
            ("GET /metrics HTTP/2.0\r\nHost: a\r\n\r\n", Status::Version),
        ] {
            assert_eq!(head(text.as_bytes()), Head::Refused(wanted), "{text:?}");
        }
    }

    #[test]
    fn a_head_that_does_not_end_is_too_large_at_last() {
        let long = format!("GET /metrics HTTP/1.1\r\nX: {}", "a".repeat(LONGEST));
        assert_eq!(head(&long.as_bytes()[..LONGEST - 1]), Head::Partial);
        assert_eq!(head(&long.as_bytes()[..LONGEST]), Head::Refused(Status::TooLarge));
        assert_eq!(head(format!("{long}\r\n\r\n").as_bytes()), Head::Refused(Status::TooLarge));
    }

    #[test]
    fn an_answer_says_how_long_it_is_and_ends_the_connection() {
        let text = String::from_utf8(answer(Status::Ok, "text/plain", "a 1\n", false)).unwrap();
        let wanted =
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\nConnection: close\r\n\r\n";
        assert_eq!(text, format!("{wanted}a 1\n"));
        assert_eq!(answer(Status::Ok, "text/plain", "a 1\n", true), wanted.as_bytes());
        assert!(String::from_utf8(refusal(Status::NotAllowed)).unwrap().contains("\r\nAllow: GET, HEAD\r\n"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            head(&bytes);
        }

        #[test]
        fn what_looks_like_a_request_is_served_or_refused_and_served_only_as_it_is(
            text in "(GET|HEAD|PUT)? ?/?[a-z/?%]{0,8} HTTP/[012]\\.[01]\r?\n(Host: a\r\n|[ -~]{0,20}\r\n){0,3}\r\n",
        ) {
            match head(text.as_bytes()) {
                Head::Whole(request) => {
                    let method = if request.head_only { "HEAD " } else { "GET " };
                    prop_assert!(text.starts_with(&format!("{method}{}", request.path)), "{text:?}");
                    prop_assert!(request.path.starts_with('/') && !request.path.contains(' '));
                }
                Head::Partial => prop_assert!(!text.contains("\r\n\r\n")),
                Head::Refused(status) => prop_assert_ne!(status, Status::Ok),
            }
        }

        #[test]
        fn a_head_that_has_not_ended_is_partial(cut in 0_usize..40) {
            let text = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
            prop_assert_eq!(head(&text[..cut.min(text.len() - 1)]), Head::Partial);
        }
    }
}
