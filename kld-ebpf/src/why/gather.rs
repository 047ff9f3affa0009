//! Probes that run together: one description of the kernel's types, one wait.

use std::time::{Duration, Instant};

use kld_core::timing::phase;
use kld_core::{Error, Result};

use super::evidence::{Blind, Evidence};
use super::host::{Hierarchy, Host};
use super::seen::{Seen, connects, disks, drops, kill, reclaim, retransmits};
use crate::names::Cgroups;
use crate::probe::{
    BioLatency, BioTop, DropReasons, OomKill, Reclaim as Reclaiming, RunqLat, RunqSlower, TcpDrop,
    TcpLatency, TcpRetransmit,
};
use crate::{Btf, Filter, Probe, Summary, Table, Tracer, monotonic};

/// Waits for a processor are told with their tasks from so many microseconds on.
const LONG_WAIT_US: u32 = 1000;
/// So often the events are read.
const LOOK: Duration = Duration::from_millis(20);
/// A host that is watched. Dropping it takes the programs out of the kernel.
#[derive(Debug)]
pub struct Watch {
    probes: Probes,
    seen: Seen,
    blind: Vec<(&'static str, Error)>,
    reasons: DropReasons,
    groups: Cgroups,
    before: Host,
    began: u64,
}

/// Each runs, or could not be loaded here. Where tasks wait off the processors is to be one more of them.
#[derive(Debug)]
struct Probes {
    run_queue: Option<Table<RunqLat>>,
    long_waits: Option<Tracer<RunqSlower>>,
    latency: Option<Table<BioLatency>>,
    users: Option<Table<BioTop>>,
    retransmits: Option<Tracer<TcpRetransmit>>,
    connects: Option<Tracer<TcpLatency>>,
    drops: Option<Tracer<TcpDrop>>,
    reclaim: Option<Tracer<Reclaiming>>,
    kills: Option<Tracer<OomKill>>,
}

impl Watch {
    /// Loads what can be loaded here, and begins. A probe that cannot be is told in the [`Evidence`].
    pub fn start() -> Result<Watch> {
        let mut blind = Vec::new();
        let btf = phase("btf", Btf::of_kernel);
        let btf = btf.map_err(|error| blind.push(("every probe", error))).ok();
        let mut loader = Loader { btf: btf.as_ref(), blind: &mut blind };
        let numbers = vec![(RunqSlower::SHORTEST, LONG_WAIT_US)];
        let disks = BioLatency::BY_DISK | BioLatency::BY_FLAGS | BioLatency::QUEUED;
        let probes = Probes {
            run_queue: loader.table(&Filter::all()),
            long_waits: loader.tracer(&Filter { numbers, ..Filter::all() }),
            latency: loader.table(&Filter { switches: disks, ..Filter::all() }),
            users: loader.table(&Filter::all()),
            // A tail loss probe too is sent after a wait.
            retransmits: loader.tracer(&Filter { switches: TcpRetransmit::PROBES, ..Filter::all() }),
            connects: loader.tracer(&Filter::all()),
            drops: loader.tracer(&Filter::all()),
            // Kernels without control groups for memory have no tracepoints of theirs.
            reclaim: loader.tracer(&Filter { switches: Reclaiming::GROUPS, ..Filter::all() }),
            kills: loader.tracer(&Filter::all()),
        };
        let reasons = btf.as_ref().map(DropReasons::of).unwrap_or_default();
        let seen = Seen::nothing(Hierarchy::of_processors());
        let (groups, before) = (Cgroups::look(), Host::look());
        let mut watch = Watch { probes, seen, blind, reasons, groups, before, began: 0 };
        watch.forget()?;
        Ok(watch)
    }

    /// What was counted while the other probes were loaded does not count.
    fn forget(&mut self) -> Result<()> {
        self.read();
        self.probes.run_queue.as_mut().map(Table::take).transpose()?;
        self.probes.latency.as_mut().map(Table::take).transpose()?;
        self.probes.users.as_mut().map(Table::take).transpose()?;
        self.before = Host::look();
        self.began = monotonic();
        self.seen.begin(self.began);
        Ok(())
    }

    /// Waits for so long, or until it is to be over.
    pub fn wait(&mut self, time: Duration, is_over: impl Fn() -> bool) {
        let end = Instant::now() + time;
        while !is_over() {
            self.read();
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            std::thread::sleep(left.min(LOOK));
        }
    }

    /// Reads what the programs have told by now.
    fn read(&mut self) {
        let Watch { probes, seen, .. } = self;
        drain(&mut probes.long_waits, |wait| seen.long_wait(&wait));
        drain(&mut probes.retransmits, |segment| seen.retransmits.push(segment));
        drain(&mut probes.connects, |answer| seen.connects.push(answer));
        drain(&mut probes.drops, |packet| *seen.drops.entry(packet.reason).or_default() += 1);
        drain(&mut probes.reclaim, |reclaim| seen.reclaim.push(reclaim));
        drain(&mut probes.kills, |kill| seen.kills.push(kill));
    }

