//! The ZFS store: datasets and snapshots of the host's pool, and the folders at which some are mounted.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use kld_test_support::{Host, Pool};

use nix::libc;

use super::{Eye, copy, replace};

pub(super) struct Zfs;

/// What is compared of datasets and snapshots. What is told of space differs from run to run.
const COLUMNS: &str = "name,type,origin,volsize,volblocksize,refreservation,volmode,snapdev,mountpoint,\
    defer_destroy,userrefs,clones,org.kld:machine,org.kld:change,org.kld:tag";

fn pool(host: &Host) -> &Pool {
    host.pool().expect("the store is on the host's pool")
}

/// ZFS names a snapshot's clones in no certain order.
fn sorted_clones(line: &str) -> String {
    let mut values: Vec<String> = line.split('\t').map(String::from).collect();
    let clones = COLUMNS.split(',').position(|column| column.trim() == "clones");
    if let Some(clones) = clones.and_then(|at| values.get_mut(at)) {
        let mut names: Vec<&str> = clones.split(',').collect();
        names.sort_unstable();
        *clones = names.join(",");
    }
    values.join("\t")
}

/// A piece of memory that O_DIRECT takes.
#[repr(align(4096))]
struct Page([u8; 4096]);

impl Eye for Zfs {
    fn format(&self) -> &'static str {
        "raw"
    }

    fn contents(&self, _host: &Host, disk: &str) -> String {
        // Past the page cache, which knows nothing of a rollback.
        let mut device = File::options().read(true).custom_flags(libc::O_DIRECT).open(disk).unwrap();
        let mut page = Page([0; 4096]);
        let mut read = |at| {
            device.seek(SeekFrom::Start(at)).and_then(|_| device.read_exact(&mut page.0)).unwrap();
            page.0[..32].iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        read(0) + &read(1 << 20)
    }

    fn state_of(&self, host: &Host, machine: &str) -> PathBuf {
        host.state_dir().join("zfs").join(pool(host).root()).join(machine)
    }

    fn volumes(&self, host: &Host) -> Vec<String> {
        let listed = pool(host).list("type,name").into_iter();
        listed.filter_map(|line| Some(line.strip_prefix("volume\t")?.to_string())).collect()
    }

    fn orphans(&self, host: &Host, disks: &[String]) -> BTreeSet<String> {
        // A dataset is needed by a machine's disk, or by what stands on a snapshot of it; a hidden snapshot, by what
        // stands on it.
        let listed = pool(host).list("name,type,clones");
        let rows: Vec<Vec<&str>> = listed.iter().map(|line| line.split('\t').collect()).collect();
        let used = |name: &str| disks.iter().any(|disk| disk.strip_prefix("/dev/zvol/") == Some(name));
        let bears = |volume: &str| {
            rows.iter().any(|row| row[0].starts_with(&format!("{volume}@")) && !["-", ""].contains(&row[2]))
        };
        let orphan = |row: &&Vec<&str>| match row[1] {
            "volume" => !used(row[0]) && !bears(row[0]),
            "snapshot" => row[0].contains("@kld-") && ["-", ""].contains(&row[2]),
            _ => false,
        };
        rows.iter().filter(orphan).map(|row| row[0].to_string()).collect()
    }

    fn plant(&self, host: &Host) {
        let (pool, root) = (pool(host), pool(host).root());
        pool.zfs(&["create", "-u", &format!("{root}/foreign")]);
        pool.zfs(&["create", "-s", "-V", "16M", &format!("{root}/foreign/vda")]);
        pool.zfs(&["snapshot", "-r", &format!("{root}/foreign@kld-clone-00000000")]);
        pool.zfs(&["snapshot", "-r", &format!("{root}/bystander@autosnap_daily")]);
        std::fs::write(host.state_dir().join("zfs/notes"), "not kld's").unwrap();
    }

    fn inventory(&self, host: &Host) -> Vec<String> {
        pool(host).list(COLUMNS).iter().map(|line| sorted_clones(line)).collect()
    }

    fn identities(&self, host: &Host) -> Vec<(String, String)> {
        let listed = pool(host).list("name,guid,createtxg,origin,org.kld:machine,org.kld:change").into_iter();
        listed
            .filter_map(|line| line.split_once('\t').map(|(name, rest)| (name.into(), rest.into())))
            .collect()
    }

    fn complaints(&self, host: &Host) -> Vec<String> {
        pool(host).complaints()
    }

    fn save(&self, host: &Host, to: &Path) {
        let pool = pool(host);
        pool.export();
        copy(&host.state_dir(), &to.join("state"));
        pool.save(&to.join("pool"));
    }

    fn restore(&self, host: &Host, from: &Path) {
        pool(host).export();
        replace(&host.state_dir(), &from.join("state"));
        pool(host).restore(&from.join("pool"));
    }
}
