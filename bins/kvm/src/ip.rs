//! `kvm-ip`: a machine's addresses.

use std::time::{Duration, Instant};

use clap::{Arg, ArgMatches, Command, value_parser};
use kld_core::tool::{Context, Tool};
use kld_core::{Error, Result};

use crate::args::{name, name_arg};
use crate::host::machines;

pub const TOOL: Tool = Tool { name: "kvm-ip", about: kld_catalog::about("kvm-ip"), command, run };

fn command() -> Command {
    Command::new("kvm-ip")
        .args([
            name_arg("name", "The machine"),
            Arg::new("wait")
                .long("wait")
                .short('w')
                .value_name("SECONDS")
                .value_parser(value_parser!(u64).range(0..=86_400))
                .default_value("0")
                .help("How long to wait for an address"),
        ])
        .after_help("Examples:\n  kvm-ip web-5\n  ssh admin@$(kvm-ip web-5 --wait 60 | head -n 1)")
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let name = name(matches, "name")?;
    let deadline = Instant::now() + Duration::from_secs(matches.get_one("wait").copied().unwrap_or(0));
    let machines = machines(context)?;
    let addresses = loop {
        let found = machines.addresses(&name)?;
        if !found.is_empty() {
            break found;
        }
        if Instant::now() >= deadline {
            return Err(Error::message(format!("no address of {name} is known"))
                .with_hint("its guest may still be booting (--wait SECONDS), or its network gives no leases that libvirt sees"));
        }
        std::thread::sleep(Duration::from_millis(500));
    };
    if context.ui.json {
        return context.ui.json(&serde_json::json!({"version": 1, "name": name, "addresses": addresses}));
    }
    addresses.iter().try_for_each(|address| context.ui.line(address.address))
}
