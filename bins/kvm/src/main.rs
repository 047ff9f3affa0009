//! The kvm-* family: one program, a tool for each name it is called by.
#![allow(clippy::large_enum_variant)]

mod args;
mod clone;
mod console;
mod create;
mod delete;
mod hook;
mod host;
mod ip;
mod list;
mod power;
mod probe;
mod show;
mod snap;
mod template;

use std::process::ExitCode;

use kld_core::tool::{Tool, family_main};

/// The tools of the family.
const TOOLS: &[Tool] = &[
    create::TOOL,
    clone::TOOL,
    snap::TOOL,
    list::TOOL,
    show::TOOL,
    power::START,
    power::STOP,
    console::TOOL,
    ip::TOOL,
    template::TOOL,
    delete::TOOL,
    hook::TOOL,
];

fn main() -> ExitCode {
    match hook::called() {
        Some(call) => hook::answer(&call),
        None => family_main("kld-kvm", TOOLS, probe::probes),
    }
}
