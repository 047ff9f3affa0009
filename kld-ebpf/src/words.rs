//! What programs say of themselves while they are developed: the records of `aya-log-ebpf`.
//!
//! kld's own programs are silent, since words cost time. A program that shall speak says `info!(&ctx, "...")` and is
//! built again; whoever has started it reads its words here.

use aya_log::EbpfLogger;
use kld_core::{Error, Result};
use log::Log;

use crate::Running;

/// The words of programs that run, for a logger.
pub struct Words<L>(EbpfLogger<L>);

impl<L> std::fmt::Debug for Words<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Words").finish_non_exhaustive()
    }
}

impl Running {
    /// The programs' words from now on, for a logger of the crate `log`.
    ///
    /// # Errors
    /// [`Error::Failed`] where the programs do not use `aya-log-ebpf`.
    pub fn words<L: Log>(&self, logger: L) -> Result<Words<L>> {
        let failed = |cause: &dyn std::fmt::Display| {
            Error::failed(format!("cannot read what {} says", self.name()), cause)
                .with_hint("its programs must use aya-log-ebpf, and be built with it")
        };
        let id = self.first_program()?.ok_or_else(|| failed(&"it has no program"))?;
        EbpfLogger::init_from_id_with_logger(id, logger).map(Words).map_err(|cause| failed(&cause))
    }
}

impl<L: Log> Words<L> {
    /// Hands on what was said since the last time; never waits.
    pub fn flush(&mut self) {
        self.0.flush();
    }
}
