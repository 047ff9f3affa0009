//! Interrupts: how often and how long, by handler.

use kld_ebpf_events::histogram::Histogram;
use kld_ebpf_events::irq::{DISTRIBUTION, Handler};
use kld_ebpf_events::table::Total;
use kld_ebpf_events::text;

use super::{Hook, Known};
use crate::table::Summary;

const OBJECT: &[u8] = include_bytes!("../../objects/irqs.o");
const HARD: &[Hook] =
    &[Hook::new("hard_begun", "irq_handler_entry"), Hook::new("hard_ended", "irq_handler_exit")];
const SOFT: &[Hook] = &[Hook::new("soft_begun", "softirq_entry"), Hook::new("soft_ended", "softirq_exit")];
const ACTION: &[Known] = &[Known::field("ACTION_NAME", &["irqaction.name"])];

/// So many handlers there are in an interval.
const MOST: u32 = 512;

/// How often and how long devices interrupt, by handler.
#[derive(Debug, Clone, Copy)]
pub struct HardIrqs;

/// How long devices interrupt, as a distribution for each handler.
#[derive(Debug, Clone, Copy)]
pub struct HardIrqDist;

/// How often and how long the kernel's own deferred work takes, by kind.
#[derive(Debug, Clone, Copy)]
pub struct SoftIrqs;

/// How long the kernel's own deferred work takes, as a distribution for each kind.
#[derive(Debug, Clone, Copy)]
pub struct SoftIrqDist;

impl Summary for HardIrqs {
    type Key = Handler;
    type Value = Total;
    const NAME: &'static str = "hardirqs";
    const OBJECT: &'static [u8] = OBJECT;
    const HOOKS: &'static [Hook] = HARD;
    const KNOWN: &'static [&'static [Known]] = &[ACTION];
    const TABLE: &'static str = "TOTALS";
    const KEYS: u32 = MOST;
}

impl Summary for HardIrqDist {
    type Key = Handler;
    type Value = Histogram;
    const NAME: &'static str = "hardirqs";
    const OBJECT: &'static [u8] = OBJECT;
    const HOOKS: &'static [Hook] = HARD;
    const KNOWN: &'static [&'static [Known]] = &[ACTION];
    const SWITCHES: u32 = DISTRIBUTION;
    const KEYS: u32 = MOST;
}

impl Summary for SoftIrqs {
    type Key = Handler;
    type Value = Total;
    const NAME: &'static str = "softirqs";
    const OBJECT: &'static [u8] = OBJECT;
    const HOOKS: &'static [Hook] = SOFT;
    const KNOWN: &'static [&'static [Known]] = &[];
    const TABLE: &'static str = "TOTALS";
    const KEYS: u32 = SOFTIRQS.len() as u32;
}

impl Summary for SoftIrqDist {
    type Key = Handler;
    type Value = Histogram;
    const NAME: &'static str = "softirqs";
    const OBJECT: &'static [u8] = OBJECT;
    const HOOKS: &'static [Hook] = SOFT;
    const KNOWN: &'static [&'static [Known]] = &[];
    const SWITCHES: u32 = DISTRIBUTION;
    const KEYS: u32 = SOFTIRQS.len() as u32;
}

/// The kinds of deferred work, in the order of their vectors (linux/interrupt.h), as bcc writes them.
const SOFTIRQS: [&str; 10] =
    ["hi", "timer", "net_tx", "net_rx", "block", "irq_poll", "tasklet", "sched", "hrtimer", "rcu"];

/// A device's handler's name.
pub fn hard_name(handler: &Handler) -> &str {
    text(&handler.name)
}

/// The name of a kind of deferred work.
pub fn soft_name(handler: &Handler) -> &'static str {
    SOFTIRQS.get(usize::from(handler.name[0])).unwrap_or(&"unknown")
}
