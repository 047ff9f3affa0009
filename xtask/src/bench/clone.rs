//! Clones of a defined 10 GiB machine.

use kld_core::ui::Ui;
use kld_core::{Error, Result};
use kld_test_support::Host;

use super::measure::{Run, ms, once};
use super::{Row, median};
use crate::build;

const TIMES: usize = 15;
const SLOW_TIMES: usize = 10;

/// What people write: an overlay, and the definition with another name, disk, UUID and MAC address.
const SHELL: &str = r#"
set -e
began=$EPOCHREALTIME
qemu-img create -q -f qcow2 -b "$BASE" -F qcow2 "$NEW"
virsh -q -c "$URI" dumpxml template | sed -e 's|<name>template|<name>peer|' -e '/<uuid>/d' -e '/<mac /d' -e "s|$OLD|$NEW|" | virsh -q -c "$URI" define /dev/stdin
ended=$EPOCHREALTIME
virsh -q -c "$URI" undefine peer >&2
rm "$NEW"
echo "$(( (${ended/./} - ${began/./}) ))"
"#;

/// virt-clone, which copies the disk.
const VIRT_CLONE: &str = r#"
set -e
began=$EPOCHREALTIME
virt-clone -q --connect "$URI" --original template --name peer --auto-clone >&2
ended=$EPOCHREALTIME
virsh -q -c "$URI" undefine peer --remove-all-storage >&2
echo "$(( (${ended/./} - ${began/./}) ))"
"#;

pub fn run(ui: &Ui) -> Result<Vec<Row>> {
    build::release()?;
    let bench = Bench::prepare()?;
    let (mut one, mut shell, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    let mut phases: Vec<(String, Vec<f64>)> = Vec::new();
    for _ in 0..TIMES {
        let run = bench.clone(1)?;
        one.push(ms(run.time));
        memory.push(run.memory as f64 / 1e6);
        add_phases(&mut phases, &run.stderr);
        shell.push(bench.script(SHELL)?);
    }
    let (mut ten, mut one_again) = (Vec::new(), Vec::new());
    for _ in 0..SLOW_TIMES {
        ten.push(ms(bench.clone(10)?.time));
        one_again.push(ms(bench.clone(1)?.time));
    }
    let (mut fast, mut copies) = (Vec::new(), Vec::new());
    for _ in 0..SLOW_TIMES {
        copies.push(bench.script(VIRT_CLONE)?);
        fast.push(ms(bench.clone(1)?.time));
    }
    if !ui.json {
        ui.line("where the time of one clone goes (medians; phases may lie within others):")?;
        for (name, samples) in &phases {
            ui.line(format!("  {name:<16} {:>8.2} ms", median(samples)))?;
        }
    }
    Ok(vec![
        Row::new(
            ("clone", "one clone"),
            "ms",
            one,
            ("qemu-img create -b; virsh dumpxml | sed | virsh define", shell),
            "<=0.6",
        ),
        Row::new(
            ("clone", "one clone, copied by the peer"),
            "ms",
            fast,
            ("virt-clone --auto-clone", copies),
            "<=0.6",
        ),
        Row::new(("clone", "ten clones in one call"), "ms", ten, ("one clone", one_again), "<=4"),
        Row::new(("clone", "peak memory"), "MB", memory, ("", Vec::new()), "<=25"),
    ])
}

/// A host with a 10 GiB machine, 256 MiB of it written, that has been cloned before.
struct Bench {
    host: Host,
    base: String,
    top: String,
}

impl Bench {
    fn prepare() -> Result<Bench> {
        let host = Host::try_start()?;
        let image = host.folder().join("home/image.qcow2").display().to_string();
        host.qemu_img(["create", "-q", "-f", "qcow2", &image, "10G"]).ok();
        host.qemu_io(["-f", "qcow2", "-c", "write -P 0x6b 0 256M", &image]).ok();
        host.run("kvm-create", ["template", "--from", &image, "--memory", "1G", "--network", "none"]).ok();
        host.run("kvm-clone", ["template", "first"]).ok();
        let shown = host.run("kvm-show", ["template", "--json"]).json();
        let top = shown["machine"]["disks"][0]["path"].as_str().unwrap_or_default().to_string();
        let info = host.qemu_img(["info", "-U", "--output=json", &top]).json();
        let base = info["full-backing-filename"].as_str().unwrap_or_default().to_string();
        match base.is_empty() {
            true => Err(Error::message("the template does not stand on a base")),
            false => Ok(Bench { host, base, top }),
        }
    }

    /// Makes so many clones in one call, measured, and deletes them.
    fn clone(&self, count: usize) -> Result<Run> {
        let names: Vec<String> = (1..=count).map(|n| format!("web-{n}")).collect();
        let mut command = self.host.command("kvm-clone");
        command.arg("template").args(&names).arg("--timings");
        let run = once(command)?;
        self.host.run("kvm-delete", &names).ok();
        Ok(run)
    }

    /// Runs a peer's script inside the host; it prints its own time in microseconds, without what starts it.
    fn script(&self, script: &str) -> Result<f64> {
        let new = self.host.folder().join("home/peer.qcow2");
        let variables = [
            ("URI", self.host.uri()),
            ("BASE", self.base.clone()),
            ("OLD", self.top.clone()),
            ("NEW", new.display().to_string()),
        ];
        let words = variables.map(|(name, value)| format!("{name}={value}"));
        let all = words.iter().map(String::as_str).chain(["bash", "-c", script]);
        let printed = self.host.inside("env", all).ok();
        let last = printed.lines().last().and_then(|line| line.trim().parse::<f64>().ok());
        last.map(|microseconds| microseconds / 1e3)
            .ok_or_else(|| Error::failed("the peer's script failed", printed))
    }
}

/// Reads the lines that `--timings` writes.
pub(super) fn add_phases(phases: &mut Vec<(String, Vec<f64>)>, stderr: &str) {
    for line in stderr.lines().filter_map(|line| line.strip_prefix("timing: ")) {
        let Some((name, time)) = line.trim_end_matches(" ms").rsplit_once(' ') else { continue };
        let (name, Ok(time)) = (name.trim().to_string(), time.parse()) else { continue };
        match phases.iter_mut().find(|(known, _)| *known == name) {
            Some((_, samples)) => samples.push(time),
            None => phases.push((name, vec![time])),
        }
    }
}
