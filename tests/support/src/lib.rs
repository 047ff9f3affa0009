#![deny(missing_docs)]
//! (being written)
