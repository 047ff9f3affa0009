//! Checking that a line is an SSH public key.

use kld_core::{Error, Result};

/// Key types that current OpenSSH accepts for users.
const TYPES: [&str; 7] = [
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// The key without space around it, if it is `TYPE BASE64 [COMMENT]` on one line. An error never quotes it: it
/// could be the private half.
pub(super) fn check_key(text: &str) -> Result<&str> {
    let hint = "give a line such as 'ssh-ed25519 AAAA... name', as it stands in ~/.ssh/id_ed25519.pub";
    let bad = |cause: &str| Error::usage(format!("the SSH key is not usable: {cause}")).with_hint(hint);
    let key = text.trim();
    if key.contains("PRIVATE KEY") {
        return Err(bad("it is a private key"));
    }
    if key.chars().any(|c| c.is_control() && c != '\t') {
        return Err(bad("it is more than one line"));
    }
    let mut words = key.split_ascii_whitespace();
    let kind = words.next().unwrap_or_default();
    if !TYPES.contains(&kind) {
        return Err(bad("it does not begin with a known key type")
            .with_hint(format!("give the line of a .pub file; the types are {}", TYPES.join(", "))));
    }
    let blob = words.next().and_then(decode).ok_or_else(|| bad("its second word is not base64"))?;
    // RFC 4253, section 6.6: the blob begins with the length and name of the type.
    let named = blob.split_first_chunk().is_some_and(|(length, rest)| {
        u32::from_be_bytes(*length) as usize == kind.len() && rest.starts_with(kind.as_bytes())
    });
    if named && blob.len() > 4 + kind.len() {
        Ok(key)
    } else {
        Err(bad("it is cut off, or of another type than it says"))
    }
}

/// RFC 4648, section 4.
fn decode(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    if !text.len().is_multiple_of(4) || text.len() - digits.len() > 2 || digits.is_empty() {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for digit in digits.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8d+Yh0N0zv0Wq1rM9mJqj2cQ4m5mZ0l4Wf3o1l0kQx anna@laptop";

    #[test]
    fn a_public_key_is_taken_without_its_newline() {
        assert_eq!(check_key(&format!("{KEY}\n")).unwrap(), KEY);
        assert!(check_key(KEY.trim_end_matches(" anna@laptop")).is_ok());
    }

    #[test]
    fn what_is_no_public_key_is_refused_and_never_quoted() {
        let two = format!("{KEY}\n{KEY}");
        let cut = KEY.replace("lZDI1NTE5AAAA", "").replace(" anna@laptop", "");
        let other = KEY.replace("ssh-ed25519", "ssh-rsa");
        let texts = [
            "-----BEGIN OPENSSH PRIVATE KEY-----\nabc",
            &two,
            "",
            "secret",
            "ssh-dss AAAA",
            "ssh-rsa",
            "ssh-rsa A%==",
            &cut,
            &other,
        ];
        let all: Vec<String> = texts.iter().map(|text| check_key(text).unwrap_err().to_string()).collect();
        insta::assert_snapshot!(all.join("\n"), @"
        the SSH key is not usable: it is a private key
        the SSH key is not usable: it is more than one line
        the SSH key is not usable: it does not begin with a known key type
        the SSH key is not usable: it does not begin with a known key type
        the SSH key is not usable: it does not begin with a known key type
        the SSH key is not usable: its second word is not base64
        the SSH key is not usable: its second word is not base64
        the SSH key is not usable: its second word is not base64
        the SSH key is not usable: it is cut off, or of another type than it says
        ");
        insta::assert_snapshot!(check_key("secret").unwrap_err().hint().unwrap(), @"give the line of a .pub file; the types are ssh-ed25519, ssh-rsa, ecdsa-sha2-nistp256, ecdsa-sha2-nistp384, ecdsa-sha2-nistp521, sk-ssh-ed25519@openssh.com, sk-ecdsa-sha2-nistp256@openssh.com");
    }

    #[test]
    fn base64_is_decoded_as_rfc_4648_says() {
        assert_eq!(decode("Zm9vYg=="), Some(b"foob".to_vec()));
        assert_eq!(decode("Zm9vYmE="), Some(b"fooba".to_vec()));
        assert_eq!(decode("Zm9vYmFy"), Some(b"foobar".to_vec()));
        for text in ["", "Zm9", "====", "Zm9vY===", "Zm 9"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn checking_never_panics(text in "(ssh-rsa )?[A-Za-z0-9+/=]{0,40}\\PC{0,10}") {
            let _ = check_key(&text);
        }
    }
}
