//! `mountsnoop`: which file systems are mounted and unmounted, by whom, and how that ended.

use std::ffi::OsString;

use clap::{ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_ebpf::probe::{Mount, MountCall};
use serde_json::{Map, Value};

use crate::args::{common, flag, wanted};
use crate::stream::{Lines, run as stream, set_flags};
use crate::view::{Extra, View, comm, errno, shown};

pub const TOOL: Tool = Tool { name: "mountsnoop", about: kld_catalog::about("mountsnoop"), command, run };

const EXTRA: &[Extra] = &[("time", 8, "TIME"), ("owner", 16, "OWNER")];

fn command() -> Command {
    common(Command::new("mountsnoop"))
        .args([
            flag("time", 'T', "Show the time of day, in UTC"),
            flag("failed", 'x', "Only what has failed"),
            flag("owner", 'o', "Show the container or machine"),
        ])
        .after_help(
            "Examples:\n  mountsnoop\n  mountsnoop -x -T\n  mountsnoop --container 0123456789ab --json\n\n\
             Of mount(2) and umount2(2), and of the newer calls that mount(8) makes in their stead: fsopen(2), fsconfig(2), \
             fsmount(2), open_tree(2), move_mount(2) and mount_setattr(2).",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let mut wanted = wanted(matches)?;
    if matches.get_flag("failed") {
        wanted.filter.switches |= Mount::FAILED;
    }
    stream::<Mount>(context, &wanted, set_flags(matches, &["time", "owner"]))
}

/// The flags of mount(2), as its manual page has them.
const MOUNT_FLAGS: &[(u64, &str)] = &[
    (0x1, "MS_RDONLY"),
    (0x2, "MS_NOSUID"),
    (0x4, "MS_NODEV"),
    (0x8, "MS_NOEXEC"),
    (0x10, "MS_SYNCHRONOUS"),
    (0x20, "MS_REMOUNT"),
    (0x40, "MS_MANDLOCK"),
    (0x80, "MS_DIRSYNC"),
    (0x100, "MS_NOSYMFOLLOW"),
    (0x400, "MS_NOATIME"),
    (0x800, "MS_NODIRATIME"),
    (0x1000, "MS_BIND"),
    (0x2000, "MS_MOVE"),
    (0x4000, "MS_REC"),
    (0x8000, "MS_SILENT"),
    (0x1_0000, "MS_POSIXACL"),
    (0x2_0000, "MS_UNBINDABLE"),
    (0x4_0000, "MS_PRIVATE"),
    (0x8_0000, "MS_SLAVE"),
    (0x10_0000, "MS_SHARED"),
    (0x20_0000, "MS_RELATIME"),
    (0x80_0000, "MS_I_VERSION"),
    (0x100_0000, "MS_STRICTATIME"),
    (0x200_0000, "MS_LAZYTIME"),
];

/// The flags of umount2(2).
const UMOUNT_FLAGS: &[(u64, &str)] =
    &[(1, "MNT_FORCE"), (2, "MNT_DETACH"), (4, "MNT_EXPIRE"), (8, "UMOUNT_NOFOLLOW")];

/// The commands of fsconfig(2), by their numbers.
const COMMANDS: [&str; 9] = [
    "FSCONFIG_SET_FLAG",
    "FSCONFIG_SET_STRING",
    "FSCONFIG_SET_BINARY",
    "FSCONFIG_SET_PATH",
    "FSCONFIG_SET_PATH_EMPTY",
    "FSCONFIG_SET_FD",
    "FSCONFIG_CMD_CREATE",
    "FSCONFIG_CMD_RECONFIGURE",
    "FSCONFIG_CMD_CREATE_EXCL",
];

/// The names of the bits that are set; what has none in hexadecimal.
fn names(flags: u64, known: &[(u64, &str)]) -> String {
    let mut all: Vec<String> =
        known.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| (*name).to_string()).collect();
    let rest = known.iter().fold(flags, |rest, (bit, _)| rest & !bit);
    if rest != 0 || all.is_empty() {
        all.push(if rest == 0 { "0".into() } else { format!("{rest:#x}") });
    }
    all.join("|")
}

/// A text in quotes, or NULL.
fn quoted(text: &Option<OsString>) -> String {
    text.as_ref().map_or_else(|| "NULL".into(), |text| format!("\"{}\"", shown(text)))
}

/// The folder that a path is relative to.
fn folder(fd: i32) -> String {
    const HERE: i32 = -100;
    if fd == HERE { "AT_FDCWD".into() } else { fd.to_string() }
}

/// The call's name and its arguments, as a C program would write them.
fn written(call: &MountCall) -> (&'static str, Vec<String>) {
    match call {
        MountCall::Mount { source, target, kind, flags, data } => {
            let flags = names(*flags, MOUNT_FLAGS);
            ("mount", vec![quoted(source), quoted(target), quoted(kind), flags, quoted(data)])
        }
        MountCall::Umount { target, flags } => ("umount", vec![quoted(target), names(*flags, UMOUNT_FLAGS)]),
        MountCall::Fsopen { kind, flags } => ("fsopen", vec![quoted(kind), format!("{flags:#x}")]),
        MountCall::Fsconfig { fd, command, key, value, aux } => {
            let name = COMMANDS.get(*command as usize);
            let command = name.map_or_else(|| command.to_string(), |name| (*name).to_string());
            let (fd, aux) = (fd.to_string(), aux.to_string());
            ("fsconfig", vec![fd, command, quoted(key), quoted(value), aux])
        }
        MountCall::Fsmount { fd, flags, attributes } => {
            ("fsmount", vec![fd.to_string(), format!("{flags:#x}"), format!("{attributes:#x}")])
        }
        MountCall::OpenTree { folder: at, path, flags } => {
            ("open_tree", vec![folder(*at), quoted(path), format!("{flags:#x}")])
        }
        MountCall::MoveMount { from_folder, from, to_folder, to, flags } => {
            let (from_folder, to_folder) = (folder(*from_folder), folder(*to_folder));
            ("move_mount", vec![from_folder, quoted(from), to_folder, quoted(to), format!("{flags:#x}")])
        }
        MountCall::SetAttributes { folder: at, path, flags } => {
            ("mount_setattr", vec![folder(*at), quoted(path), format!("{flags:#x}")])
        }
    }
}

impl Lines for Mount {
    fn heading(view: &View) -> String {
        let own = format!("{:<16} {:<7} {:<7} {:<11} {}", "COMM", "PID", "TID", "MNT_NS", "CALL");
        view.extra_heading(EXTRA) + &own
    }

    fn line(event: &Mount, view: &mut View) -> String {
        let task = &event.task;
        let (name, arguments) = written(&event.call);
        let result = event.result.map_or_else(|error| format!("-{}", errno(error)), |fd| fd.to_string());
        let own = format!("{:<16} {:<7} {:<7} {:<11} ", comm(task), task.pid, task.tid, event.namespace);
        view.extra(EXTRA, task) + &own + &format!("{name}({}) = {result}", arguments.join(", "))
    }

    fn json(event: &Mount, view: &mut View) -> Map<String, Value> {
        let mut object = view.json(&event.task);
        let (name, arguments) = written(&event.call);
        object.insert("mnt_ns".into(), event.namespace.into());
        object.insert("call".into(), name.into());
        object.insert("arguments".into(), arguments.into());
        object.insert("result".into(), event.result.ok().into());
        object.insert("errno".into(), event.result.err().unwrap_or(0).into());
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_have_their_names_and_what_has_none_its_number() {
        let told = [0, 1, 0x4003, 1 << 40].map(|flags| names(flags, MOUNT_FLAGS));
        assert_eq!(told, ["0", "MS_RDONLY", "MS_RDONLY|MS_NOSUID|MS_REC", "0x10000000000"]);
    }

    #[test]
    fn a_call_is_written_as_in_c() {
        let text = |text: &str| Some(text.into());
        let call = MountCall::Mount {
            source: None,
            target: text("/a\u{1b}b"),
            kind: text("tmpfs"),
            flags: 4,
            data: None,
        };
        let (name, arguments) = written(&call);
        assert_eq!((name, arguments[0].as_str(), arguments[2].as_str()), ("mount", "NULL", "\"tmpfs\""));
        assert!(!arguments[1].contains('\u{1b}'), "nothing that could harm a terminal: {}", arguments[1]);
    }
}
