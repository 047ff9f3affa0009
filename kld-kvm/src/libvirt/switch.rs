//! Switching disks to overlays that were prepared beside them.

use std::ffi::CString;
use std::path::Path;

use kld_core::hypervisor::Hypervisor;
use kld_core::store::{Consistency, Repoint, VolumeFormat};
use kld_core::{Error, Result};
use uuid::Uuid;
use virt::domain::Domain;
use virt::error::Error as VirtError;
use virt_sys as sys;

use super::{DEED, Libvirt, domains, life, no_machine};
use crate::domain::Definition;
use crate::domain::xml::{Document, Element};
use crate::image;

/// How long the guest's agent may take to freeze its file systems.
const FREEZING: i32 = 20;

/// One moment for all disks: libvirt's external snapshot, of which it keeps no record, on files that are there.
const FLAGS: u32 = sys::VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
    | sys::VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT
    | sys::VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
    | sys::VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC;

/// A domain as it was found.
struct Found {
    name: String,
    /// What runs now; `None` where it is off.
    live: Option<String>,
    /// What the next start uses; `None` for a transient domain.
    next: Option<String>,
}

impl Found {
    fn at(domain: &Domain) -> Result<Self, VirtError> {
        let active = domain.is_active()?;
        let persistent = !active || domain.is_persistent()?;
        Ok(Found {
            name: domain.get_name()?,
            live: if active { Some(domain.get_xml_desc(0)?) } else { None },
            next: if persistent { Some(domain.get_xml_desc(domains::INACTIVE)?) } else { None },
        })
    }
}

pub(super) fn switch(libvirt: &Libvirt, uuid: Uuid, repoints: &[Repoint]) -> Result<Consistency> {
    let find = || libvirt.on(uuid, "look at", libvirt.timeout, Found::at)?.ok_or_else(|| no_machine(uuid));
    let mut found = find()?;
    if found.live.is_none() {
        redefine(libvirt, found.next.as_deref(), repoints)?;
        // Whoever started it before that definition counted runs it on the old files.
        found = find()?;
    }
    let Some(live) = found.live else { return Ok(Consistency::Stopped) };
    let live = Definition::parse(&live)?;
    let Some(request) = request(&live, repoints)? else {
        redefine(libvirt, found.next.as_deref(), repoints)?;
        // An earlier call switched them; whether the guest was frozen then is not known here.
        return Ok(Consistency::CrashConsistent);
    };
    check_backing(&live, repoints)?;
    let gone =
        || Error::failed(format!("cannot switch the disks of {}", found.name), "it went away meanwhile");
    let consistency = match snapshot(libvirt, uuid, &request, Freeze::WhereItCan)? {
        Some(Snap::Taken(consistency)) => consistency,
        None => return Err(gone()),
        // The agent failed: at freezing, and nothing happened, or at thawing, when all is switched already.
        Some(Snap::AgentFailed) => {
            let live = find()?.live.ok_or_else(gone)?;
            match self::request(&Definition::parse(&live)?, repoints)? {
                None => {
                    libvirt.on(uuid, "thaw", libvirt.timeout, thaw)?;
                    Consistency::Frozen
                }
                Some(request) => match snapshot(libvirt, uuid, &request, Freeze::Never)? {
                    Some(Snap::Taken(consistency)) => consistency,
                    _ => return Err(gone()),
                },
            }
        }
    };
    // libvirt moves the inactive definition along, where that named the same files as the running one.
    redefine(libvirt, find()?.next.as_deref(), repoints)?;
    Ok(consistency)
}

/// Whether the guest's agent is asked to freeze its file systems.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Freeze {
    WhereItCan,
    Never,
}

/// What came of a snapshot.
enum Snap {
    Taken(Consistency),
    /// With a freeze; what happened must be looked at.
    AgentFailed,
}

