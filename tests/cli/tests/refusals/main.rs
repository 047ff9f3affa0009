//! Bad input of every kind: what is said, with which exit code, and that nothing has changed.
//!
//! The snapshots are tables of command lines and all that they print. A new message belongs here with its hint.

mod definitions;
mod dry_run;
mod hook;
mod images;
mod machines;
mod names;
mod others;
mod output;
mod places;
mod table;
