//! Every probe sees what generators of ours do, on the kernel that runs here.
#![allow(clippy::print_stderr, reason = "a test says why it does not run")]
#![allow(clippy::print_stdout, reason = "and what it is about")]

mod block;
mod cache;
mod common;
mod count;
mod file;
mod group;
mod guest;
mod io;
mod lock;
mod loss;
mod memory;
mod namespace;
mod open;
mod passed;
mod process;
mod sched;
mod slab;
mod socket;
mod stack;
mod stream;
mod tcp;
mod user;
mod why;
mod words;
mod zfs;