/// Refuses where an overlay stands on another file than the guest writes now: the definition of the next start was
/// changed while it ran, and the plan was made from that.
fn check_backing(live: &Definition, repoints: &[Repoint]) -> Result<()> {
    for disk in live.disks() {
        let Some(runs_on) = disk.source.path() else { continue };
        let Some(to) = repoints.iter().find(|to| to.volume.name == disk.target) else { continue };
        if runs_on == to.volume.path || to.volume.format != VolumeFormat::Qcow2 {
            continue;
        }
        let image = image::inspect(&to.volume.path)?;
        let stands_on = image.header().and_then(|header| header.backing_file.as_deref()).map(Path::new);
        if stands_on != Some(runs_on) {
            let next = stands_on.map_or_else(|| "nothing".to_string(), |path| path.display().to_string());
            return Err(Error::refused(format!(
                "the disk {} of {} runs on {}, and its next start would use {next}",
                disk.target,
                live.name(),
                runs_on.display()
            ))
            .with_hint("restart the machine first, so that both are one"));
        }
    }
    Ok(())
}

/// Lets the guest's file systems go on, where its agent can.
fn thaw(domain: &Domain) -> Result<(), VirtError> {
    // SAFETY: the domain is alive; no mountpoints means all.
    unsafe { sys::virDomainFSThaw(domain.as_ptr(), std::ptr::null_mut(), 0, 0) };
    Ok(())
}

/// The snapshot to ask for; `None` where every disk stands where it should.
fn request(live: &Definition, repoints: &[Repoint]) -> Result<Option<String>> {
    let disks = live.disks();
    let mut pending = Vec::new();
    for Repoint { volume, .. } in repoints {
        let disk = disks.iter().find(|disk| disk.target == volume.name).ok_or_else(|| {
            Error::usage(format!("the machine '{}' has no disk '{}'", live.name(), volume.name))
        })?;
        if disk.source.path() == Some(&volume.path) {
            continue;
        }
        if volume.format != VolumeFormat::Qcow2 {
            return Err(Error::usage(format!(
                "the disk '{}' of '{}' cannot go to {} while it runs: only a qcow2 file has a backing file",
                volume.name,
                live.name(),
                volume.path.display()
            )));
        }
        pending.push(volume);
    }
    if pending.is_empty() {
        return Ok(None);
    }
    let mut listed = Element::new("disks");
    for disk in &disks {
        let element = Element::new("disk").with("name", &disk.target);
        listed = listed.with_child(match pending.iter().find(|volume| volume.name == disk.target) {
            None => element.with("snapshot", "no"),
            Some(volume) => element
                .with("snapshot", "external")
                .with("type", "file")
                .with_child(Element::new("driver").with("type", volume.format.driver()))
                .with_child(Element::new("source").with("file", utf8(volume)?)),
        });
    }
    Ok(Some(Document::new(Element::new("domainsnapshot").with_child(listed)).to_string()))
}

fn utf8(volume: &kld_core::store::Volume) -> Result<&str> {
    volume.path.to_str().ok_or_else(|| {
        Error::usage(format!("the path {} is not UTF-8: libvirt cannot open it", volume.path.display()))
    })
}

/// Frozen by the guest's agent where that answers and can, otherwise as after a power cut.
fn snapshot(libvirt: &Libvirt, uuid: Uuid, request: &str, freeze: Freeze) -> Result<Option<Snap>> {
    let request = CString::new(request)
        .map_err(|_| Error::usage("a path of the machine's disks contains a zero byte".to_string()))?;
    libvirt.on(uuid, "switch the disks of", libvirt.timeout + DEED, move |domain| {
        let take = |flags| {
            // SAFETY: the domain is alive and the request is a C string that outlives the call.
            let made = unsafe { sys::virDomainSnapshotCreateXML(domain.as_ptr(), request.as_ptr(), flags) };
            if made.is_null() {
                return Err(VirtError::last_error());
            }
            // SAFETY: the handle belongs to the caller and is not used again.
            unsafe { sys::virDomainSnapshotFree(made) };
            Ok(())
        };
        if freeze == Freeze::WhereItCan && life::agent_answers(domain) {
            let taken = frozen(domain, || take(FLAGS | sys::VIR_DOMAIN_SNAPSHOT_CREATE_QUIESCE));
            return Ok(taken.map_or(Snap::AgentFailed, |()| Snap::Taken(Consistency::Frozen)));
        }
        take(FLAGS).map(|()| Snap::Taken(Consistency::CrashConsistent))
    })
}

