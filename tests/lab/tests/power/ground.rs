//! A lab with a pool, a journal and libvirt's definitions on disks that outlive it, prepared once.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use kld_build::Agent;
use kld_build::appliance::{Disks, Loss, Network, Pipes, Ran, Writes};
use kld_core::exec::Exec;
use kld_lab::{Parts, tools};
use kld_test_support::tool;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::look;

/// libvirt's daemon is started when its definitions are there.
const STOP: &str = "pid=$(cat /run/libvirtd.pid); kill $pid; while [ -e /proc/$pid ]; do sleep 0.1; done";
const BACK: &str = include_str!("back.sh");
const PREPARE: &str = include_str!("prepare.sh");
const LOOK: &str = include_str!("look.sh");
const MEND: &str = include_str!("mend.sh");

/// What the tools are told.
const SETTINGS: [&str; 3] = ["env", "KLD_ZFS_ROOT=tank/kld", "KLD_NETWORK=none"];

/// What a cut leaves of writes that were not flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    /// All that the guest has written.
    Stays,
    /// Nothing.
    IsLost,
    /// Each of them or not, by chance.
    IsTorn,
}

/// The prepared lab: its state, and its disks as they were then.
pub struct Ground {
    parts: Parts,
    folder: tempfile::TempDir,
}

/// How the killed run went.
pub struct Cut {
    /// Its exit code, where it came to its end before.
    pub code: Option<i32>,
    /// What was lost.
    pub loss: Loss,
    /// The disks afterwards.
    disks: tempfile::TempDir,
}

/// What is there when the power is back and the next tool has run.
pub struct Seen {
    /// A line for each thing.
    pub lines: Vec<String>,
    /// How many entries the journal had.
    pub begun: usize,
    /// What the next run said.
    pub said: String,
}

fn script(agent: &Agent, text: &'static str, arguments: &[&str]) -> String {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let pipes = Pipes { stdin: Box::new(text.as_bytes()), stdout: &mut stdout, stderr: &mut stderr };
    let command = [&SETTINGS[..], &["bash", "-s", "--"], arguments].concat();
    let code = agent.stream(&command, pipes).unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert_eq!(code, 0, "{text}\n{stdout}{stderr}");
    stdout.into_owned()
}

fn copy(from: &Path, to: &Path) {
    Exec::new("cp")
        .args(["--sparse=always", "--recursive", "--no-target-directory", "--"])
        .args([from, to])
        .run()
        .unwrap();
}

impl Ground {
    /// Prepares it.
    pub fn new(parts: Parts) -> Ground {
        let folder = tempfile::Builder::new().prefix("kld-power-").tempdir().unwrap();
        let ground = Ground { parts, folder };
        for place in [ground.bare(), ground.state(), ground.disks()] {
            std::fs::create_dir(place).unwrap();
        }
        let network = Network::new().unwrap();
        let lab = ground.parts.start("lab", 1, &[network.plug()]).unwrap();
        tools::bring(&lab.agent(), &tool::built_here()).unwrap();
        script(&lab.agent(), STOP, &[]);
        lab.save(&ground.bare()).unwrap();
        let lab =
            ground.parts.resume(&ground.bare(), &[network.plug()], Disks::Kept(&ground.disks())).unwrap();
        script(&lab.agent(), BACK, &["first"]);
        script(&lab.agent(), PREPARE, &[]);
        lab.save(&ground.state()).unwrap();
        ground
    }

