//! The hidden `__probe`: what `kld doctor` asks this family.

use kld_core::Probe;
use kld_core::config::Config;

use crate::hook::hook;
use crate::host::{STORES, libvirt};

/// What serves machines on this host.
pub fn probes(config: &Config) -> Vec<Probe> {
    let absent = |subject: &str, error: kld_core::Error| {
        Probe::absent(subject, error.to_string(), error.hint().unwrap_or("mend the configuration"))
    };
    let mut probes = match libvirt(config) {
        Ok(libvirt) => libvirt.probes(),
        Err(error) => vec![absent("libvirt", error)],
    };
    probes.extend(STORES.iter().map(|(name, make)| match make(config) {
        Ok(store) => store.probe(),
        Err(error) => absent(&format!("store {name}"), error),
    }));
    if kld_zfs::pool::module_is_loaded() {
        probes.push(hook(config).map_or_else(|error| absent("libvirt hook", error), |hook| hook.probe()));
    }
    probes
}
