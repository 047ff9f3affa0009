//! `kvm-create`: a machine, empty or from an image.

use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use kld_core::store::VolumeFormat;
use kld_core::tool::{Context, Tool};
use kld_core::{ByteSize, Error, MachineName, Result};
use kld_kvm::image;
use kld_kvm::machine::{CreateRequest, DiskRequest, FirmwareRequest, NetworkRequest};
use kld_kvm::seed::CloudInit;

use crate::args::{dry_run, flag, name, name_arg, show_plan, store, with_store};
use crate::host::machines;

/// The largest user-data file: cloud-init's own limit on most clouds is far below.
const LARGEST_USER_DATA: u64 = 1 << 20;

pub const TOOL: Tool = Tool { name: "kvm-create", about: kld_catalog::about("kvm-create"), command, run };

fn command() -> Command {
    let option = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    let path = |name: &'static str, help: &'static str| {
        option(name, "FILE", help).value_parser(value_parser!(PathBuf))
    };
    Command::new("kvm-create")
        .args([
            name_arg("name", "The new machine").value_name("NAME"),
            option("cpus", "N", "Virtual processors").value_parser(value_parser!(u32).range(1..=4096)).default_value("1"),
            option("memory", "SIZE", "Memory; a bare number is in MiB").default_value("1G"),
            option("disk", "SIZE", "A disk of this size, such as 20G; may be given several times. With --from, the first is the size that the image is grown to").action(ArgAction::Append),
            path("from", "Start from this disk image (qcow2 or raw), which is copied"),
            option("from-format", "FORMAT", "The image's format, where it cannot be told: a raw image is never guessed").value_parser(["qcow2", "raw"]),
            path("iso", "Installation medium, booted first"),
            option("network", "NAME", "Virtual network; 'none' for none, 'user' for user-mode networking").conflicts_with("bridge"),
            option("bridge", "NAME", "Bridge of the host"),
            option("os", "ID", "Operating system as osinfo names it, such as debian13; recorded for other tools"),
            flag("uefi", "Boot with UEFI"),
            flag("secure-boot", "Boot with UEFI and Secure Boot"),
            flag("cloud-init", "Add a NoCloud seed; implied by the options below").help_heading("cloud-init"),
            option("user", "NAME", "User with sudo").help_heading("cloud-init"),
            option("ssh-key", "KEY|FILE", "SSH public key of that user, or a file of them; may be given several times").action(ArgAction::Append).help_heading("cloud-init"),
            option("package", "NAME", "Package to install at the first boot; may be given several times").action(ArgAction::Append).help_heading("cloud-init"),
            option("hostname", "NAME", "Host name, where it is not the machine's name").help_heading("cloud-init"),
            path("user-data", "A user-data file of your own").help_heading("cloud-init"),
            flag("start", "Start it"),
            dry_run(),
            store(),
        ])
        .after_help(
            "Examples:\n  kvm-create template --from debian-13-generic-amd64.qcow2 --memory 2G --cpus 2 --user admin --ssh-key ~/.ssh/id_ed25519.pub\n  \
             kvm-create installer --disk 20G --iso debian-13-netinst.iso --uefi\n  \
             kvm-create db --disk 20G --disk 200G --bridge br0 --start",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let context = &with_store(context, matches)?;
    let request = request(context, matches)?;
    let machines = machines(context)?;
    if matches.get_flag("dry-run") {
        return show_plan(context, &machines.plan_create(&request)?);
    }
    let progress = context.ui.progress(format!("creating {}", request.name));
    let created = machines.create(&request)?;
    drop(progress);
    created.notes.iter().for_each(|note| context.ui.note(note));
    match context.ui.json {
        true => context.ui.json(&serde_json::json!({"version": 1, "create": created}))?,
        false => context.ui.line(format!("{} created", created.name))?,
    }
    if matches.get_flag("start") {
        machines.start(&created.name)?;
    }
    Ok(())
}

fn request(context: &Context, matches: &ArgMatches) -> Result<CreateRequest> {
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    let memory = ByteSize::parse_with_unit(text("memory").unwrap_or_default(), "M")?;
    if memory < ByteSize::mib(1) {
        return Err(Error::usage(format!("{memory} of memory is too little"))
            .with_hint("write a size such as 512M or 4G"));
    }
    let firmware = match (matches.get_flag("secure-boot"), matches.get_flag("uefi")) {
        (true, _) => FirmwareRequest::SecureBoot,
        (false, true) => FirmwareRequest::Uefi,
        (false, false) => FirmwareRequest::Bios,
    };
    let network = match (text("bridge"), text("network").unwrap_or(context.config.get("network"))) {
        (Some(bridge), _) => NetworkRequest::Bridge(plain("a bridge", bridge)?),
        (None, "none") => NetworkRequest::None,
        (None, "user") => NetworkRequest::User,
        (None, network) => NetworkRequest::Network(plain("a network", network)?),
    };
    let name = name(matches, "name")?;
    Ok(CreateRequest {
        cpus: matches.get_one("cpus").copied().unwrap_or(1),
        memory,
        disks: disks(matches)?,
        iso: matches.get_one::<PathBuf>("iso").map(|iso| absolute(iso)).transpose()?,
        network,
        os: text("os").map(|os| plain("an operating system", os)).transpose()?,
        firmware,
        cloud_init: cloud_init(matches, &name)?,
        name,
    })
}

fn disks(matches: &ArgMatches) -> Result<Vec<DiskRequest>> {
    let sizes = matches.get_many::<String>("disk").into_iter().flatten();
    let mut disks = Vec::new();
    for size in sizes {
        let size = ByteSize::parse_with_unit(size, "G")?;
        disks.push(DiskRequest { size: Some(size), image: None });
    }
    if let Some(path) = matches.get_one::<PathBuf>("from") {
        let path = absolute(path)?;
        let format = match matches.get_one::<String>("from-format").map(String::as_str) {
            Some("raw") => VolumeFormat::Raw,
            Some(_) => VolumeFormat::Qcow2,
            None => guess(&path)?,
        };
        if disks.is_empty() {
            disks.push(DiskRequest::default());
        }
        disks[0].image = Some((path, format));
    }
    if disks.len() > 26 {
        return Err(
            Error::usage(format!("{} disks are too many", disks.len())).with_hint("a machine has at most 26")
        );
    }
    Ok(disks)
}

/// The format of an image by what is in it: qcow2, or raw where its name says so.
fn guess(path: &Path) -> Result<VolumeFormat> {
    let says_raw = path.extension().is_some_and(|extension| extension == "raw" || extension == "img");
    match image::inspect(path) {
        Ok(_) => Ok(VolumeFormat::Qcow2),
        Err(image::ImageError::Unknown { .. }) if says_raw => Ok(VolumeFormat::Raw),
        Err(error @ image::ImageError::Unknown { .. }) => {
            Err(Error::from(error).with_hint("add --from-format raw if it is a raw disk"))
        }
        Err(error) => Err(error.into()),
    }
}

fn cloud_init(matches: &ArgMatches, name: &MachineName) -> Result<Option<CloudInit>> {
    let texts = |name: &str| matches.get_many::<String>(name).into_iter().flatten().cloned();
    let user = matches.get_one::<String>("user").cloned();
    let hostname = matches.get_one::<String>("hostname").map(|name| MachineName::parse(name)).transpose()?;
    let packages: Vec<String> = texts("package").collect();
    let keys: Vec<String> = texts("ssh-key").map(|key| read_keys(&key)).collect::<Result<Vec<_>>>()?.concat();
    let user_data_file = match matches.get_one::<PathBuf>("user-data") {
        Some(path) => Some(kld_core::fsio::read_text(path, LARGEST_USER_DATA)?.ok_or_else(|| missing(path))?),
        None => None,
    };
    let asked =
        matches.get_flag("cloud-init") || user.is_some() || hostname.is_some() || user_data_file.is_some();
    let any = asked || !packages.is_empty() || !keys.is_empty();
    Ok(any.then(|| CloudInit {
        user,
        ssh_keys: keys,
        packages,
        hostname: hostname.unwrap_or_else(|| name.clone()),
        user_data_file,
    }))
}

/// A key as it is, or the keys in a file of them.
fn read_keys(word: &str) -> Result<Vec<String>> {
    if word.contains(' ') {
        return Ok(vec![word.to_string()]);
    }
    let path = Path::new(word);
    let text = kld_core::fsio::read_text(path, LARGEST_USER_DATA)?.ok_or_else(|| missing(path))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines.map(str::to_string).collect())
}

fn missing(path: &Path) -> Error {
    Error::usage(format!("there is no file {}", path.display().to_string().escape_debug()))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|cause| Error::failed(format!("cannot use {}", path.display()), cause))
}

/// A name that goes into a definition: one word of ordinary letters.
fn plain(what: &str, text: &str) -> Result<String> {
    let fine = !text.is_empty()
        && text.len() <= 63
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-:".contains(c));
    match fine {
        true => Ok(text.to_string()),
        false => Err(Error::usage(format!("'{}' is not the name of {what}", text.escape_debug()))
            .with_hint("use letters, digits, '.', '_' and '-'")),
    }
}
