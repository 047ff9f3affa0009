//! Clones a machine from a program of one's own: `clone SOURCE NEW`.

use std::{path::Path, sync::Arc, time::Duration};

use kld_core::{Config, MachineName, Result};
use kld_kvm::machine::{CloneRequest, Machines};
use kld_kvm::{libvirt::Libvirt, store::DirStore};

fn main() -> Result<()> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let [source, new] = [0, 1].map(|at| MachineName::parse(names.get(at).map_or("", String::as_str)));
    let config = Config::load(None, &[])?;
    let state = Path::new(config.get("state-dir"));
    let libvirt = Arc::new(Libvirt::new(config.get("libvirt-uri"), Duration::from_secs(30), state));
    let store = Arc::new(DirStore::new(config.get("store-root")));
    let report = Machines::new(libvirt, store, state, "my-program")
        .clone_machine(&CloneRequest::new(source?, [new?]))?;
    kld_core::ui::Ui::default().line(format!("{} stands on {}", report.clones[0].name, report.source))
}
