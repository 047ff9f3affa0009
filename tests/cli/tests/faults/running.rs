//! Killing a clone of a machine that runs. What is prepared cannot be brought back by copying files then: the clone
//! is deleted, and the source runs on.

use std::collections::BTreeSet;
use std::io::Write;

use kld_cli_tests::eye;
use kld_test_support::kill::kill_at;

use crate::lab::Lab;
use crate::sweep::{Said, next_run, points};

/// How many kills there are unless everything is to be tried.
const SAMPLE: usize = 16;
/// The source's chain grows by a file with each clone: after so many it is made anew.
const FRESH: usize = 20;

fn source(lab: &Lab) {
    lab.host.run("kvm-delete", ["live", "--force"]);
    lab.tool("kvm-create", &["live", "--from", &lab.image, "--memory", "32M"]);
    lab.tool("kvm-start", &["live"]);
}

/// What is left in the store that no disk of any machine stands on.
fn orphans(lab: &Lab) -> BTreeSet<String> {
    let there = |machine: &&str| lab.host.virsh(["domstate", machine]).code == Some(0);
    let machines = ["bystander", "live", "web"].into_iter().filter(there);
    eye(&lab.host).orphans(&lab.host, &machines.flat_map(|machine| lab.disks(machine)).collect::<Vec<_>>())
}

#[test]
fn a_killed_clone_of_a_running_machine_is_undone_or_finished_and_the_machine_runs_on() {
    let lab = crate::NOTHING.lend();
    let orphaned = orphans(&lab);
    source(&lab);
    let clone = || {
        let mut command = lab.host.command("kvm-clone");
        command.args(["live", "web"]);
        command
    };
    let whole = kill_at(clone(), None);
    assert_eq!(
        (whole.code, whole.stdout.as_str()),
        (Some(0), "web cloned from live (crash-consistent)\n"),
        "{}",
        whole.stderr
    );
    lab.tool("kvm-delete", &["web"]);

    let (mut tried, mut finished, mut undone) = (0, 0, 0);
    for n in points(whole.calls, SAMPLE) {
        if tried % FRESH == FRESH - 1 {
            source(&lab);
        }
        let outcome = kill_at(clone(), Some(n));
        tried += 1;
        let at = format!("killed at {n} of {} ({})", whole.calls, outcome.names.join(" "));
        let begun = lab.journal_entries();
        let said = Said::of(&next_run(&lab));
        let cloned = lab.host.virsh(["domstate", "web"]).code == Some(0);
        match said {
            Said::Nothing => assert_eq!(begun, 0, "{at}: the next run does not say what it did"),
            Said::Finished => finished += 1,
            Said::Undid => undone += 1,
        }
        assert!(
            said == Said::Nothing || cloned == (said == Said::Finished),
            "{at}: {said:?}, but cloned: {cloned}"
        );
        assert_eq!(lab.host.virsh(["domstate", "live"]).ok().trim(), "running", "{at}");
        let listed = |kind: &[&str]| lab.host.virsh([&["domblklist", "live"], kind].concat()).ok();
        assert_eq!(listed(&[]), listed(&["--inactive"]), "{at}: it goes on elsewhere when it starts again");
        assert_eq!(lab.journal_entries(), 0, "{at}");
        assert_eq!(orphans(&lab), orphaned, "{at}");
        assert_eq!(lab.complaints(), Vec::<String>::new(), "{at}");
        if cloned {
            for machine in ["live", "web"] {
                let disk = &lab.disks(machine)[0];
                let format = eye(&lab.host).format();
                let read =
                    lab.host.qemu_io(["-U", "-r", "-f", format, "-c", "read -P 0x6b 0 64k", disk]).ok();
                assert!(!read.contains("verification failed"), "{at}: {machine} reads something else");
            }
            lab.tool("kvm-delete", &["web"]);
        } else {
            assert!(!eye(&lab.host).state_of(&lab.host, "web").exists(), "{at}");
        }
    }
    lab.tool("kvm-delete", &["live", "--force"]);
    assert!(finished > 0 && undone > 0, "{finished} finished, {undone} undone");
    let _ = writeln!(
        std::io::stderr(),
        "clone of a running machine: {} kill points, {tried} tried: {finished} finished, {undone} undone",
        whole.calls
    );
}
