//! From the options of a command line to a seed.

use kld_core::{Error, MachineName, Result};

use super::mime::{self, NewPart};
use super::ssh::check_key;
use super::user_data::{Form, form};
use super::yaml::scalar;
use super::{MetaData, Seed, UserData};

/// What a person asks of a machine's first boot.
///
/// A user-data file may be given together with the other options: the two are joined as a MIME message, in which
/// the file stays as it is, byte for byte. So a setup script can be had together with a key, and kld need not
/// understand the file. Lists of the file and of the options add up; where both set one value, the options win.
///
/// ```
/// use kld_core::MachineName;
/// use kld_kvm::seed::CloudInit;
/// let mut options = CloudInit::new(MachineName::parse("web-1").unwrap());
/// options.user = Some("anna".into());
/// options.packages = vec!["qemu-guest-agent".into()];
/// let seed = options.seed().unwrap();
/// assert!(seed.user_data.as_str().starts_with("#cloud-config\nuser:\n  name: anna\n"));
/// ```
#[derive(Clone)]
pub struct CloudInit {
    /// The guest's host name. It is told by the meta-data alone, so that a clone's user-data need not change.
    pub hostname: MachineName,
    /// The name of the user that people log in as, instead of the distribution's own (`debian`, `ubuntu`...); with
    /// the same groups and rights.
    pub user: Option<String>,
    /// Lines of an `authorized_keys` file for that user.
    pub ssh_keys: Vec<String>,
    /// Packages to install.
    pub packages: Vec<String>,
    /// The text of a user-data file.
    pub user_data_file: Option<String>,
}

impl CloudInit {
    /// A host name and nothing else.
    pub fn new(hostname: MachineName) -> Self {
        CloudInit { hostname, user: None, ssh_keys: Vec::new(), packages: Vec::new(), user_data_file: None }
    }

    /// The seed that says so; each option is checked first.
    pub fn seed(&self) -> Result<Seed> {
        let user_data = self.user_data()?;
        Ok(Seed { meta: MetaData::new(self.hostname.clone()), user_data, network_config: None })
    }

    /// The user-data alone.
    pub fn user_data(&self) -> Result<UserData> {
        let config = self.config()?;
        let Some(file) = &self.user_data_file else {
            return config.map_or_else(|| Ok(UserData::empty()), UserData::parse);
        };
        let file = UserData::parse(file.as_str())?;
        match config {
            None => Ok(file),
            Some(config) => join(&config, file.as_str()),
        }
    }

    /// The options as a cloud-config; `None` where there are none.
    fn config(&self) -> Result<Option<String>> {
        let mut lines = vec!["#cloud-config".to_string()];
        if let Some(user) = &self.user {
            check_user(user)?;
            lines.push(format!("user:\n  name: {}", scalar(user)));
        }
        let keys = self.ssh_keys.iter().map(|key| check_key(key).map(scalar)).collect::<Result<Vec<_>>>()?;
        push_list(&mut lines, "ssh_authorized_keys:", keys);
        self.packages.iter().try_for_each(|package| check_package(package))?;
        push_list(
            &mut lines,
            "package_update: true\npackages:",
            self.packages.iter().map(|package| scalar(package)).collect(),
        );
        Ok((lines.len() > 1).then(|| lines.join("\n") + "\n"))
    }
}

fn push_list(lines: &mut Vec<String>, key: &str, items: Vec<String>) {
    if !items.is_empty() {
        lines.push(key.to_string());
        lines.extend(items.into_iter().map(|item| format!("  - {item}")));
    }
}

/// The options stand first, so that the file's own way of merging applies to it, and otherwise ours.
fn join(config: &str, file: &str) -> Result<UserData> {
    let (form, content_type) = form(file).unwrap_or((Form::Other, "text/plain"));
    if form == Form::Mime {
        return Err(Error::usage(
            "a user-data file in MIME form cannot be joined with other cloud-init options",
        )
        .with_hint("add what the options say to the file, as a part of the type text/cloud-config"));
    }
    let headers = match form {
        Form::CloudConfig | Form::Jinja => "Merge-Type: list(append)+dict(no_replace,recurse_list)+str()\n",
        _ => "",
    };
    UserData::parse(mime::join(&[
        NewPart { content_type: "text/cloud-config", headers: "", body: config },
        NewPart { content_type, headers, body: file },
    ]))
}

/// What useradd takes without being told to be lax.
fn check_user(user: &str) -> Result<()> {
    let good = (1..=32).contains(&user.len())
        && user.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && user.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-'));
    let shown = || user.chars().take(40).collect::<String>().escape_debug().to_string();
    if !good {
        return Err(Error::usage(format!("'{}' is not a user name", shown())).with_hint(
            "use lower-case letters, digits, '_' and '-', starting with a letter or '_', at most 32",
        ));
    }
    if user == "root" {
        return Err(Error::usage("cloud-init's user cannot be root: it lets nobody log in as root")
            .with_hint(
                "name another user, who may use sudo, or set 'disable_root: false' in a user-data file",
            ));
    }
    Ok(())
}

