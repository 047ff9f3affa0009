//! What every kld crate speaks: names, sizes, errors, plans, journals, locks, and the traits that plugins
//! implement.
//!
//! kld-core knows no other kld crate. Decisions are pure functions over the types here; the modules that touch
//! the machine ([`exec`], [`fsio`], [`journal`], [`lock`]) each have one subject.
#![deny(missing_docs)]

pub mod change;
pub mod config;
pub mod error;
pub mod exec;
pub mod fsio;
pub mod hypervisor;
pub mod journal;
pub mod lock;
pub mod name;
pub mod plan;
pub mod probe;
pub mod retry;
pub mod size;
pub mod store;
pub mod suggest;
pub mod time;
pub mod timing;
pub mod tool;
pub mod ui;

pub use change::Change;
pub use config::Config;
pub use error::{Error, Exit, Result};
pub use name::{MachineName, SnapshotTag};
pub use plan::Plan;
pub use probe::Probe;
pub use size::ByteSize;
