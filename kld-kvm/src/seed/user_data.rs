//! The seed's user-data: what the guest is told to do at its first boot.

use kld_core::{ByteSize, Error, Result};

/// The most that user-data may hold.
pub const LARGEST_USER_DATA: ByteSize = ByteSize::mib(1);

/// User-data in one of the forms that cloud-init knows.
///
/// It may hold password hashes and tokens, so it has no `Debug`, and no error quotes it.
///
/// ```
/// use kld_kvm::seed::UserData;
/// assert!(UserData::parse("#!/bin/sh\necho hello\n").is_ok());
/// assert!(UserData::parse("packages: [vim]\n").is_err());
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct UserData(String);

/// The forms of user-data, as cloud-init tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Mime,
    CloudConfig,
    Jinja,
    /// Any other first line that cloud-init knows.
    Other,
}

/// How each form begins, what it is called in a MIME message, and what it is. Longer beginnings stand before
/// shorter ones. Source: `INCLUSION_TYPES_MAP` in cloud-init's `handlers/__init__.py`.
const BEGINNINGS: [(&str, &str, Form); 9] = [
    ("#cloud-config-archive", "text/cloud-config-archive", Form::Other),
    ("#cloud-config-jsonp", "text/cloud-config-jsonp", Form::Other),
    ("#cloud-config", "text/cloud-config", Form::CloudConfig),
    ("#cloud-boothook", "text/cloud-boothook", Form::Other),
    ("#include-once", "text/x-include-once-url", Form::Other),
    ("#include", "text/x-include-url", Form::Other),
    ("#part-handler", "text/part-handler", Form::Other),
    ("#!", "text/x-shellscript", Form::Other),
    ("## template: jinja", "text/jinja2", Form::Jinja),
];

impl UserData {
    /// Checks the text's size and how it begins; what it says is cloud-init's to judge.
    pub fn parse(text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        if text.len() as u64 > LARGEST_USER_DATA.bytes() {
            let size = text.len();
            return Err(Error::usage(format!(
                "the user-data has {size} bytes, and {LARGEST_USER_DATA} is the limit"
            ))
            .with_hint("let it fetch the larger part: '#include' with a URL in the next line"));
        }
        if text.contains('\0') {
            return Err(Error::usage("the user-data is not text: it holds a NUL byte")
                .with_hint("unpack it first, if it is compressed"));
        }
        if form(&text).is_none() {
            return Err(Error::usage("the user-data does not begin as cloud-init's does").with_hint(
                "its first line is '#cloud-config', a script's '#!/bin/sh', '#include', or a MIME header",
            ));
        }
        Ok(UserData(text))
    }

    /// User-data that asks for nothing.
    pub fn empty() -> Self {
        // With nothing below the first line, cloud-init would log an error.
        UserData("#cloud-config\n{}\n".to_string())
    }

    /// The text, as the file `user-data` holds it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What the text is, and its MIME type; `None` for what cloud-init would not know.
pub(super) fn form(text: &str) -> Option<(Form, &'static str)> {
    let head = text.get(..4096).unwrap_or(text).to_ascii_lowercase();
    if head.contains("mime-version:") {
        let header = head.starts_with("content-type:") || head.starts_with("mime-version:");
        return header.then_some((Form::Mime, "multipart/mixed"));
    }
    let head = head.trim_start();
    BEGINNINGS.iter().find(|(start, ..)| head.starts_with(start)).map(|(_, mime, form)| (*form, *mime))
}

/// True for a cloud-config, or a template that makes one.
pub(super) fn is_cloud_config(text: &str) -> bool {
    match form(text) {
        Some((Form::CloudConfig, _)) => true,
        Some((Form::Jinja, _)) => {
            let below = text.trim_start().split_once('\n').map_or("", |(_, below)| below);
            matches!(form(below), Some((Form::CloudConfig, _)))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_that_cloud_init_knows_is_told_by_its_beginning() {
        for (text, mime) in [
            ("#cloud-config\n", "text/cloud-config"),
            ("\n#Cloud-Config\r\n", "text/cloud-config"),
            ("#cloud-config-archive\n", "text/cloud-config-archive"),
            ("#!/bin/sh\n", "text/x-shellscript"),
            ("#include\nhttp://a\n", "text/x-include-url"),
            ("#include-once\n", "text/x-include-once-url"),
            ("## template: jinja\n#cloud-config\n", "text/jinja2"),
            ("Content-Type: multipart/mixed; boundary=\"a\"\nMIME-Version: 1.0\n\n", "multipart/mixed"),
        ] {
            assert_eq!(form(text).map(|(_, mime)| mime), Some(mime), "{text}");
            assert!(UserData::parse(text).is_ok());
        }
        assert!(UserData::parse(UserData::empty().as_str()).is_ok());
    }

    #[test]
    fn what_is_no_user_data_is_refused_with_a_hint() {
        let refusal = |text: &str| {
            let error = UserData::parse(text).err().unwrap();
            assert_eq!(error.exit(), kld_core::Exit::Usage);
            format!("{error}\n  hint: {}", error.hint().unwrap_or("-"))
        };
        let all = ["packages: [vim]\n", "", "#!/bin/sh\n\0"].map(refusal).join("\n");
        insta::assert_snapshot!(all, @"
        the user-data does not begin as cloud-init's does
          hint: its first line is '#cloud-config', a script's '#!/bin/sh', '#include', or a MIME header
        the user-data does not begin as cloud-init's does
          hint: its first line is '#cloud-config', a script's '#!/bin/sh', '#include', or a MIME header
        the user-data is not text: it holds a NUL byte
          hint: unpack it first, if it is compressed
        ");
        insta::assert_snapshot!(refusal(&format!("#!/bin/sh\n{}", "#".repeat(1 << 20))), @"
        the user-data has 1048586 bytes, and 1 MiB is the limit
          hint: let it fetch the larger part: '#include' with a URL in the next line
        ");
    }
}
