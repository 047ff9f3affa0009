//! A probe that runs, and the stream of what it tells.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aya::maps::{Map, MapData, RingBuf};
use kld_core::timing::phase;
use kld_core::{Error, Result};
use kld_ebpf_events::Counts;

use crate::loader::Parts;
use crate::probe::Probe;
use crate::running::Running;
use crate::{Btf, Filter, sys};

/// How often the ring is looked into. The programs wake nobody, since that would be most of what they cost.
pub const POLL: Duration = Duration::from_millis(5);

/// After so many events the clock is looked at.
pub(crate) const LOOK: u64 = 256;

/// A probe that runs. As an iterator it waits for events; it ends when it is [stopped](Tracer::stopper) or its
/// [time](Tracer::stop_at) has come. Dropping it takes the programs out of the kernel.
pub struct Tracer<P> {
    running: Running,
    ring: RingBuf<MapData>,
    end: Arc<AtomicBool>,
    deadline: Option<Instant>,
    detached: bool,
    read: u64,
    probe: PhantomData<fn() -> P>,
}

impl<P: Probe> std::fmt::Debug for Tracer<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tracer").field("probe", &P::NAME).field("read", &self.read).finish_non_exhaustive()
    }
}

/// Ends a tracer's stream from elsewhere: a signal's handler, another thread.
#[derive(Debug, Clone)]
pub struct Stopper(Arc<AtomicBool>);

impl Stopper {
    /// The stream ends after what has already happened.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// The flag itself, for a signal's handler.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.0.clone()
    }
}

impl<P: Probe> Tracer<P> {
    /// Loads the probe and hangs it on its tracepoints.
    pub fn start(filter: &Filter) -> Result<Self> {
        Self::start_on(&phase("btf", Btf::of_kernel)?, filter)
    }

    /// The same where the kernel's description is at hand: read once, it serves any number of probes.
    pub fn start_on(btf: &Btf, filter: &Filter) -> Result<Self> {
        let parts = Parts {
            name: P::NAME,
            object: P::OBJECT,
            hooks: P::HOOKS,
            known: P::KNOWN,
            room: P::ROOM,
            sizes: Vec::new(),
            numbers: filter.numbers.clone(),
            frequency: filter.frequency(),
            modules: P::MODULES,
            files: filter.files.clone(),
        };
        let mut wanted = filter.resolve()?;
        wanted.filter.switches |= P::SWITCHES;
        let mut running = Running::start(&parts, btf, &wanted)?;
        let failed = |cause| Error::failed(format!("cannot read the events of {}", P::NAME), cause);
        let ring = RingBuf::try_from(Map::RingBuf(running.take("EVENTS")?)).map_err(failed)?;
        let (end, probe) = (Arc::default(), PhantomData);
        Ok(Tracer { running, ring, end, deadline: None, detached: false, read: 0, probe })
    }

    /// A map of the program's own, to be filled or read.
    pub fn take_map(&mut self, name: &str) -> Result<MapData> {
        self.running.take(name)
    }

    /// The stream ends at this time.
    pub fn stop_at(&mut self, deadline: Instant) {
        self.deadline = Some(deadline);
    }

    /// What ends the stream from elsewhere.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.end.clone())
    }

    /// The next event that has already happened; never waits.
    pub fn poll(&mut self) -> Option<P::Event> {
        loop {
            let bytes = self.ring.next()?;
            self.read += 1;
            if let Some(event) = P::decode(&bytes) {
                return Some(event);
            }
        }
    }

    /// What is next; never waits. The programs are taken off their tracepoints when the end has come, and what they
    /// have told by then is still read.
    pub(crate) fn step(&mut self) -> Step<P::Event> {
        // There may never be a moment without events, so the end is looked for among them too.
        if !self.detached && self.read.is_multiple_of(LOOK) && self.is_over() {
            self.detach();
        }
        loop {
            if let Some(event) = self.poll() {
                return Step::Event(event);
            }
            if self.detached {
                return Step::Over;
            }
            if !self.is_over() {
                return Step::Wait;
            }
            self.detach();
        }
    }

    /// How long to wait for events: a moment, but not beyond the end.
    pub(crate) fn moment(&self) -> Duration {
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        left.map_or(POLL, |left| left.min(POLL))
    }

    /// Whether the stream is to end.
    pub fn is_over(&self) -> bool {
        self.end.load(Ordering::Relaxed) || self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Waits a moment for events, but not beyond the end.
    pub fn pause(&self) {
        std::thread::sleep(self.moment());
    }

    /// Takes the programs off their tracepoints, and waits until those that run have ended. What they have told by then
    /// can still be read.
    pub fn detach(&mut self) {
        if !self.detached {
            self.running.detach();
            // What is told when all seems to be read would be counted and never read.
            sys::wait_for_programs();
        }
        self.detached = true;
    }

    /// Whether the programs are off their tracepoints.
    pub fn is_detached(&self) -> bool {
        self.detached
    }

    /// How many events were read.
    pub fn events_read(&self) -> u64 {
        self.read
    }

    /// What the programs have counted. After [`detach`](Self::detach) and when all is read, what was seen is what was
    /// read and what was lost.
    pub fn counts(&self) -> Result<Counts> {
        self.running.counts()
    }

    /// The programs themselves: what they have counted, and what they cost.
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// From now on the kernel measures what the programs cost. That needs CAP_SYS_ADMIN, and itself costs a little.
    pub fn measure(&mut self) -> Result<()> {
        self.running.measure()
    }
}

/// What is next of a stream.
pub(crate) enum Step<E> {
    Event(E),
    /// Nothing for now.
    Wait,
    /// Nothing any more.
    Over,
}

impl<P: Probe> Iterator for Tracer<P> {
    type Item = P::Event;

    fn next(&mut self) -> Option<P::Event> {
        loop {
            match self.step() {
                Step::Event(event) => return Some(event),
                Step::Wait => self.pause(),
                Step::Over => return None,
            }
        }
    }
}
