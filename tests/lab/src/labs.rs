//! Labs that stay up between commands. A keeper process holds the labs that were started together, on one private
//! network; other processes find them by name. They end with their keeper.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use kld_build::appliance::{Appliance, Network};
use kld_build::{Agent, Cache};
use kld_core::error::Trying;
use kld_core::{Error, Result, fsio};

use crate::Parts;

/// The names of the labs that are up: a file each, with the folder of its appliance.
#[derive(Debug, Clone)]
pub struct Labs {
    folder: PathBuf,
}

impl Labs {
    /// Those of the user whose cache this is.
    pub fn of(cache: &Cache) -> Labs {
        Labs { folder: cache.folder().join("labs") }
    }

    /// The lab of this name, if it is up.
    pub fn find(&self, name: &str) -> Option<Agent> {
        self.place(name).map(Agent::at)
    }

    /// The names of those that are up.
    pub fn up(&self) -> Vec<String> {
        let files = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut names: Vec<String> = files.filter_map(|file| file.file_name().into_string().ok()).collect();
        names.retain(|name| self.place(name).is_some());
        names.sort();
        names
    }

    /// Ends the lab of this name, and those that were started with it; false where it is not up.
    pub fn down(&self, name: &str) -> Result<bool> {
        let Some(place) = self.place(name) else { return Ok(false) };
        let what = || format!("cannot end the lab {name}");
        let mut keeper = UnixStream::connect(place.join(CONTROL)).trying(what)?;
        keeper.set_read_timeout(Some(Duration::from_secs(30))).trying(what)?;
        keeper.write_all(b"down\n").trying(what)?;
        // The keeper says nothing; it closes the line when all is gone.
        let _ = keeper.read(&mut [0]);
        Ok(true)
    }

    /// Where a lab that is up has its appliance; what a killed keeper left behind is cleared away.
    fn place(&self, name: &str) -> Option<PathBuf> {
        let file = self.folder.join(name);
        let place = PathBuf::from(fsio::read_text(&file, 4096).ok()??);
        if UnixStream::connect(place.join(CONTROL)).is_ok() {
            return Some(place);
        }
        let _ = fsio::remove_if_exists(&file);
        None
    }
}

/// The keeper's socket, in each appliance's folder.
const CONTROL: &str = "control";

/// Holds labs until they are wanted no more.
#[derive(Debug)]
pub struct Keeper {
    labs: Labs,
    names: Vec<String>,
    control: UnixListener,
    // The labs go before their network.
    _appliances: Vec<Appliance>,
    _network: Network,
}

impl Keeper {
    /// Starts labs of these names on one network.
    pub fn start(labs: &Labs, parts: &Parts, names: &[String]) -> Result<Keeper> {
        for name in names {
            let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            if name.is_empty() || !plain || name.starts_with('-') || name.len() > 40 {
                return Err(Error::usage(format!("{name:?} is no name for a lab")));
            }
            if labs.find(name).is_some() {
                return Err(Error::busy(format!("the lab {name} is up already")));
            }
        }
        let network = Network::new()?;
        let start = |(name, number): (&String, u8)| parts.start(name, number, &[network.plug()]);
        let appliances = names.iter().zip(1..).map(start).collect::<Result<Vec<_>>>()?;
        let Some(first) = appliances.first() else { return Err(Error::usage("no lab is named")) };
        let control = first.folder().join(CONTROL);
        let listener =
            UnixListener::bind(&control).trying(|| format!("cannot make {}", control.display()))?;
        fsio::create_dir_all(&labs.folder, 0o700)?;
        for (name, appliance) in names.iter().zip(&appliances) {
            let link = appliance.folder().join(CONTROL);
            if link != control {
                std::os::unix::fs::symlink(&control, &link)
                    .trying(|| format!("cannot make {}", link.display()))?;
            }
            let place = appliance.folder().display().to_string();
            fsio::replace(&labs.folder.join(name), place.as_bytes(), 0o600)?;
        }
        Ok(Keeper {
            labs: labs.clone(),
            names: names.to_vec(),
            control: listener,
            _appliances: appliances,
            _network: network,
        })
    }

    /// Holds them until somebody wants them down.
    pub fn keep(self) -> Result<()> {
        for caller in self.control.incoming() {
            let Ok(mut caller) = caller else { continue };
            let _ = caller.set_read_timeout(Some(Duration::from_secs(1)));
            let mut word = [0; 5];
            if caller.read_exact(&mut word).is_ok() && word == *b"down\n" {
                // The caller's line closes after the labs are gone.
                drop(self);
                drop(caller);
                return Ok(());
            }
        }
        Ok(())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = fsio::remove_if_exists(&self.labs.folder.join(name));
        }
    }
}
