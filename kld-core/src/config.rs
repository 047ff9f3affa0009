//! Layered configuration: built-in < /etc/kld/config.toml < the user's < environment < flags.
//!
//! Every setting is a row of [`KEYS`]; a key that is in no row is an error that names the nearest one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::suggest::nearest;
use crate::{Error, Result, fsio};

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name in the file and in `--set`; in the environment `store-root` is `KLD_STORE_ROOT`.
    pub name: &'static str,
    /// The built-in value; empty means "unset".
    pub default: &'static str,
    /// What it sets, in one line.
    pub about: &'static str,
}

/// Every setting there is.
pub const KEYS: &[Key] = &[
    Key {
        name: "store",
        default: "",
        about: "volume store for machines: dir or zfs; unset: zfs where zfs-root is set, or else dir",
    },
    Key { name: "store-root", default: "/var/lib/kld/store", about: "folder of the directory store" },
    Key {
        name: "zfs-root",
        default: "",
        about: "dataset of the ZFS store; unset: POOL/kld, where --store zfs asks for it",
    },
    Key { name: "hypervisor", default: "libvirt", about: "who runs machines" },
    Key { name: "libvirt-uri", default: "qemu:///system", about: "libvirt connection" },
    Key { name: "libvirt-timeout", default: "30", about: "seconds to wait for libvirt before giving up" },
    Key { name: "state-dir", default: "/var/lib/kld", about: "folder of kld's journal and locks" },
    Key {
        name: "hook-dir",
        default: "/etc/libvirt/hooks/qemu.d",
        about: "folder of libvirt's hooks for QEMU",
    },
    Key { name: "network", default: "default", about: "libvirt network of new machines; none: no network" },
];

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// The built-in value.
    BuiltIn,
    /// A configuration file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A flag of the command line.
    Flag,
}

/// The settings in force, each with the layer that set it.
#[derive(Debug, Clone)]
pub struct Config {
    values: BTreeMap<&'static str, (String, Layer)>,
}

impl Config {
    /// The built-in values alone.
    pub fn built_in() -> Self {
        let values = KEYS.iter().map(|key| (key.name, (key.default.to_string(), Layer::BuiltIn)));
        Config { values: values.collect() }
    }

    /// All layers of this process. `file` replaces the two configuration files; `flags` are `key=value`.
    pub fn load(file: Option<&Path>, flags: &[String]) -> Result<Self> {
        let mut config = Self::built_in();
        let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        match file {
            Some(path) => {
                if !config.add_file(path)? {
                    return Err(Error::usage(format!("there is no configuration file {}", path.display())));
                }
            }
            None => {
                config.add_file(Path::new("/etc/kld/config.toml"))?;
                let user = environment("XDG_CONFIG_HOME")
                    .map(PathBuf::from)
                    .or_else(|| environment("HOME").map(|home| Path::new(&home).join(".config")));
                if let Some(folder) = user {
                    config.add_file(&folder.join("kld/config.toml"))?;
                }
            }
        }
        for key in KEYS {
            let variable = variable(key.name);
            if let Some(value) = environment(&variable) {
                config.set(key.name, value, Layer::Environment(variable))?;
            }
        }
        for flag in flags {
            let (name, value) = flag.split_once('=').ok_or_else(|| {
                Error::usage(format!("--set {flag}: there is no '=' in it")).with_hint("write KEY=VALUE")
            })?;
            config.set(name, value.to_string(), Layer::Flag)?;
        }
        Ok(config)
    }

    /// The value of a setting.
    ///
    /// # Panics
    /// Where `name` is in no row of [`KEYS`]: a mistake in the program.
    pub fn get(&self, name: &str) -> &str {
        &self.values[name].0
    }

    /// The value and the layer that set it; `None` for an unknown name.
    pub fn origin(&self, name: &str) -> Option<(&str, &Layer)> {
        self.values.get(name).map(|(value, layer)| (value.as_str(), layer))
    }

    /// Sets a value from a flag, such as `--store`.
    pub fn set_flag(&mut self, name: &str, value: &str) -> Result<()> {
        self.set(name, value.to_string(), Layer::Flag)
    }

    /// Adds a file's settings; false where there is no such file.
    fn add_file(&mut self, path: &Path) -> Result<bool> {
        let Some(text) = fsio::read_text(path, 1 << 20)? else { return Ok(false) };
        for (name, value) in
            parse(&text).map_err(|cause| Error::usage(format!("{}: {cause}", path.display())))?
        {
            self.set(&name, value, Layer::File(path.to_path_buf()))?;
        }
        Ok(true)
    }

    fn set(&mut self, name: &str, value: String, layer: Layer) -> Result<()> {
        let Some(key) = KEYS.iter().find(|key| key.name == name) else {
            let place = match &layer {
                Layer::File(path) => format!("{}: ", path.display()),
                _ => String::new(),
            };
            let names = KEYS.iter().map(|key| key.name);
            let hint = match nearest(name, names.clone()) {
                Some(near) => format!("did you mean '{near}'?"),
                None => format!("the settings are {}", names.collect::<Vec<_>>().join(", ")),
            };
            return Err(
                Error::usage(format!("{place}unknown setting '{}'", name.escape_debug())).with_hint(hint)
            );
        };
        self.values.insert(key.name, (value, layer));
        Ok(())
    }
}

/// The environment variable of a setting.
pub fn variable(name: &str) -> String {
    format!("KLD_{}", name.to_ascii_uppercase().replace('-', "_"))
}

/// Reads a flat TOML table of strings and numbers.
fn parse(text: &str) -> Result<Vec<(String, String)>, String> {
    let table: toml::Table = text.parse().map_err(|cause: toml::de::Error| cause.message().to_string())?;
    let value = |name: &str, value: toml::Value| match value {
        toml::Value::String(text) => Ok(text),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Boolean(yes) => Ok(yes.to_string()),
        other => Err(format!("'{name}' is of type {}, a string or a number is wanted", other.type_str())),
    };
    table.into_iter().map(|(name, found)| value(&name, found).map(|text| (name, text))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_wins_over_a_file_and_a_file_over_the_built_in() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        std::fs::write(&file, "store-root = \"/a\"\nlibvirt-timeout = 5\n").unwrap();
        let config = Config::load(Some(&file), &["store-root=/b".into()]).unwrap();
        assert_eq!(config.get("store-root"), "/b");
        assert_eq!(config.get("libvirt-timeout"), "5");
        assert_eq!(config.origin("libvirt-timeout").unwrap().1, &Layer::File(file));
        assert_eq!(config.get("state-dir"), "/var/lib/kld");
    }

    #[test]
    fn an_unknown_key_names_the_nearest_known_one() {
        let error = Config::load(None, &["store-rot=/b".into()]).unwrap_err();
        assert_eq!(error.to_string(), "unknown setting 'store-rot'");
        assert_eq!(error.hint(), Some("did you mean 'store-root'?"));
    }

    #[test]
    fn a_broken_file_is_a_usage_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        std::fs::write(&file, "store = [").unwrap();
        assert_eq!(Config::load(Some(&file), &[]).unwrap_err().exit(), crate::Exit::Usage);
    }
}
