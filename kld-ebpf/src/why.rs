//! Why is this host slow? Probes that run together for a while, what the kernel's own files say meanwhile, and a ranked
//! answer.
//!
//! [`Watch`] gathers an [`Evidence`]; [`judge`](judge()) is a pure function from it to ranked [`Finding`]s, so that a
//! decision can be repeated on what was recorded elsewhere.

mod evidence;
mod figures;
mod gather;
mod host;
mod judge;
mod seen;
mod stall;

pub use evidence::{
    Arc, Blind, Connects, Disk, Drops, Evidence, Kill, Pressure, Process, Reads, Reclaim, Retransmits,
    RunQueue, Share, SlowConnect, Throttled, TroubledFlow,
};
pub use figures::figures;
pub use gather::Watch;
pub use judge::{Finding, Kind, THRESHOLD, judge};