    /// A lab with kld's tools, in which nothing runs yet.
    fn bare(&self) -> PathBuf {
        self.folder.path().join("bare")
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn disks(&self) -> PathBuf {
        self.folder.path().join("disks")
    }

    /// Runs a tool in the prepared lab, and cuts the power `after` its start, or right after its end. Also gives how
    /// long it took, where it came to its end.
    pub fn cut(
        &self,
        command: &[&str],
        after: Option<Duration>,
        cache: Cache,
        dice: &mut dyn FnMut() -> bool,
    ) -> (Cut, Option<Duration>) {
        let network = Network::new().unwrap();
        let resume = || {
            let during = tempfile::Builder::new().prefix("kld-power-").tempdir().unwrap();
            copy(&self.disks(), during.path());
            let disks = match cache {
                Cache::Stays => Disks::Kept(during.path()),
                Cache::IsLost | Cache::IsTorn => Disks::Recorded(during.path()),
            };
            self.parts.resume(&self.state(), &[network.plug()], disks).map(|lab| (lab, during))
        };
        // A guest may hang, on a busy machine that translates its instructions.
        let (lab, during) = resume().or_else(|_| resume()).unwrap();
        let (agent, pid) = (lab.agent(), Pid::from_raw(lab.pid()));
        let command: Vec<String> = SETTINGS.iter().chain(command).map(ToString::to_string).collect();
        let (tell, told) = mpsc::channel::<(Option<Ran>, Duration)>();
        let start = Instant::now();
        std::thread::spawn(move || {
            let ran = agent.run(&command).ok();
            let _ = tell.send((ran, start.elapsed()));
        });
        let early = match after {
            Some(after) => told.recv_timeout(after.saturating_sub(start.elapsed())).ok(),
            None => told.recv_timeout(Duration::from_secs(120)).ok(),
        };
        if let Some(after) = after {
            std::thread::sleep(after.saturating_sub(start.elapsed()));
        }
        kill(pid, Signal::SIGKILL).unwrap();
        drop(lab);
        let ended = early.or_else(|| told.recv().ok()).and_then(|(ran, time)| ran.map(|ran| (ran, time)));
        if let Some((ran, _)) = &ended {
            assert_eq!(ran.code, 0, "{}", String::from_utf8_lossy(&ran.stderr));
        }
        let (disks, loss) = self.what_is_left(during, cache, dice);
        (Cut { code: ended.as_ref().map(|(ran, _)| ran.code), loss, disks }, ended.map(|(_, time)| time))
    }

    fn what_is_left(
        &self,
        during: tempfile::TempDir,
        cache: Cache,
        dice: &mut dyn FnMut() -> bool,
    ) -> (tempfile::TempDir, Loss) {
        let mut all = Loss { unsettled: 0, lost: 0 };
        if cache == Cache::Stays {
            return (during, all);
        }
        let after = tempfile::Builder::new().prefix("kld-power-").tempdir().unwrap();
        for disk in self.parts.disks() {
            let writes = Writes::read(during.path(), disk).unwrap();
            let kept = || cache == Cache::IsTorn && dice();
            let loss = writes.cut(&self.disks(), after.path(), disk, kept).unwrap();
            all.unsettled += loss.unsettled;
            all.lost += loss.lost;
        }
        (after, all)
    }

    /// Starts a lab on the disks that a cut has left, and the next tool there. Its pool must be whole.
    pub fn come_back(&self, cut: &Cut, at: &str) -> Seen {
        let network = Network::new().unwrap();
        // Nothing is mounted yet, so that a guest that hangs has left the disks as they are.
        let resume = || self.parts.resume(&self.bare(), &[network.plug()], Disks::Kept(cut.disks.path()));
        let lab = resume().or_else(|_| resume()).unwrap();
        let agent = lab.agent();
        script(&agent, BACK, &[]);
        let mended = script(&agent, MEND, &[]);
        let mut words = mended.lines().map(str::trim);
        let mut next = || words.next().unwrap_or_default().to_string();
        let (begun, said, listed) = (next(), next(), next());
        assert!(listed.contains("bystander"), "{at}: {listed}");
        let whole = mended.contains(" repaired 0B in ") && mended.contains(" with 0 errors ");
        assert!(whole && mended.contains("errors: No known data errors"), "{at}:\n{mended}");
        let lines = look::lines(&script(&agent, LOOK, &[]));
        Seen { lines, begun: begun.parse().unwrap(), said }
    }
}