/// Runs `deed` with a limit on the agent's answers, which libvirt otherwise awaits for ever.
fn frozen<T>(domain: &Domain, deed: impl FnOnce() -> T) -> T {
    // SAFETY: the domain is alive. An older libvirt refuses; then there is no limit.
    let limit = |seconds| unsafe { sys::virDomainAgentSetResponseTimeout(domain.as_ptr(), seconds, 0) };
    limit(FREEZING);
    let done = deed();
    limit(sys::VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK);
    done
}

/// Does something while the guest's agent holds its file systems still, where that answers and can.
pub(super) fn while_frozen(
    libvirt: &Libvirt,
    uuid: Uuid,
    deed: &mut dyn FnMut() -> Result<()>,
) -> Result<Consistency> {
    // Most machines that are cloned are off. That the daemon tells without libvirt's library, which takes longer to
    // load than the snapshot takes.
    let runs = || libvirt.domain_by_uuid(uuid).map(|domain| domain.is_some_and(|one| one.state.is_active()));
    if !runs()? {
        deed()?;
        return Ok(if runs()? { Consistency::CrashConsistent } else { Consistency::Stopped });
    }
    let freeze = |domain: &Domain| {
        if !domain.is_active()? {
            return Ok(Consistency::Stopped);
        }
        // SAFETY: the domain is alive; no list of mount points means all of them.
        let freeze = || unsafe { sys::virDomainFSFreeze(domain.as_ptr(), std::ptr::null_mut(), 0, 0) };
        if !life::agent_answers(domain) {
            return Ok(Consistency::CrashConsistent);
        }
        if frozen(domain, freeze) >= 0 {
            return Ok(Consistency::Frozen);
        }
        // It may have frozen some of them.
        frozen(domain, || thaw(domain))?;
        Ok(Consistency::CrashConsistent)
    };
    let limit = libvirt.timeout + DEED;
    let before = libvirt.on(uuid, "freeze", limit, freeze)?.unwrap_or(Consistency::Stopped);
    let done = deed();
    if before == Consistency::Frozen {
        // A guest that could not be thawed may have thawed by itself, and then something was written meanwhile.
        let thawed = thaw_guest(libvirt, uuid);
        return done.map(|()| if thawed.is_ok() { before } else { Consistency::CrashConsistent });
    }
    done?;
    let runs = libvirt.on(uuid, "look at", libvirt.timeout, |domain| domain.is_active())?.unwrap_or(false);
    Ok(if runs { Consistency::CrashConsistent } else { before })
}

/// Lets a guest go on. One whose agent does not answer, or that is not frozen, is left.
pub(super) fn thaw_guest(libvirt: &Libvirt, uuid: Uuid) -> Result<()> {
    let thaw = |domain: &Domain| {
        if !domain.is_active()? || !life::agent_answers(domain) {
            return Ok(0);
        }
        // SAFETY: the domain is alive; no list of mount points means all of them.
        match frozen(domain, || unsafe { sys::virDomainFSThaw(domain.as_ptr(), std::ptr::null_mut(), 0, 0) })
        {
            count if count < 0 => Err(VirtError::last_error()),
            count => Ok(count),
        }
    };
    libvirt.on(uuid, "thaw", libvirt.timeout + DEED, thaw).map(drop)
}

