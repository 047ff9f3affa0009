//! Starts a private libvirt host, prints its settings, and keeps it until standard input ends. With an argument,
//! QEMU does not run as root there.

use kld_test_support::Host;

fn main() {
    let host = if std::env::args().count() > 1 { Host::unprivileged() } else { Host::start() };
    let settings: Vec<String> =
        host.env().into_iter().map(|(name, value)| format!("export {name}='{value}'\n")).collect();
    let ui = kld_core::ui::Ui::default();
    let _ = ui.raw(settings.concat().as_bytes());
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
}
