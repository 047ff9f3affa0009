//! What the tools of block devices have in common.

use clap::{Arg, ArgMatches};
use kld_core::Result;
use kld_ebpf::events::block::OPERATION;
use kld_ebpf::probe::only_disk;

use crate::args::Wanted;

/// The flag for one disk only.
pub fn only() -> Arg {
    Arg::new("disk")
        .long("disk")
        .value_name("NAME")
        .help("Only requests to this disk, such as sda")
        .help_heading("Whose")
}

/// What the flag says.
pub fn want(matches: &ArgMatches, wanted: &mut Wanted) -> Result<()> {
    if let Some(name) = matches.get_one::<String>("disk") {
        wanted.filter.numbers.push(only_disk(name)?);
    }
    Ok(())
}

/// What a request does, by its operation (enum req_op in linux/blk_types.h): a name and a letter.
const OPERATIONS: [(u32, &str, char); 9] = [
    (0, "Read", 'R'),
    (1, "Write", 'W'),
    (2, "Flush", 'F'),
    (3, "Discard", 'D'),
    (5, "SecureErase", 'E'),
    (7, "ZoneAppend", 'W'),
    (9, "WriteZeroes", 'Z'),
    (34, "DriverIn", 'N'),
    (35, "DriverOut", 'N'),
];

/// What more there is of it, by its bit.
const FLAGS: [(u32, &str); 8] = [
    (11, "Sync"),
    (12, "Metadata"),
    (13, "Priority"),
    (14, "NoMerge"),
    (15, "Idle"),
    (17, "ForcedUnitAccess"),
    (19, "ReadAhead"),
    (20, "Background"),
];

fn operation(flags: u32) -> (&'static str, char) {
    let found = OPERATIONS.iter().find(|(number, _, _)| *number == flags & OPERATION);
    found.map_or(("Unknown", '?'), |(_, name, letter)| (*name, *letter))
}

/// A request's operation as a letter.
pub fn letter(flags: u32) -> char {
    operation(flags).1
}

/// What a request does in words, as bcc writes them: `ForcedUnitAccess-Sync-Write`.
pub fn words(flags: u32) -> String {
    let set = FLAGS.iter().filter(|(bit, _)| flags >> bit & 1 == 1);
    set.fold(operation(flags).0.to_string(), |words, (_, word)| format!("{word}-{words}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_s_flags_are_words() {
        let all = [0, 1 | 1 << 11, 1 | 1 << 11 | 1 << 17, 3, 1 << 19, 99].map(words);
        assert_eq!(
            all,
            ["Read", "Sync-Write", "ForcedUnitAccess-Sync-Write", "Discard", "ReadAhead-Read", "Unknown"]
        );
        assert_eq!([0, 1 | 1 << 11, 2, 99].map(letter), ['R', 'W', 'F', '?']);
    }
}