/// Points the definition at the volumes, where it does not name them yet.
fn redefine(libvirt: &Libvirt, next: Option<&str>, repoints: &[Repoint]) -> Result<()> {
    let Some(next) = next else { return Ok(()) };
    if let Some(definition) = repointed(next, repoints)? {
        libvirt.call(libvirt.timeout, move |connect| domains::define(connect, &definition))?;
    }
    Ok(())
}

fn repointed(next: &str, repoints: &[Repoint]) -> Result<Option<String>> {
    let mut definition = Definition::parse(next)?;
    let disks = definition.disks();
    let mut changed = false;
    for Repoint { volume, .. } in repoints {
        let stands = disks.iter().any(|disk| {
            disk.target == volume.name
                && disk.source.path() == Some(&volume.path)
                && disk.driver.as_deref() == Some(volume.format.driver())
        });
        if !stands {
            definition.set_disk(&volume.name, &volume.path, volume.format)?;
            changed = true;
        }
    }
    Ok(changed.then(|| definition.to_xml()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kld_core::store::Volume;
    use kld_core::{ByteSize, MachineName};

    const LIVE: &str = "<domain type='kvm'><name>web</name><devices>
      <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/s/vda.qcow2'/>
        <backingStore type='file'><format type='qcow2'/><source file='/s/base'/></backingStore>
        <target dev='vda' bus='virtio'/></disk>
      <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/s/vdb.qcow2'/>
        <target dev='vdb' bus='virtio'/></disk>
      <disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>
    </devices></domain>";

    fn to(name: &str, path: &str, format: VolumeFormat) -> Repoint {
        let volume = Volume {
            name: name.into(),
            path: path.into(),
            format,
            size: ByteSize::default(),
            adopted: false,
        };
        Repoint { set: MachineName::parse("web").unwrap(), volume }
    }

    fn asked(repoints: &[Repoint]) -> Result<Option<String>> {
        request(&Definition::parse(LIVE).unwrap(), repoints)
    }

    #[test]
    fn every_disk_is_listed_and_only_those_that_move_are_switched() {
        insta::assert_snapshot!(asked(&[to("vda", "/s/a&b", VolumeFormat::Qcow2)]).unwrap().unwrap(), @r"
        <domainsnapshot>
          <disks>
            <disk name='vda' snapshot='external' type='file'>
              <driver type='qcow2'/>
              <source file='/s/a&amp;b'/>
            </disk>
            <disk name='vdb' snapshot='no'/>
            <disk name='sda' snapshot='no'/>
          </disks>
        </domainsnapshot>
        ");
    }

    #[test]
    fn disks_that_stand_there_already_are_left() {
        assert_eq!(asked(&[to("vda", "/s/vda.qcow2", VolumeFormat::Qcow2)]).unwrap(), None);
        assert_eq!(repointed(LIVE, &[to("vda", "/s/vda.qcow2", VolumeFormat::Qcow2)]).unwrap(), None);
    }

    #[test]
    fn a_running_disk_cannot_go_to_a_file_without_a_backing_file() {
        let error = asked(&[to("vda", "/s/new", VolumeFormat::Raw)]).unwrap_err();
        assert!(error.to_string().contains("only a qcow2 file has a backing file"), "{error}");
        let error = asked(&[to("vdz", "/s/new", VolumeFormat::Qcow2)]).unwrap_err();
        assert_eq!(error.to_string(), "the machine 'web' has no disk 'vdz'");
    }

    #[test]
    fn a_definition_follows_the_volumes() {
        let moved = repointed(LIVE, &[to("vdb", "/s/new", VolumeFormat::Qcow2)]).unwrap().unwrap();
        let sources: Vec<_> =
            Definition::parse(&moved).unwrap().disks().into_iter().map(|disk| disk.source).collect();
        assert_eq!(sources[0].path().unwrap(), std::path::Path::new("/s/vda.qcow2"));
        assert_eq!(sources[1].path().unwrap(), std::path::Path::new("/s/new"));
    }
}