/// Names as apt, dnf and zypper know them, with a version or an architecture.
fn check_package(package: &str) -> Result<()> {
    let good = package.len() <= 128
        && package.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !package.ends_with('-')
        && package.chars().all(|c| c.is_ascii_alphanumeric() || "+-._=:~".contains(c));
    if good {
        return Ok(());
    }
    let shown = package.chars().take(40).collect::<String>().escape_debug().to_string();
    Err(Error::usage(format!("'{shown}' is not a package name")).with_hint(
        "write one name a package, such as qemu-guest-agent or g++, with a version as nginx=1.22.1-9",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8d+Yh0N0zv0Wq1rM9mJqj2cQ4m5mZ0l4Wf3o1l0kQx anna@laptop";

    fn options() -> CloudInit {
        CloudInit::new(MachineName::parse("web-1").unwrap())
    }

    fn text(options: &CloudInit) -> String {
        options.user_data().map_err(|error| error.to_string()).ok().unwrap().as_str().to_string()
    }

    fn refusal(options: CloudInit) -> String {
        let error = options.user_data().err().unwrap();
        assert_eq!(error.exit(), kld_core::Exit::Usage);
        format!("{error}\n  hint: {}", error.hint().unwrap_or("-"))
    }

    #[test]
    fn options_become_a_cloud_config_that_people_can_read() {
        let all = CloudInit {
            user: Some("anna".into()),
            ssh_keys: vec![format!("{KEY}\n")],
            packages: vec!["qemu-guest-agent".into(), "g++".into()],
            ..options()
        };
        insta::assert_snapshot!(text(&all), @r#"
        #cloud-config
        user:
          name: anna
        ssh_authorized_keys:
          - "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8d+Yh0N0zv0Wq1rM9mJqj2cQ4m5mZ0l4Wf3o1l0kQx anna@laptop"
        package_update: true
        packages:
          - qemu-guest-agent
          - "g++"
        "#);
    }

    #[test]
    fn without_options_the_guest_is_asked_for_nothing() {
        assert_eq!(text(&options()), "#cloud-config\n{}\n");
    }

    #[test]
    fn a_user_data_file_alone_is_kept_byte_for_byte() {
        let file = "#cloud-config\r\npackages: [ü]\n\n";
        assert_eq!(text(&CloudInit { user_data_file: Some(file.into()), ..options() }), file);
    }

    #[test]
    fn a_user_data_file_and_options_are_joined_as_a_mime_message() {
        let script = "#!/bin/sh\necho hello > /etc/motd\n";
        let both = CloudInit { user: Some("anna".into()), user_data_file: Some(script.into()), ..options() };
        insta::assert_snapshot!(text(&both), @r#"
        Content-Type: multipart/mixed; boundary="kld-part-1"
        MIME-Version: 1.0

        --kld-part-1
        Content-Type: text/cloud-config; charset="utf-8"
        Content-Transfer-Encoding: 7bit

        #cloud-config
        user:
          name: anna

        --kld-part-1
        Content-Type: text/x-shellscript; charset="utf-8"
        Content-Transfer-Encoding: 7bit

        #!/bin/sh
        echo hello > /etc/motd

        --kld-part-1--
        "#);
        let config = CloudInit { user_data_file: Some("#cloud-config\nruncmd: []\n".into()), ..both };
        assert!(text(&config).contains("\nMerge-Type: list(append)"));
    }

    #[test]
    fn each_bad_option_is_refused_with_its_reason_and_a_hint() {
        let user = |name: &str| refusal(CloudInit { user: Some(name.into()), ..options() });
        let package = |name: &str| refusal(CloudInit { packages: vec![name.into()], ..options() });
        let mime = "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=B\n\n--B--\n".to_string();
        let all = [
            user("Anna"),
            user("-a"),
            user("a\nb"),
            user("root"),
            package("vim; reboot"),
            package("-vim"),
            package("vim-"),
            package(""),
            refusal(CloudInit { ssh_keys: vec!["ssh-rsa x".into()], ..options() }),
            refusal(CloudInit { user_data_file: Some("users: []".into()), ..options() }),
            refusal(CloudInit { user_data_file: Some(mime), packages: vec!["vim".into()], ..options() }),
        ];
        insta::assert_snapshot!(all.join("\n"), @r"
        'Anna' is not a user name
          hint: use lower-case letters, digits, '_' and '-', starting with a letter or '_', at most 32
        '-a' is not a user name
          hint: use lower-case letters, digits, '_' and '-', starting with a letter or '_', at most 32
        'a\nb' is not a user name
          hint: use lower-case letters, digits, '_' and '-', starting with a letter or '_', at most 32
        cloud-init's user cannot be root: it lets nobody log in as root
          hint: name another user, who may use sudo, or set 'disable_root: false' in a user-data file
        'vim; reboot' is not a package name
          hint: write one name a package, such as qemu-guest-agent or g++, with a version as nginx=1.22.1-9
        '-vim' is not a package name
          hint: write one name a package, such as qemu-guest-agent or g++, with a version as nginx=1.22.1-9
        'vim-' is not a package name
          hint: write one name a package, such as qemu-guest-agent or g++, with a version as nginx=1.22.1-9
        '' is not a package name
          hint: write one name a package, such as qemu-guest-agent or g++, with a version as nginx=1.22.1-9
        the SSH key is not usable: its second word is not base64
          hint: give a line such as 'ssh-ed25519 AAAA... name', as it stands in ~/.ssh/id_ed25519.pub
        the user-data does not begin as cloud-init's does
          hint: its first line is '#cloud-config', a script's '#!/bin/sh', '#include', or a MIME header
        a user-data file in MIME form cannot be joined with other cloud-init options
          hint: add what the options say to the file, as a part of the type text/cloud-config
        ");
    }
}
