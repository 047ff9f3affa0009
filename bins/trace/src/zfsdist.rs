//! `zfsdist`: how long reads, writes, opens and syncs of files on ZFS take.

use clap::{ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_ebpf::probe::ZfsDist;

use crate::args::wanted;
use crate::histogram::{Distribution, Labels};
use crate::stream::set_flags;
use crate::tables::{self, common, times};
use crate::view::View;
use crate::zfsslower::operation;

pub const TOOL: Tool = Tool { name: "zfsdist", about: kld_catalog::about("zfsdist"), command, run };

fn command() -> Command {
    common(Command::new("zfsdist")).args(times()).after_help(
        "Examples:\n  zfsdist -d 10\n  zfsdist 5 --quantiles\n  zfsdist -p 1234 -m --json 5\n\n\
         A distribution for each operation: read, write, open, fsync. It needs the module zfs, and kprobes. Of volumes \
         (zvols), files are not.",
    )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let flags = set_flags(matches, &["timestamp", "milliseconds", "quantiles"]);
    let mut wanted = wanted(matches)?;
    wanted.filter.switches |= tables::switches(&flags, &[]);
    tables::run::<ZfsDist>(context, matches, &wanted, flags)
}

impl Distribution for ZfsDist {
    fn metric(_: &View) -> (&'static str, &'static str) {
        ("zfs_latency", "How long operations on files on ZFS took.")
    }

    fn labels(key: &u64, _: &View) -> Labels {
        vec![("operation", operation(*key).into())]
    }
}
