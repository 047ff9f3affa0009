//! A pool that can be made to fail, and kld's tools on it.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Longer than any tool takes on a busy host that translates instructions; what hangs, hangs for ever.
const LIMIT: Duration = Duration::from_secs(400);

/// Whether this is the lab, with kld's tools; says so where it is not.
pub fn in_lab() -> bool {
    let lab = std::env::var("KLD_LAB").is_ok_and(|value| value == "1");
    if !lab {
        eprintln!("skipped: this needs a kernel with OpenZFS; 'cargo xtask lab test' runs it in one");
    }
    lab
}

/// A pool in a file that lies in a memory of its own: where the memory is full, the pool's writes fail. One at a time.
pub struct Place {
    _alone: MutexGuard<'static, ()>,
    folder: PathBuf,
}

impl Place {
    /// The pool `sick`, of so many MiB in a memory of so many, with a machine `src` on it.
    pub fn new(pool: u32, memory: u32) -> Place {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().unwrap().keep();
        let place = Place { _alone: alone, folder };
        place.bash(&format!(
            "mount -t tmpfs -o size={memory}M sick $folder; truncate -s {pool}M $folder/pool
             zpool create -O mountpoint=none -O compression=off sick $folder/pool; zfs create sick/kld"
        ));
        place.ok("kvm-create src --disk 8M --memory 64M --cloud-init");
        place
    }

    /// Runs a script that must succeed, with `$folder` where the pool is, and gives what it printed.
    #[track_caller]
    pub fn bash(&self, script: &str) -> String {
        let output =
            Command::new("bash").args(["-euc", script]).env("folder", &self.folder).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}\n{said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a tool, behind other programs or without; gives its exit code and what it printed.
    fn run(&self, line: &str) -> (Option<i32>, String, String) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (out, err) = (self.folder.with_extension("out"), self.folder.with_extension("err"));
        let mut command = Command::new("setsid");
        command.arg("--wait").args(&words).env("KLD_NETWORK", "none");
        if !line.contains("zfs-root=") {
            command.env("KLD_ZFS_ROOT", "sick/kld");
        }
        let file = |path| std::fs::File::create(path).unwrap();
        let mut child = command.stdout(file(&out)).stderr(file(&err)).spawn().unwrap();
        let start = Instant::now();
        let status = loop {
            match child.try_wait().unwrap() {
                Some(status) => break status,
                None => assert!(start.elapsed() < LIMIT, "it hangs: {line}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let text = |path| std::fs::read_to_string(path).unwrap();
        let said = (status.code(), text(&out), text(&err));
        [out, err].into_iter().for_each(|path| drop(std::fs::remove_file(path)));
        said
    }

    /// What a tool that must succeed says.
    #[track_caller]
    pub fn ok(&self, line: &str) -> String {
        let (code, out, err) = self.run(line);
        assert_eq!(code, Some(0), "{line}\n{out}{err}");
        out + &err
    }

    /// What tools say that must be refused, and must leave everything as it was.
    #[track_caller]
    pub fn refused(&self, lines: &[&str]) -> String {
        let before = self.look();
        let mut table = String::new();
        for line in lines {
            let (code, out, err) = self.run(line);
            assert_ne!(code, Some(0), "it is not refused: {line}\n{out}{err}");
            table += &format!("$ {line}\nexit {}\n{out}{err}\n", code.unwrap_or(-1));
            assert_eq!(self.look(), before, "something is left of: {line}");
        }
        table.replace(&self.folder.display().to_string(), "[folder]")
    }

    /// Datasets, machines and the journal; datasets are not looked at where that would hang.
    pub fn look(&self) -> String {
        self.bash(
            "grep -qs SUSPENDED /proc/spl/kstat/zfs/sick/state || zfs list -H -r -t all -o name sick 2>&1 || true
             virsh -q list --all --name; find /var/lib/kld/journal -name '*.json'",
        )
    }

    /// What `kld doctor` would say of the store.
    pub fn finding(&self) -> String {
        let (_, out, _) = self.run("kld-kvm __probe");
        let probes: Vec<serde_json::Value> = serde_json::from_str(&out).unwrap();
        let ours = |probe: &&serde_json::Value| {
            probe["subject"].as_str().is_some_and(|subject| subject.starts_with("store zfs"))
        };
        let probe = probes.iter().find(ours).unwrap();
        let text = |field: &str| probe[field].as_str().unwrap_or("-").to_string();
        format!("{} {}: {}\nremedy: {}", text("verdict"), text("subject"), text("finding"), text("remedy"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let script = "for name in $(virsh -q list --all --name); do virsh -q undefine $name; done
            grep -qs SUSPENDED /proc/spl/kstat/zfs/sick/state && exit
            for _ in $(seq 30); do zpool destroy -f sick && break; sleep 0.5; done; umount $folder; rmdir $folder
            rm -f /var/lib/kld/journal/*";
        let _ = Command::new("bash").args(["-c", script]).env("folder", &self.folder).output();
    }
}
