//! kld's hook in libvirt: the program that libvirt's QEMU driver asks before a machine starts, whoever starts it.
//!
//! The hook is a copy of the program and no link to it: AppArmor, as Debian and Ubuntu set it up, lets libvirt run what
//! lies in its folder of hooks and nothing under `/usr/local`.

use std::path::{Path, PathBuf};

use kld_core::error::Trying;
use kld_core::{Change, Error, Probe, Result, fsio};

/// The name of kld's hook among the others; libvirt runs all that are executable, in the order of their names.
pub const NAME: &str = "kld";

/// What to do where something else has its name.
pub const FOREIGN: &str = "give it another name: libvirt runs every executable in this folder";

/// The largest program that is taken for kld's own.
const LARGEST: u64 = 1 << 30;

/// Where the hook is, and the program that it is to be.
#[derive(Debug, Clone)]
pub struct Hook {
    folder: PathBuf,
    program: PathBuf,
}

/// What is found in the hook's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HookState {
    /// Nothing.
    Missing,
    /// The program as it is now.
    Installed,
    /// A program of another build, or one that may not be executed.
    Outdated,
    /// No program: somebody's script or link.
    Foreign,
}

impl Hook {
    /// The hook in `folder`, which is libvirt's `hooks/qemu.d`; `program` is what it is to be a copy of.
    pub fn new(folder: impl Into<PathBuf>, program: impl Into<PathBuf>) -> Self {
        Hook { folder: folder.into(), program: program.into() }
    }

    /// Its file.
    pub fn path(&self) -> PathBuf {
        self.folder.join(NAME)
    }

    /// What is found in its place.
    pub fn state(&self) -> Result<HookState> {
        let path = self.path();
        let meta = match path.symlink_metadata() {
            Ok(meta) => meta,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(HookState::Missing),
            Err(error) => return Err(error).trying(|| format!("cannot look at {}", path.display())),
        };
        if !meta.is_file() {
            return Ok(HookState::Foreign);
        }
        let found = fsio::read_bytes(&path, LARGEST)?.unwrap_or_default();
        match found.starts_with(b"\x7fELF") {
            false => Ok(HookState::Foreign),
            true if is_executable(&meta) && found == self.wanted()? => Ok(HookState::Installed),
            true => Ok(HookState::Outdated),
        }
    }

    /// Puts the program there, in one step: a machine that starts meanwhile meets the old hook or the new one.
    ///
    /// # Errors
    /// [`Error::Refused`] where something else has its name.
    pub fn install(&self) -> Result<Change<()>> {
        match self.state()? {
            HookState::Installed => return Ok(Change::Unchanged(())),
            HookState::Foreign => return Err(self.foreign()),
            HookState::Missing | HookState::Outdated => {}
        }
        fsio::create_dir_all(&self.folder, 0o755)?;
        // What is executable among the hooks is run at once, so it is made beside their folder.
        let made = self.draft();
        fsio::replace(&made, &self.wanted()?, 0o600)?;
        fsio::set_mode(&made, 0o755)?;
        std::fs::rename(&made, self.path()).trying(|| format!("cannot make {}", self.path().display()))?;
        fsio::sync_dir(&self.folder).map(Change::Changed)
    }

    /// Takes it away, and nothing else.
    ///
    /// # Errors
    /// [`Error::Refused`] where something else has its name.
    pub fn remove(&self) -> Result<Change<()>> {
        if self.state()? == HookState::Foreign {
            return Err(self.foreign());
        }
        fsio::remove_if_exists(&self.draft())?;
        fsio::remove_if_exists(&self.path())
    }

