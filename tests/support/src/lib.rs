#![deny(missing_docs)]
//! (being written)

pub mod kill;
