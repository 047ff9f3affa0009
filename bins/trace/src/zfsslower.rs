//! `zfsslower`: what is done with files on ZFS and takes long.

use clap::{ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_ebpf::events::zfs;
use kld_ebpf::probe::ZfsSlower;
use serde_json::{Map, Value};

use crate::args::{common, wanted};
use crate::file::device;
use crate::slow::{self, milliseconds};
use crate::stream::{Lines, run as stream};
use crate::view::{View, comm, shown};

pub const TOOL: Tool = Tool { name: "zfsslower", about: kld_catalog::about("zfsslower"), command, run };

fn command() -> Command {
    common(Command::new("zfsslower")).arg(slow::least()).after_help(
        "Examples:\n  zfsslower\n  zfsslower 1\n  zfsslower 0 -p 1234 --json\n\n\
         A line when a read, write, open or sync of a file on ZFS has ended. T is R, W, O or S; BYTES -1 where it has \
         failed. It needs the module zfs, and kprobes. Of volumes (zvols), files are not.",
    )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let mut wanted = wanted(matches)?;
    wanted.filter.numbers.push((ZfsSlower::SHORTEST, slow::microseconds(matches)));
    stream::<ZfsSlower>(context, &wanted, Vec::new())
}

/// What is done, in a word.
pub fn operation(number: u64) -> &'static str {
    match number {
        zfs::READ => "read",
        zfs::WRITE => "write",
        zfs::OPEN => "open",
        _ => "fsync",
    }
}

impl Lines for ZfsSlower {
    fn heading(_: &View) -> String {
        let names = ["TIME", "COMM", "PID", "BYTES", "OFF_KB"];
        format!(
            "{:<8} {:<14} {:<7} T {:<7} {:<8} {:>7} FILENAME",
            names[0], names[1], names[2], names[3], names[4], "LAT(ms)"
        )
    }

    fn line(event: &ZfsSlower, view: &mut View) -> String {
        let task = &event.task;
        let bytes = event.result.map_or_else(|_| "-1".to_string(), |bytes| bytes.to_string());
        let letter = match event.operation {
            zfs::READ => 'R',
            zfs::WRITE => 'W',
            zfs::OPEN => 'O',
            _ => 'S',
        };
        format!(
            "{:<8} {:<14.14} {:<7} {letter} {bytes:<7} {:<8} {:>7} {}",
            view.time_of_day(task.time),
            comm(task),
            task.pid,
            event.place / 1024,
            milliseconds(event.taken),
            shown(&event.name)
        )
    }

    fn json(event: &ZfsSlower, view: &mut View) -> Map<String, Value> {
        let moves = [zfs::READ, zfs::WRITE].contains(&event.operation);
        let mut object = view.json(&event.task);
        object.insert("operation".into(), operation(event.operation).into());
        object.insert("bytes".into(), event.result.ok().filter(|_| moves).into());
        object.insert("errno".into(), event.result.err().unwrap_or(0).into());
        object.insert("offset".into(), moves.then_some(event.place).into());
        object.insert("taken_s".into(), event.taken.as_secs_f64().into());
        object.insert("file".into(), event.name.to_string_lossy().into());
        object.insert("inode".into(), event.inode.into());
        object.insert("device".into(), device(event.device).into());
        object
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kld_ebpf::events::Task;

    use super::*;

    #[test]
    fn a_deed_is_a_line_and_an_object() {
        let mut comm = [0; 16];
        comm[..3].copy_from_slice(b"tar");
        let task = Task { time: 0, cgroup: 0, pid: 5187, tid: 5188, uid: 0, gid: 0, comm };
        let (taken, name) = (Duration::from_micros(2400), "backup.img".into());
        let (place, inode, device) = (4 << 20, 77, 44);
        let read =
            ZfsSlower { task, taken, operation: zfs::READ, result: Ok(131_072), place, inode, device, name };
        let mut view = View::new(Vec::new(), false);
        let heading = ZfsSlower::heading(&view);
        let line = ZfsSlower::line(&read, &mut view);
        assert_eq!(heading, "TIME     COMM           PID     T BYTES   OFF_KB   LAT(ms) FILENAME");
        assert_eq!(&line[9..], "tar            5187    R 131072  4096        2.40 backup.img");
        let object = ZfsSlower::json(&read, &mut view);
        assert_eq!((&object["operation"], &object["bytes"]), (&"read".into(), &131_072.into()));
        assert_eq!((&object["device"], &object["offset"]), (&"0:44".into(), &(4 << 20).into()));
        let failed = ZfsSlower { operation: zfs::OPEN, result: Err(2), ..read };
        let object = ZfsSlower::json(&failed, &mut view);
        assert_eq!((&object["bytes"], &object["errno"]), (&Value::Null, &2.into()));
        assert!(ZfsSlower::line(&failed, &mut view).contains(" O -1 "));
    }
}
