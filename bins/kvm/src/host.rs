//! Which hypervisor and which volume store serve the tools, by the configuration and by what the host has.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kld_core::config::Config;
use kld_core::hypervisor::Hypervisor;
use kld_core::store::VolumeStore;
use kld_core::tool::Context;
use kld_core::{Error, Result};
use kld_kvm::libvirt::Libvirt;
use kld_kvm::machine::Machines;
use kld_kvm::store::DirStore;
use kld_zfs::{DatasetName, ZvolStore};

/// How a backend is made.
type Make<T> = fn(&Config) -> Result<Arc<T>>;
/// A backend's name and how it is made.
type Factory<T> = (&'static str, Make<T>);

/// Every hypervisor.
const HYPERVISORS: &[Factory<dyn Hypervisor>] = &[("libvirt", |config| Ok(Arc::new(libvirt(config)?)))];

/// Every volume store, the preferred one first.
pub const STORES: &[Factory<dyn VolumeStore>] = &[
    ("zfs", |config| Ok(Arc::new(zfs(config)?))),
    ("dir", |config| Ok(Arc::new(DirStore::new(absolute(config, "store-root")?)))),
];

/// The ZFS store under the dataset that is configured, or else under the one that the host has.
fn zfs(config: &Config) -> Result<ZvolStore> {
    let root = match config.get("zfs-root") {
        "" => ZvolStore::found_root().ok_or_else(|| {
            Error::message("no pool that is imported here has a dataset 'kld' for the ZFS store")
                .with_hint("make one (zfs create POOL/kld), or set zfs-root to the dataset to use")
        })?,
        name => DatasetName::parse(name)?,
    };
    Ok(ZvolStore::new(root, absolute(config, "state-dir")?.join("zfs")))
}

/// The store that is named, or else the directory store; the ZFS store where its dataset is named. It is not chosen
/// by what the host has as long as it has not been through all that the directory store has.
fn store(config: &Config) -> Result<Arc<dyn VolumeStore>> {
    match config.get("store") {
        "" if config.get("zfs-root").is_empty() => by_name("store", "dir", STORES)?(config),
        "" => by_name("store", "zfs", STORES)?(config),
        name => by_name("store", name, STORES)?(config),
    }
}

/// libvirt, as the configuration has it.
pub fn libvirt(config: &Config) -> Result<Libvirt> {
    let seconds = config.get("libvirt-timeout");
    let seconds = seconds.parse().ok().filter(|seconds| (1..=3600).contains(seconds)).ok_or_else(|| {
        Error::usage(format!("libvirt-timeout is '{}'", seconds.escape_debug()))
            .with_hint("write seconds, 1 to 3600")
    })?;
    Ok(Libvirt::new(config.get("libvirt-uri"), Duration::from_secs(seconds), &absolute(config, "state-dir")?))
}

/// The machines of this host.
pub fn machines(context: &Context) -> Result<Machines> {
    let config = &context.config;
    let hypervisor = by_name("hypervisor", config.get("hypervisor"), HYPERVISORS)?(config)?;
    let store = store(config)?;
    let ui = context.ui;
    let machines = Machines::new(hypervisor, store, absolute(config, "state-dir")?, context.tool);
    Ok(machines.on_recovery(move |recovered| ui.note(recovered)))
}

fn by_name<T: ?Sized>(what: &str, name: &str, table: &[Factory<T>]) -> Result<Make<T>> {
    let names = || table.iter().map(|(name, _)| *name);
    table.iter().find(|(known, _)| *known == name).map(|(_, make)| *make).ok_or_else(|| {
        Error::usage(format!("there is no {what} '{}'", name.escape_debug()))
            .with_hint(format!("known here: {}", names().collect::<Vec<_>>().join(", ")))
    })
}

/// A setting that is an absolute path.
pub fn absolute(config: &Config, name: &str) -> Result<PathBuf> {
    let path = Path::new(config.get(name));
    match path.is_absolute() {
        true => Ok(path.to_path_buf()),
        false => Err(Error::usage(format!("{name} is '{}', which is not an absolute path", path.display()))),
    }
}
