//! Ask the kernel: BPF programs, their loader, and typed streams of events.
//!
//! ```no_run
//! use kld_ebpf::{Filter, Tracer, probe::Open};
//! for open in Tracer::<Open>::start(&Filter::default())? {
//!     // open.task.pid, open.path, open.result ...
//! }
//! # Ok::<(), kld_core::Error>(())
//! ```
//!
//! Most programs hang on raw tracepoints: those need CAP_BPF and CAP_PERFMON, no file of tracefs and no root. What
//! differs from kernel to kernel, a field's offset above all, is looked up in the [running kernel](btf) and written
//! into the program before it is loaded, so that one object serves all. Nothing is pinned: what a process has
//! loaded ends with it, however it ends.
//!
//! With the feature `tokio` the events are an [async stream](stream) too; with `log` programs in development can
//! [speak](words).
#![deny(missing_docs)]

pub mod btf;
pub mod cgroup;
pub mod filter;
pub mod holders;
pub mod libraries;
pub mod names;
pub mod network;
pub mod privilege;
pub mod probe;
pub mod running;
pub mod stacks;
pub mod symbols;
pub mod syscalls;
pub mod table;
pub mod tracer;
pub mod volumes;
pub mod why;

#[cfg(feature = "tokio")]
pub mod stream;
#[cfg(feature = "log")]
pub mod words;

mod attach;
mod elf;
mod loader;
mod perf;
mod refusal;
mod sample;
mod sys;

pub use btf::Btf;
pub use filter::Filter;
pub use kld_ebpf_events as events;
pub use probe::Probe;
pub use running::Running;
pub use stacks::Stack;
pub use symbols::Symbols;
pub use table::{Summary, Table};
pub use tracer::Tracer;

/// Nanoseconds of the monotonic clock, by which events bear their times.
pub fn monotonic() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is there to be written; this clock is on every system.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
