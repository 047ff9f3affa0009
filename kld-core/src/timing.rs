//! Where a tool's time goes: phases that are measured when somebody asks (`--timings`), and cost nothing otherwise.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

static ENABLED: AtomicBool = AtomicBool::new(false);
static PHASES: Mutex<Vec<(&'static str, Duration)>> = Mutex::new(Vec::new());

/// From now on phases are measured.
pub fn enable() {
    ENABLED.store(true, Ordering::Relaxed);
}

/// Does something as a phase of this name. Phases may lie within others.
pub fn phase<T>(name: &'static str, deed: impl FnOnce() -> T) -> T {
    if !ENABLED.load(Ordering::Relaxed) {
        return deed();
    }
    let began = Instant::now();
    let outcome = deed();
    PHASES.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((name, began.elapsed()));
    outcome
}

/// The phases so far, each name once with its sum, in the order in which they first ended.
pub fn phases() -> Vec<(&'static str, Duration)> {
    let mut sums: Vec<(&'static str, Duration)> = Vec::new();
    for (name, time) in PHASES.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter() {
        match sums.iter_mut().find(|(known, _)| known == name) {
            Some((_, sum)) => *sum += *time,
            None => sums.push((name, *time)),
        }
    }
    sums
}
