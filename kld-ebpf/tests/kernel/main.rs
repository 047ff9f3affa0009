//! Every probe sees what generators of ours do, on the kernel that runs here.

mod common;
mod open;
mod process;
mod tcp;
