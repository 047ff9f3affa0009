//! Creating a machine, empty or from an image.

use std::path::PathBuf;

use kld_core::store::{NewVolume, Set, StateFile, VolumeFormat};
use kld_core::{ByteSize, Error, MachineName, Plan, Result};
use serde::Serialize;
use uuid::Uuid;

use super::work::{NewDomain, Work};
use super::{Machines, add_store_steps, nvram_path};
use crate::domain::{self, Firmware, MacAddress, NewNetwork};
use crate::image::Start;
use crate::seed::{CloudInit, SEED_IMAGE};

/// The machine that is wanted. Not Debug: what cloud-init is told may hold secrets.
#[derive(Clone)]
pub struct CreateRequest {
    /// Its name.
    pub name: MachineName,
    /// Its virtual processors.
    pub cpus: u32,
    /// Its memory.
    pub memory: ByteSize,
    /// Its disks, in their order: vda, vdb, ...
    pub disks: Vec<DiskRequest>,
    /// An installation medium, put into a CD-ROM drive and booted first.
    pub iso: Option<PathBuf>,
    /// Its network.
    pub network: NetworkRequest,
    /// Its operating system, as osinfo names it; recorded for other tools.
    pub os: Option<String>,
    /// Its firmware.
    pub firmware: FirmwareRequest,
    /// What cloud-init is told; `None`: no seed.
    pub cloud_init: Option<CloudInit>,
}

/// A disk that is wanted.
#[derive(Debug, Clone, Default)]
pub struct DiskRequest {
    /// What the guest sees; `None` takes the image's size.
    pub size: Option<ByteSize>,
    /// An image to start from, with its format.
    pub image: Option<(PathBuf, VolumeFormat)>,
}

/// The network that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkRequest {
    /// None.
    None,
    /// A virtual network of the hypervisor.
    Network(String),
    /// A bridge of the host.
    Bridge(String),
    /// Unprivileged user-mode networking.
    User,
}

/// The firmware that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FirmwareRequest {
    /// SeaBIOS.
    #[default]
    Bios,
    /// UEFI.
    Uefi,
    /// UEFI that starts only what is signed.
    SecureBoot,
}

/// A machine that was made.
#[derive(Debug, Clone, Serialize)]
pub struct Created {
    /// Its name.
    pub name: MachineName,
    /// Its UUID.
    pub uuid: Uuid,
    /// The MAC address of its interface.
    pub mac: Option<MacAddress>,
    /// Its volumes and state files.
    #[serde(skip)]
    pub set: Set,
    /// What a person should know.
    pub notes: Vec<String>,
}

impl Machines {
    /// What [`create`](Self::create) would do.
    pub fn plan_create(&self, request: &CreateRequest) -> Result<Plan> {
        self.prepare_create(request).map(|(plan, ..)| plan)
    }

    /// Makes a machine. It is not started.
    pub fn create(&self, request: &CreateRequest) -> Result<Created> {
        let machines = std::slice::from_ref(&request.name);
        let _locks = self.lock(machines, &[])?;
        let (plan, work, files, created) = self.prepare_create(request)?;
        self.carry_out(&plan.title, machines, work, &files)?;
        Ok(created)
    }

    fn prepare_create(&self, request: &CreateRequest) -> Result<(Plan, Work, Vec<StateFile>, Created)> {
        let name = &request.name;
        self.check_free(name)?;
        self.check_network(&request.network)?;
        if let Some(iso) = request.iso.as_ref().filter(|iso| !iso.is_file()) {
            return Err(Error::message(format!("there is no installation medium {}", iso.display())));
        }
        let uuid = Uuid::new_v4();
        let volumes: Vec<NewVolume> = request
            .disks
            .iter()
            .zip('a'..='z')
            .map(|(disk, letter)| NewVolume {
                name: format!("vd{letter}"),
                size: disk.size,
                image: disk.image.clone(),
            })
            .collect();
        // Not every store looks at images itself.
        volumes.iter().try_for_each(|new| Start::of(new, name).map(drop))?;
        let change = self.store.plan_create(name, uuid, &volumes)?;
        let set = change.sets.iter().find(|set| set.name == *name).cloned();
        let set = set.ok_or_else(|| Error::message(format!("the store made no volumes for {name}")))?;

        let mut plan = Plan::new(format!("create {name}"));
        add_store_steps(&mut plan, &change);
        let seed = match &request.cloud_init {
            Some(options) => Some(options.seed()?),
            None => None,
        };
        let files = seed.as_ref().map(|seed| seed.state_files(name)).unwrap_or_default();
        let hardware = self.hypervisor.capabilities().hardware;
        let mac = MacAddress::random_qemu();
        let firmware = match request.firmware {
            FirmwareRequest::Bios => Firmware::Bios,
            FirmwareRequest::Uefi => Firmware::Uefi { secure_boot: false, nvram: nvram_path(&set.state_dir) },
            FirmwareRequest::SecureBoot => {
                Firmware::Uefi { secure_boot: true, nvram: nvram_path(&set.state_dir) }
            }
        };
        let definition = domain::NewDomain {
            name: name.clone(),
            uuid,
            kind: if hardware { "kvm" } else { "qemu" }.to_string(),
            cpus: request.cpus,
            memory: request.memory,
            disks: set.volumes.iter().map(|one| (one.name.clone(), one.path.clone(), one.format)).collect(),
            cdrom: request.iso.clone(),
            seed: seed.as_ref().map(|_| set.state_dir.join(SEED_IMAGE)),
            network: match &request.network {
                NetworkRequest::None => NewNetwork::None,
                NetworkRequest::Network(name) => NewNetwork::Network(name.clone()),
                NetworkRequest::Bridge(name) => NewNetwork::Bridge(name.clone()),
                NetworkRequest::User => NewNetwork::User,
            },
            mac,
            firmware,
            kernel: None,
            os: request.os.clone(),
            title: None,
            graphics: false,
        }
        .definition()?;
        plan.step("define", name, format!("uuid {uuid}"));
        let define = vec![NewDomain { uuid, definition: definition.to_xml() }];
        let mut notes = Vec::new();
        if !hardware {
            notes.push(
                "this host runs no hardware virtualisation: the machine runs under software emulation"
                    .to_string(),
            );
        }
        let mac = (request.network != NetworkRequest::None).then_some(mac);
        let created = Created { name: name.clone(), uuid, mac, set, notes };
        Ok((plan, Work { define, ..Work::new(change) }, files, created))
    }

    fn check_network(&self, network: &NetworkRequest) -> Result<()> {
        let NetworkRequest::Network(name) = network else { return Ok(()) };
        match self.hypervisor.network(name)? {
            Some(true) => Ok(()),
            Some(false) => Err(Error::message(format!("the virtual network '{name}' is not up")).with_hint(
                format!("start it (virsh net-start {name}), or choose another with --network or --bridge"),
            )),
            None => Err(Error::message(format!("there is no virtual network '{name}'"))
                .with_hint("choose one with --network or --bridge; --network none makes a machine without")),
        }
    }
}
