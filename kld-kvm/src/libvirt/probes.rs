//! What serves on this host.

use kld_core::{Probe, Result};
use virt::error::ErrorNumber;
use virt::network::Network;

use super::{Libvirt, check_text, tell};

const NETWORK: &str = "default";

pub(super) fn all(libvirt: &Libvirt) -> Vec<Probe> {
    let daemon = daemon(libvirt);
    if daemon.remedy.is_some() {
        return vec![daemon]; // The others would say the same.
    }
    vec![daemon, hardware(libvirt), default_network(libvirt)]
}

/// Whether the daemon answers, and its version and the emulator's.
pub(super) fn daemon(libvirt: &Libvirt) -> Probe {
    let subject = format!("libvirt at {}", libvirt.uri);
    let versions = libvirt.call(libvirt.timeout, |connect| {
        let daemon =
            connect.get_lib_version().map_err(|error| tell::failure("cannot ask for the version", &error))?;
        // Unknown where no emulator is installed.
        Ok((daemon, connect.get_hyp_version().ok().filter(|version| *version > 0)))
    });
    match versions {
        Ok((daemon, Some(emulator))) => Probe::serves(
            subject,
            format!("libvirt {} answers, with QEMU {}", dotted(daemon), dotted(emulator)),
        ),
        Ok((daemon, None)) => Probe::limited(
            subject,
            format!("libvirt {} answers, but finds no emulator", dotted(daemon)),
            "install QEMU: `apt install qemu-system-x86`",
        ),
        Err(error) => Probe::absent(subject, error.to_string(), error.hint().unwrap_or(tell::IS_IT_RUNNING)),
    }
}

fn hardware(libvirt: &Libvirt) -> Probe {
    let subject = "hardware virtualisation";
    match libvirt.kvm() {
        Ok(kvm) => match &kvm.remedy {
            None => Probe::serves(subject, &kvm.finding),
            Some(remedy) => Probe::limited(subject, &kvm.finding, remedy),
        },
        Err(error) => Probe::absent(subject, error.to_string(), error.hint().unwrap_or(tell::IS_IT_RUNNING)),
    }
}

fn default_network(libvirt: &Libvirt) -> Probe {
    let subject = format!("network {NETWORK}");
    match network(libvirt, NETWORK) {
        Ok(Some(true)) => Probe::serves(subject, "the network is up"),
        Ok(Some(false)) => Probe::limited(
            subject,
            "the network is defined but not up",
            format!("`virsh net-start {NETWORK}`; `virsh net-autostart {NETWORK}` for every boot"),
        ),
        Ok(None) => Probe::limited(
            subject,
            "libvirt has no network of this name",
            "install libvirt-daemon-config-network, or give machines a bridge (--bridge)",
        ),
        Err(error) => Probe::limited(
            subject,
            error.to_string(),
            error.hint().unwrap_or("is virtnetworkd running? see `systemctl status virtnetworkd.socket`"),
        ),
    }
}

/// Whether a network is up; `None` where there is none, or no libvirt networks at all.
pub(super) fn network(libvirt: &Libvirt, name: &str) -> Result<Option<bool>> {
    check_text("the network's name", name)?;
    let name = name.to_string();
    libvirt.call(libvirt.timeout, move |connect| {
        let found = Network::lookup_by_name(connect, &name).and_then(|network| network.is_active());
        match found {
            Ok(up) => Ok(Some(up)),
            Err(error) if matches!(error.code(), ErrorNumber::NoNetwork | ErrorNumber::NoSupport) => Ok(None),
            Err(error) => Err(tell::failure(format!("cannot look up the network {name}"), &error)),
        }
    })
}

/// libvirt's number of a version: 11003000 is 11.3.0.
fn dotted(version: u32) -> String {
    format!("{}.{}.{}", version / 1_000_000, version / 1000 % 1000, version % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_written_with_dots() {
        assert_eq!(dotted(11_003_000), "11.3.0");
        assert_eq!(dotted(10_000_013), "10.0.13");
    }
}
