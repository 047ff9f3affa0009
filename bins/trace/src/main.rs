//! The tools that ask the kernel: one program, a tool for each name it is called by.

mod args;
mod bindsnoop;
mod capable;
mod drsnoop;
mod execsnoop;
mod exitsnoop;
mod killsnoop;
mod mountsnoop;
mod oomkill;
mod opensnoop;
mod probe;
mod solisten;
mod stats;
mod statsnoop;
mod stop;
mod stream;
mod tcpaccept;
mod tcpconnect;
mod tcpconnlat;
mod tcpdrop;
mod tcplife;
mod tcpretrans;
mod tcpstates;
mod threadsnoop;
mod view;

use std::process::ExitCode;

use kld_core::tool::{Tool, family_main};

/// The tools of the family.
const TOOLS: &[Tool] = &[
    execsnoop::TOOL,
    exitsnoop::TOOL,
    opensnoop::TOOL,
    statsnoop::TOOL,
    killsnoop::TOOL,
    mountsnoop::TOOL,
    threadsnoop::TOOL,
    capable::TOOL,
    tcpconnect::TOOL,
    tcpaccept::TOOL,
    tcpconnlat::TOOL,
    tcplife::TOOL,
    tcpstates::TOOL,
    tcpretrans::TOOL,
    tcpdrop::TOOL,
    bindsnoop::TOOL,
    solisten::TOOL,
    oomkill::TOOL,
    drsnoop::TOOL,
];

fn main() -> ExitCode {
    family_main("kld-trace", TOOLS, probe::probes)
}
