//! Programs that run in the kernel: what they have counted and what they cost, whatever they tell.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use aya::Pod;
use aya::maps::{Map, MapData, PerCpuArray};
use kld_core::{Error, Result};
use kld_ebpf_events::{Counts, Plain};

use crate::filter::Resolved;
use crate::loader::{Loaded, Parts, Program};
use crate::{Btf, sys};

/// Plain data as a map's key or value.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Raw<T>(pub(crate) T);

// SAFETY: plain data has no padding.
unsafe impl<T: Plain> Pod for Raw<T> {}

/// What a probe has cost so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// How often its programs have run.
    pub runs: u64,
    /// How long, all together.
    pub time: Duration,
}

/// Programs that run in the kernel. Dropping this takes them out.
pub struct Running {
    name: &'static str,
    loaded: Loaded,
    counts: PerCpuArray<MapData, Raw<Counts>>,
    measuring: Option<OwnedFd>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Running {
    pub(crate) fn start(parts: &Parts, btf: &Btf, wanted: &Resolved) -> Result<Self> {
        let mut loaded = Loaded::load(parts, btf, wanted)?;
        let failed = |cause| Error::failed(format!("cannot read what {} counts", parts.name), cause);
        let counts = PerCpuArray::try_from(Map::PerCpuArray(loaded.take("COUNTS")?)).map_err(failed)?;
        Ok(Running { name: parts.name, loaded, counts, measuring: None })
    }

    /// Takes a map out, to be read as what it is.
    pub(crate) fn take(&mut self, map: &str) -> Result<MapData> {
        self.loaded.take(map)
    }

    /// The probe's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Takes the programs off their tracepoints. What they have told by then can still be read.
    pub fn detach(&mut self) {
        self.loaded.detach();
    }

    /// What the programs have counted, by processor.
    pub fn counts_by_cpu(&self) -> Result<Vec<Counts>> {
        let all = self.counts.get(&0, 0);
        let all = all.map_err(|cause| Error::failed("cannot read what was counted", cause))?;
        Ok(all.iter().map(|counted| counted.0).collect())
    }

    /// The same for all processors together.
    pub fn counts(&self) -> Result<Counts> {
        let all = self.counts_by_cpu()?;
        let sum =
            |total: Counts, one: &Counts| Counts { seen: total.seen + one.seen, lost: total.lost + one.lost };
        Ok(all.iter().fold(Counts::default(), sum))
    }

    /// From now on the kernel measures what the programs cost. That needs CAP_SYS_ADMIN, and itself costs a little.
    pub fn measure(&mut self) -> Result<()> {
        let measuring = sys::measure();
        self.measuring = Some(measuring.map_err(|cause| {
            Error::failed("cannot measure what the programs cost", cause)
                .with_hint("that needs CAP_SYS_ADMIN")
        })?);
        Ok(())
    }

    /// What the programs have cost since [`measure`](Self::measure), in the order of their names.
    pub fn cost(&self) -> Result<Vec<(&'static str, Cost)>> {
        let cost = |program: &Program| {
            let kept = self.kept(program)?;
            Ok((program.name, Cost { runs: kept.runs, time: Duration::from_nanos(kept.time) }))
        };
        self.loaded.programs.iter().map(cost).collect()
    }

    /// How often a program was not run, since it ran on that processor already, as an interrupt may find it. What it
    /// would have told is not among the lost.
    pub fn missed(&self) -> Result<u64> {
        self.loaded.programs.iter().map(|program| Ok(self.kept(program)?.missed)).sum()
    }

    /// The kernel's number of the first program.
    #[cfg(feature = "log")]
    pub(crate) fn first_program(&self) -> Result<Option<u32>> {
        self.loaded.programs.first().map(|program| Ok(self.kept(program)?.id)).transpose()
    }

    fn kept(&self, program: &Program) -> Result<sys::Kept> {
        sys::kept(program.fd.as_fd())
            .map_err(|cause| Error::failed(format!("cannot read what {} costs", self.name), cause))
    }
}