    /// Whether libvirt already runs a hook of its QEMU driver. It looks for the first one only when it starts and when
    /// it is told to read its configuration anew.
    pub fn is_looked_for(&self) -> bool {
        let others =
            std::fs::read_dir(&self.folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let script = self.folder.with_extension("");
        others
            .chain([script])
            .any(|path| path.metadata().is_ok_and(|meta| meta.is_file() && is_executable(&meta)))
    }

    /// What `kld doctor` says of it.
    pub fn probe(&self) -> Probe {
        let subject = "libvirt hook";
        let limited = |finding: String| {
            Probe::limited(
                subject,
                format!("{finding}: only kvm-start verifies ZFS volumes, 'virsh start' does not"),
                "kvm-hook --install",
            )
        };
        match self.state() {
            Ok(HookState::Installed) => {
                Probe::serves(subject, "every start verifies the machine's ZFS volumes")
            }
            Ok(HookState::Missing) => limited("it is not installed".to_string()),
            Ok(HookState::Outdated) => Probe::limited(
                subject,
                format!("{} is of another build of kld", self.path().display()),
                "kvm-hook --install",
            ),
            Ok(HookState::Foreign) => limited(format!("{} is not kld's", self.path().display())),
            Err(error) => limited(error.to_string()),
        }
    }

    fn draft(&self) -> PathBuf {
        self.folder.parent().unwrap_or(Path::new("/")).join(".kld-hook")
    }

    fn wanted(&self) -> Result<Vec<u8>> {
        let absent = || Error::failed(format!("cannot read {}", self.program.display()), "it is not there");
        fsio::read_bytes(&self.program, LARGEST)?.ok_or_else(absent)
    }

    fn foreign(&self) -> Error {
        Error::refused(format!("{} is not kld's hook", self.path().display())).with_hint(FOREIGN)
    }
}

fn is_executable(meta: &std::fs::Metadata) -> bool {
    std::os::unix::fs::MetadataExt::mode(meta) & 0o111 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hook of a folder of its own, and a program of its own.
    fn hook() -> (tempfile::TempDir, Hook) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("program"), b"\x7fELF one").unwrap();
        let hook = Hook::new(folder.path().join("hooks/qemu.d"), folder.path().join("program"));
        (folder, hook)
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn it_is_installed_once_and_made_anew_after_a_new_build() {
        let (folder, hook) = hook();
        assert_eq!(hook.state().unwrap(), HookState::Missing);
        assert!(hook.install().unwrap().is_changed());
        assert!(!hook.install().unwrap().is_changed());
        std::fs::write(folder.path().join("program"), b"\x7fELF two").unwrap();
        assert_eq!(hook.state().unwrap(), HookState::Outdated);
        assert!(hook.install().unwrap().is_changed());
        assert_eq!(std::fs::read(hook.path()).unwrap(), b"\x7fELF two");
        assert_eq!(names(&folder.path().join("hooks")), ["qemu.d"]);
        fsio::set_mode(&hook.path(), 0o644).unwrap();
        assert_eq!(hook.state().unwrap(), HookState::Outdated);
    }

    #[test]
    fn other_hooks_are_neither_overwritten_nor_removed() {
        let (folder, hook) = hook();
        let others = folder.path().join("hooks/qemu.d");
        std::fs::create_dir_all(&others).unwrap();
        std::fs::write(others.join("other"), "#!/bin/sh\n").unwrap();
        hook.install().unwrap();
        assert!(hook.remove().unwrap().is_changed());
        assert!(!hook.remove().unwrap().is_changed());
        assert_eq!(names(&others), ["other"]);

        std::fs::write(hook.path(), "#!/bin/sh\n").unwrap();
        for done in [hook.install(), hook.remove()] {
            assert!(matches!(done, Err(Error::Refused { .. })));
        }
        assert_eq!(std::fs::read_to_string(hook.path()).unwrap(), "#!/bin/sh\n");
    }

    #[test]
    fn libvirt_is_to_be_told_of_its_first_hook_only() {
        let (folder, hook) = hook();
        assert!(!hook.is_looked_for());
        std::fs::create_dir_all(folder.path().join("hooks")).unwrap();
        let script = folder.path().join("hooks/qemu");
        std::fs::write(&script, "#!/bin/sh\n").unwrap();
        assert!(!hook.is_looked_for());
        fsio::set_mode(&script, 0o755).unwrap();
        assert!(hook.is_looked_for());
    }
}