    /// Ends the watch, and returns what was seen. Fails where nothing at all could be looked at.
    pub fn end(mut self) -> Result<Evidence> {
        let ended = monotonic();
        let after = Host::look();
        self.probes.detach();
        self.read();
        let seconds = (ended - self.began) as f64 / 1e9;
        let window = (self.began, ended);
        let lost = self.probes.lost()?;
        let Watch { mut probes, seen, blind, reasons, mut groups, before, .. } = self;
        let evidence = Evidence {
            seconds,
            cpus: after.cpus(),
            busy_s: after.busy_since(&before),
            run_queue: probes.run_queue.as_mut().map(|table| seen.run_queue(table)).transpose()?,
            disks: probes.latency.as_mut().map(|table| disks(table, probes.users.as_mut())).transpose()?,
            retransmits: probes
                .retransmits
                .is_some()
                .then(|| retransmits(&seen.retransmits, after.segments_since(&before), window)),
            connects: probes.connects.is_some().then(|| connects(&seen.connects, window)),
            drops: probes.drops.is_some().then(|| drops(&seen.drops, &reasons)),
            reclaim: probes.reclaim.is_some().then(|| reclaim(&seen.reclaim, &mut groups)),
            kills: probes.kills.is_some().then(|| seen.kills.iter().map(kill).collect()),
            throttled: after.throttled_since(&before),
            reads: after.reads_since(&before),
            arc: after.arc_since(&before),
            pressure: after.pressure_since(&before, seconds),
            blind: told(&blind),
            lost,
        };
        let sees = evidence.pressure.is_some() || evidence.throttled.is_some() || !probes.are_none();
        match blind.into_iter().next() {
            Some((_, error)) if !sees => Err(error),
            _ => Ok(evidence),
        }
    }
}

impl Probes {
    fn detach(&mut self) {
        self.run_queue.iter_mut().for_each(Table::detach);
        self.latency.iter_mut().for_each(Table::detach);
        self.users.iter_mut().for_each(Table::detach);
        self.long_waits.iter_mut().for_each(Tracer::detach);
        self.retransmits.iter_mut().for_each(Tracer::detach);
        self.connects.iter_mut().for_each(Tracer::detach);
        self.drops.iter_mut().for_each(Tracer::detach);
        self.reclaim.iter_mut().for_each(Tracer::detach);
        self.kills.iter_mut().for_each(Tracer::detach);
    }

    fn running(&self) -> impl Iterator<Item = &crate::Running> {
        let tables = [
            self.run_queue.as_ref().map(Table::running),
            self.latency.as_ref().map(Table::running),
            self.users.as_ref().map(Table::running),
        ];
        let tracers = [
            self.long_waits.as_ref().map(Tracer::running),
            self.retransmits.as_ref().map(Tracer::running),
            self.connects.as_ref().map(Tracer::running),
            self.drops.as_ref().map(Tracer::running),
            self.reclaim.as_ref().map(Tracer::running),
            self.kills.as_ref().map(Tracer::running),
        ];
        tables.into_iter().chain(tracers).flatten()
    }

    fn are_none(&self) -> bool {
        self.running().next().is_none()
    }

    fn lost(&self) -> Result<u64> {
        self.running().map(|probe| Ok(probe.counts()?.lost)).sum()
    }
}

/// Loads one probe after the other, and keeps why one was not.
struct Loader<'a> {
    btf: Option<&'a Btf>,
    blind: &'a mut Vec<(&'static str, Error)>,
}

impl Loader<'_> {
    fn keep<T>(&mut self, name: &'static str, loaded: Result<T>) -> Option<T> {
        loaded.map_err(|error| self.blind.push((name, error))).ok()
    }

    fn table<S: Summary>(&mut self, filter: &Filter) -> Option<Table<S>> {
        let loaded = Table::start_on(self.btf?, filter);
        self.keep(S::NAME, loaded)
    }

    fn tracer<P: Probe>(&mut self, filter: &Filter) -> Option<Tracer<P>> {
        let loaded = Tracer::start_on(self.btf?, filter);
        self.keep(P::NAME, loaded)
    }
}

/// Why probes were not loaded, each reason once.
fn told(blind: &[(&'static str, Error)]) -> Vec<Blind> {
    let mut all: Vec<Blind> = Vec::new();
    for (probe, error) in blind {
        let why = error.to_string();
        match all.iter_mut().find(|known| known.why == why) {
            Some(known) => known.probes.push((*probe).to_string()),
            None => all.push(Blind { probes: vec![(*probe).to_string()], why }),
        }
    }
    all
}

fn drain<P: Probe>(tracer: &mut Option<Tracer<P>>, mut keep: impl FnMut(P::Event)) {
    while let Some(event) = tracer.as_mut().and_then(Tracer::poll) {
        keep(event);
    }
}
