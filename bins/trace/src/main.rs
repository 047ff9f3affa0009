//! The tools that ask the kernel: one program, a tool for each name it is called by.

mod args;
mod bashreadline;
mod bindsnoop;
mod biolatency;
mod biopattern;
mod biosnoop;
mod biotop;
mod bitesize;
mod cachestat;
mod capable;
mod cpudist;
mod disk;
mod drsnoop;
mod execsnoop;
mod exitsnoop;
mod expose;
mod file;
mod fileslower;
mod filetop;
mod gethostlatency;
mod hardirqs;
mod histogram;
mod http;
mod impossible;
mod irq;
mod killsnoop;
mod klockstat;
mod kvmexit;
mod mountsnoop;
mod offcputime;
mod oomkill;
mod opensnoop;
mod place;
mod probe;
mod profile;
mod prometheus;
mod runqlat;
mod runqlen;
mod runqslower;
mod slabratetop;
mod slow;
mod softirqs;
mod solisten;
mod stacks;
mod stats;
mod statsnoop;
mod stop;
mod stream;
mod syscount;
mod tables;
mod tcpaccept;
mod tcpconnect;
mod tcpconnlat;
mod tcpdrop;
mod tcplife;
mod tcpretrans;
mod tcprtt;
mod tcpstates;
mod tcptop;
mod threadsnoop;
mod vfsstat;
mod view;
mod wakeuptime;
mod wg_leaks;
mod why_slow;
mod zfsdist;
mod zfsslower;

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
    filetop::TOOL,
    fileslower::TOOL,
    vfsstat::TOOL,
    cachestat::TOOL,
    gethostlatency::TOOL,
    bashreadline::TOOL,
    kvmexit::TOOL,
    zfsslower::TOOL,
    zfsdist::TOOL,
    biolatency::TOOL,
    biopattern::TOOL,
    biosnoop::TOOL,
    biotop::TOOL,
    bitesize::TOOL,
    cpudist::TOOL,
    hardirqs::TOOL,
    klockstat::TOOL,
    offcputime::TOOL,
    profile::TOOL,
    runqlat::TOOL,
    runqlen::TOOL,
    runqslower::TOOL,
    slabratetop::TOOL,
    softirqs::TOOL,
    syscount::TOOL,
    wakeuptime::TOOL,
    tcpconnect::TOOL,
    tcpaccept::TOOL,
    tcpconnlat::TOOL,
    tcplife::TOOL,
    tcprtt::TOOL,
    tcpstates::TOOL,
    tcptop::TOOL,
    tcpretrans::TOOL,
    tcpdrop::TOOL,
    bindsnoop::TOOL,
    solisten::TOOL,
    oomkill::TOOL,
    drsnoop::TOOL,
    why_slow::TOOL,
    wg_leaks::TOOL,
];

fn main() -> ExitCode {
    family_main("kld-trace", TOOLS, probe::probes)
}
