//! The tools that ask the kernel: one program, a tool for each name it is called by.

mod args;
mod execsnoop;
mod exitsnoop;
mod killsnoop;
mod opensnoop;
mod probe;
mod stats;
mod stop;
mod stream;
mod tcpconnect;
mod tcplife;
mod tcpstates;
mod view;

use std::process::ExitCode;

use kld_core::tool::{Tool, family_main};

/// The tools of the family.
const TOOLS: &[Tool] = &[
    execsnoop::TOOL,
    exitsnoop::TOOL,
    opensnoop::TOOL,
    killsnoop::TOOL,
    tcpconnect::TOOL,
    tcplife::TOOL,
    tcpstates::TOOL,
];

fn main() -> ExitCode {
    family_main("kld-trace", TOOLS, probe::probes)
}
