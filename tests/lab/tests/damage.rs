//! Damaged parts are made again. This is a program of its own, so that no other test starts a lab meanwhile.

use kld_build::Cache;
use kld_build::appliance::Network;
use kld_core::ui::Ui;
use kld_lab::Parts;

#[test]
#[ignore = "minutes: cargo xtask lab test"]
fn a_lab_whose_state_was_cut_short_is_made_anew() {
    let (cache, ui) = (Cache::of_user(), Ui::default());
    let parts = Parts::ensure(&cache, &ui).unwrap();
    let files = parts.files();
    let memory = files.last().unwrap();
    let length = memory.metadata().unwrap().len();
    std::fs::File::options().write(true).open(memory).unwrap().set_len(length / 2).unwrap();
    assert!(Parts::find(&cache).unwrap().is_none(), "the damage is not seen");

    let parts = Parts::ensure(&cache, &ui).unwrap();
    let network = Network::new().unwrap();
    let lab = parts.start("lab", 1, &[network.plug()]).unwrap();
    assert_eq!(lab.agent().ask(&["hostname"]).unwrap(), "lab\n");
}
