//! Cloud-init seeds in the NoCloud form: the small disc that tells a guest its name, users and keys.
//!
//! [`CloudInit`] makes a [`Seed`] from options, [`Seed::for_clone`] makes a clone's from its source's, and
//! [`Seed::iso`] makes the image that the guest finds by its label `cidata`. Beside the image, the seed is kept as
//! plain files in the machine's state folder ([`Seed::state_files`], [`Seed::read_back`]).
//!
//! Source: cloud-init's manual, "NoCloud" and "User data formats".

mod cloud_init;
mod iso;
mod meta;
mod mime;
mod rename;
mod ssh;
mod user_data;
mod yaml;

use std::path::Path;

use kld_core::store::{StateContent, StateFile};
use kld_core::{Error, MachineName, Result, fsio};

pub use cloud_init::CloudInit;
pub use meta::MetaData;
pub use user_data::{LARGEST_USER_DATA, UserData};

/// The folder of the plain files, within a machine's state folder.
pub const SEED_FOLDER: &str = "seed";

/// The image, within a machine's state folder.
pub const SEED_IMAGE: &str = "seed.iso";

/// The volume label by which cloud-init finds a seed.
const LABEL: &str = "cidata";

/// The most that a network-config may hold, in bytes.
const LARGEST_NETWORK: usize = 64 << 10;

/// What a guest is told at its first boot.
#[derive(Clone, PartialEq, Eq)]
pub struct Seed {
    /// Who the instance is.
    pub meta: MetaData,
    /// What it is told to do.
    pub user_data: UserData,
    /// How its network is set up; `None` leaves it to the guest, which asks for an address by DHCP.
    pub network_config: Option<String>,
}

impl Seed {
    /// A seed that tells a guest its name and nothing else.
    ///
    /// ```
    /// use kld_core::MachineName;
    /// use kld_kvm::seed::Seed;
    /// let seed = Seed::new(MachineName::parse("web-1").unwrap());
    /// assert!(seed.meta.to_string().contains("local-hostname: web-1\n"));
    /// ```
    pub fn new(hostname: MachineName) -> Self {
        Seed { meta: MetaData::new(hostname), user_data: UserData::empty(), network_config: None }
    }

    /// The seed of a clone: its own name and instance-id, and otherwise the source's, byte for byte. Where the
    /// user-data itself sets the host name, that value is replaced, in the domain it had. Also returns notes for
    /// people: what was replaced, and what could not be.
    ///
    /// ```
    /// use kld_core::MachineName;
    /// use kld_kvm::seed::Seed;
    /// let name = |text| MachineName::parse(text).unwrap();
    /// let (clone, notes) = Seed::new(name("web-1")).for_clone(&name("web-5"));
    /// assert_eq!(clone.meta.local_hostname, name("web-5"));
    /// assert!(notes.is_empty());
    /// ```
    pub fn for_clone(&self, hostname: &MachineName) -> (Seed, Vec<String>) {
        let (user_data, mut notes) = self.user_data.for_clone(hostname);
        let network_config = self.network_config.clone();
        notes.extend(network_config.as_deref().into_iter().flat_map(network_notes));
        (Seed { meta: self.meta.for_clone(hostname.clone()), user_data, network_config }, notes)
    }

    /// The files of the seed, by name.
    pub fn files(&self) -> Vec<(&'static str, Vec<u8>)> {
        let mut files = vec![
            ("meta-data", self.meta.to_string().into_bytes()),
            ("user-data", self.user_data.as_str().into()),
            ("vendor-data", Vec::new()),
        ];
        files.extend(self.network_config.as_ref().map(|text| ("network-config", text.clone().into_bytes())));
        files
    }

    /// The image that holds the files: ISO 9660, labelled `cidata`. Equal seeds make equal images.
    pub fn iso(&self) -> Vec<u8> {
        iso::image(LABEL, &self.files())
    }

    /// What is kept of the seed in a machine's state folder: the image, and the plain files that
    /// [`read_back`](Self::read_back) reads. They may hold password hashes: give them mode 0600.
    pub fn state_files(&self, set: &MachineName) -> Vec<StateFile> {
        let plain = self.files().into_iter().filter(|(name, _)| *name != "vendor-data");
        plain
            .map(|(name, content)| (Path::new(SEED_FOLDER).join(name), content))
            .chain([(SEED_IMAGE.into(), self.iso())])
            .map(|(path, content)| StateFile {
                set: set.clone(),
                path,
                content: StateContent::Bytes(content),
            })
            .collect()
    }

    /// Reads the plain files of a seed; `None` where the folder has none.
    pub fn read_back(folder: &Path) -> Result<Option<Seed>> {
        let read = |name: &str| fsio::read_text(&folder.join(name), LARGEST_USER_DATA.bytes());
        let (meta, user, network) = (read("meta-data")?, read("user-data")?, read("network-config")?);
        match (meta, user) {
            (None, None) => Ok(None),
            (Some(meta), Some(user)) => Seed::parse(&meta, &user, network.as_deref()).map(Some),
            _ => Err(Error::failed(
                format!("cannot use the seed in {}", folder.display()),
                "it has only one of meta-data and user-data",
            )),
        }
    }

    /// Reads a seed from the text of its files.
    ///
    /// ```
    /// use kld_kvm::seed::Seed;
    /// let meta = "instance-id: i-1\nlocal-hostname: web-1\n";
    /// let seed = Seed::parse(meta, "#!/bin/sh\n", None).unwrap();
    /// assert_eq!(seed.files()[1], ("user-data", b"#!/bin/sh\n".to_vec()));
    /// ```
    pub fn parse(meta: &str, user: &str, network: Option<&str>) -> Result<Seed> {
        if network.is_some_and(|text| text.len() > LARGEST_NETWORK || text.contains('\0')) {
            return Err(Error::failed(
                "cannot use the seed's network-config",
                format!("it is not text of at most {LARGEST_NETWORK} bytes"),
            ));
        }
        let (meta, user_data) = (MetaData::parse(meta)?, UserData::parse(user)?);
        Ok(Seed { meta, user_data, network_config: network.map(str::to_string) })
    }
}

impl UserData {
    fn for_clone(&self, hostname: &MachineName) -> (UserData, Vec<String>) {
        let (text, notes) = rename::rename(self.as_str(), hostname);
        // A longer name can push a file over the limit.
        match UserData::parse(text) {
            Ok(renamed) => (renamed, notes),
            Err(error) => {
                (self.clone(), vec![format!("the clone's user-data keeps its source's name: {error}")])
            }
        }
    }
}

/// What in a network-config fits one machine only.
fn network_notes(text: &str) -> Vec<String> {
    let says = |keys: &[&str]| {
        let key = |line: &str| {
            let line = line.trim_start().trim_start_matches("- ");
            keys.iter()
                .any(|key| line.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with(':')))
        };
        text.lines().any(key)
    };
    let mut notes = Vec::new();
    if says(&["macaddress", "mac_address"]) {
        notes.push(
            "the network-config names a MAC address, and a clone has others: it finds no card by it".into(),
        );
    }
    if says(&["addresses", "address"]) {
        notes.push("the network-config sets fixed addresses: the clone would take its source's".into());
    }
    notes
}

#[cfg(test)]
mod tests;
