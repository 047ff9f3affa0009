//! A probe that counts in the kernel, and the table that it keeps there.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use aya::maps::{Array, Map, MapData, PerCpuHashMap};
use kld_core::timing::phase;
use kld_core::{Error, Result};
use kld_ebpf_events::table::{Keyed, Tally};
use kld_ebpf_events::{Counts, Plain};

use crate::loader::Parts;
use crate::probe::{Hook, Known};
use crate::running::{Raw, Running};
use crate::stacks::{self, Stack, Stacks};
use crate::{Btf, Filter, sys};

/// A program that sends no events, and keeps a table.
pub trait Summary {
    /// What it counts by.
    type Key: Plain + Ord;
    /// What it counts.
    type Value: Tally;
    /// Its name, in a word.
    const NAME: &'static str;
    /// The compiled program, an ELF object.
    const OBJECT: &'static [u8];
    /// Where its functions hang.
    const HOOKS: &'static [Hook];
    /// The numbers that it must know, as a [`Probe`](crate::Probe)'s.
    const KNOWN: &'static [&'static [Known]];
    /// The kernel's modules that it is about, as a [`Probe`](crate::Probe)'s.
    const MODULES: &'static [&'static str] = &[];
    /// Switches that are always on.
    const SWITCHES: u32 = 0;
    /// The table's name in the object.
    const TABLE: &'static str = "TABLE";
    /// How many keys there may be in an interval. What comes beyond is counted as lost.
    const KEYS: u32;
    /// Where there is one key only unless one of these switches is on: the switches.
    const KEYED: Option<u32> = None;
    /// How many different stacks it can keep, unless told otherwise; 0 where it tells none.
    const STACKS: u32 = 0;
}

/// The table in the kernel.
type Entries<K, V> = PerCpuHashMap<MapData, Raw<Keyed<K>>, Raw<V>>;

/// A [`Summary`] that runs. Dropping it takes the programs out of the kernel.
pub struct Table<S: Summary> {
    running: Running,
    entries: Entries<S::Key, S::Value>,
    interval: Array<MapData, u64>,
    stacks: Option<Stacks>,
    number: u64,
    taken: u64,
    probe: PhantomData<S>,
}

impl<S: Summary> std::fmt::Debug for Table<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("probe", &S::NAME).field("taken", &self.taken).finish_non_exhaustive()
    }
}

/// The kernel gives a table its memory at once, for every processor: no more than this.
const MEMORY: usize = 128 << 20;

impl<S: Summary> Table<S> {
    /// Loads the probe and hangs it on its tracepoints.
    pub fn start(filter: &Filter) -> Result<Self> {
        Self::start_on(&phase("btf", Btf::of_kernel)?, filter)
    }

    /// The same where the kernel's description is at hand: read once, it serves any number of probes.
    pub fn start_on(btf: &Btf, filter: &Filter) -> Result<Self> {
        let cpus =
            aya::util::nr_cpus().map_err(|(_, cause)| Error::failed("cannot count processors", cause))?;
        let keyed = S::KEYED.is_none_or(|switches| filter.switches & switches != 0);
        let keys = if keyed { S::KEYS } else { 1 };
        let mut sizes = vec![(S::TABLE, entries(keys, size_of::<S::Value>(), cpus))];
        if S::STACKS > 0 {
            sizes.extend(stacks::sizes(filter.stacks.unwrap_or(S::STACKS)));
        }
        let parts = Parts {
            name: S::NAME,
            object: S::OBJECT,
            hooks: S::HOOKS,
            known: S::KNOWN,
            room: SMALLEST_RING,
            sizes,
            numbers: filter.numbers.clone(),
            frequency: filter.frequency(),
            modules: S::MODULES,
            files: filter.files.clone(),
        };
        let mut wanted = filter.resolve()?;
        wanted.filter.switches |= S::SWITCHES;
        let mut running = Running::start(&parts, btf, &wanted)?;
        let failed = |cause| Error::failed(format!("cannot read the table of {}", S::NAME), cause);
        let entries = PerCpuHashMap::try_from(Map::PerCpuHashMap(running.take(S::TABLE)?)).map_err(failed)?;
        let interval = Array::try_from(Map::Array(running.take("INTERVAL")?)).map_err(failed)?;
        let stacks = if S::STACKS > 0 { Some(Stacks::of(&mut running)?) } else { None };
        Ok(Table { running, entries, interval, stacks, number: 0, taken: 0, probe: PhantomData })
    }

    /// What was counted since the last time, by key, and begins anew. Whatever is counted meanwhile is in this table
    /// or in the next, once.
    pub fn take(&mut self) -> Result<BTreeMap<S::Key, S::Value>> {
        let failed = |cause| Error::failed(format!("cannot read the table of {}", S::NAME), cause);
        let ended = self.number;
        self.number += 1;
        self.interval.set(0, self.number, 0).map_err(failed)?;
        sys::wait_for_programs();
        let keys: Result<Vec<_>, _> = self.entries.keys().collect();
        let mut table = BTreeMap::new();
        for key in keys.map_err(failed)?.into_iter().filter(|key| key.0.interval <= ended) {
            let mut value = *S::Value::ZERO;
            self.entries.get(&key, 0).map_err(failed)?.iter().for_each(|one| value.merge(&one.0));
            self.entries.remove(&key).map_err(failed)?;
            self.taken += value.count();
            table.insert(key.0.key, value);
        }
        Ok(table)
    }

    /// Takes the programs off their tracepoints. What they have counted by then can still be taken.
    pub fn detach(&mut self) {
        self.running.detach();
    }

    /// How often something was counted, of what was taken, and how often there was no room for it.
    pub fn counts(&self) -> Result<Counts> {
        let lost = self.running.counts()?.lost;
        Ok(Counts { seen: self.taken + lost, lost })
    }

    /// The stack of a number that a key holds, as long as this value lives. [`Stack::None`] where the probe keeps none.
    pub fn stack(&self, id: i32) -> Result<Stack> {
        self.stacks.as_ref().map_or(Ok(Stack::None), |stacks| stacks.get(id))
    }

    /// The programs themselves: what they cost.
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// From now on the kernel measures what the programs cost. That needs CAP_SYS_ADMIN, and itself costs a little.
    pub fn measure(&mut self) -> Result<()> {
        self.running.measure()
    }
}

/// A ring that is not used still has a size: a page, of the largest that processors have.
const SMALLEST_RING: u32 = 64 << 10;

/// How many entries a table has: two intervals' keys, as far as the memory goes.
fn entries(keys: u32, value: usize, cpus: usize) -> u32 {
    let most = (MEMORY / (value * cpus)).max(2);
    u32::try_from(most).unwrap_or(u32::MAX).min(keys.saturating_mul(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_holds_two_intervals_and_stays_within_its_memory() {
        assert_eq!((entries(1, 2576, 2), entries(4096, 24, 2)), (2, 8192));
        let large = entries(4096, 2576, 256) as usize;
        assert!(large >= 200 && large * 2576 * 256 <= MEMORY, "{large}");
        assert_eq!(entries(1000, 1 << 20, 4096), 2, "one for each interval is always there");
    }
}
