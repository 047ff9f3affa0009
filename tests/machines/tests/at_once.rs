//! Many clones made and started at once: every guest sees its own volume.
#![allow(
    clippy::print_stderr,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "these are tests"
)]

use std::sync::Mutex;
use std::time::Instant;

use kld_machine_tests::Lab;

/// How many in the full run, and how many else.
const FULL: usize = 50;
const FEW: usize = 6;

#[test]
fn every_guest_of_many_that_start_at_once_sees_its_own_volume() {
    let Some(lab) = Lab::get() else { return };
    let full = std::env::var_os("KLD_FULL").is_some_and(|value| !value.is_empty());
    let names: Vec<String> = (1..=if full { FULL } else { FEW }).map(|n| format!("web-{n}")).collect();
    lab.expect_many();
    lab.template();
    lab.install_hook();
    lab.clones(&names);

    // One link points at another machine's volume, and one is late.
    lab.exchange(&names[0], &names[1]);
    lab.lose(&names[2]);
    let began = Instant::now();
    let refused = start(&lab, &names);
    assert_eq!(refused, [names[0].clone(), names[2].clone()], "these and no others are refused");
    eprintln!("{:.1} s  {} of {} started", began.elapsed().as_secs_f64(), names.len() - 2, names.len());
    refused.iter().for_each(|name| lab.mend(name));
    assert_eq!(start(&lab, &refused), Vec::<String>::new());

    eprintln!("{}", lab.ok("free", &["-m"]));
    names.iter().for_each(|name| assert_eq!(lab.state(name), "running", "{name}"));
    names.iter().for_each(|name| lab.sees_its_own_disk(name));
    eprintln!("{:.1} s  every one of {} has said its mark", began.elapsed().as_secs_f64(), names.len());
}

/// Starts machines at once, every other one by virsh; returns those that were refused, in order.
fn start(lab: &Lab, names: &[String]) -> Vec<String> {
    let refused = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for (name, number) in names.iter().zip(0..) {
            let refused = &refused;
            scope.spawn(move || {
                let ran = match number % 2 {
                    0 => lab.run("virsh", &["start", name]),
                    _ => lab.run("kvm-start", &[name]),
                };
                if ran.code != Some(0) {
                    eprintln!("{name}: {}", ran.stderr.trim());
                    refused.lock().unwrap().push(name.clone());
                }
            });
        }
    });
    let mut refused = refused.into_inner().unwrap();
    refused.sort_by_key(|name| names.iter().position(|one| one == name));
    refused
}
