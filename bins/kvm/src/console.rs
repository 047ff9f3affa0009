//! `kvm-console`: the serial console of a machine.

use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;

use clap::{ArgMatches, Command};
use kld_core::error::Trying;
use kld_core::tool::{Context, Tool};
use kld_core::{Error, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use crate::args::{name, name_arg};
use crate::host::machines;

/// Ctrl-], as in telnet and virsh console.
const ESCAPE: u8 = 0x1d;

pub const TOOL: Tool = Tool { name: "kvm-console", about: kld_catalog::about("kvm-console"), command, run };

fn command() -> Command {
    Command::new("kvm-console")
        .arg(name_arg("name", "The machine"))
        .after_help("Examples:\n  kvm-console web-5\n\nCtrl-] leaves the console; the machine runs on. What comes on standard input is typed; its end ends the console where it is no terminal.")
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let name = name(matches, "name")?;
    let path = machines(context)?.console(&name)?;
    let console = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(nix::libc::O_NOCTTY | nix::libc::O_CLOEXEC)
        .open(&path)
        .trying(|| format!("cannot open the console {}", path.display()))?;
    context.ui.note(format!("connected to {name}; Ctrl-] leaves"));
    let _raw = Raw::console(&console)?;
    let _terminal = match std::io::stdin().is_terminal() {
        true => Some(Raw::stdin()?),
        false => None,
    };
    talk(context, console)
}

/// Copies both ways until the escape key, the end of the input or the end of the machine.
fn talk(context: &Context, mut console: File) -> Result<()> {
    let stdin = std::io::stdin();
    let mut input =
        File::from(stdin.as_fd().try_clone_to_owned().trying(|| "cannot read standard input".into())?);
    let mut buffer = [0; 4096];
    loop {
        let mut fds =
            [PollFd::new(console.as_fd(), PollFlags::POLLIN), PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            other => other.trying(|| "cannot wait for the console".to_string())?,
        };
        let ready = |fd: &PollFd| fd.revents().is_some_and(|events| !events.is_empty());
        let (from_guest, from_person) = (ready(&fds[0]), ready(&fds[1]));
        if from_guest {
            match console.read(&mut buffer) {
                // EIO: the machine has closed its side.
                Ok(0) | Err(_) => return Ok(()),
                Ok(count) => context.ui.raw(&buffer[..count])?,
            }
        }
        if from_person {
            let count = input.read(&mut buffer).trying(|| "cannot read standard input".to_string())?;
            let typed = &buffer[..count];
            let escape = typed.iter().position(|byte| *byte == ESCAPE);
            console
                .write_all(&typed[..escape.unwrap_or(count)])
                .trying(|| "cannot write to the console".into())?;
            if count == 0 || escape.is_some() {
                return Ok(());
            }
        }
    }
}

/// A terminal in raw mode; as it was when dropped.
struct Raw {
    file: File,
    before: Termios,
}

impl Raw {
    fn stdin() -> Result<Self> {
        let file =
            std::io::stdin().as_fd().try_clone_to_owned().trying(|| "cannot use the terminal".to_string())?;
        Self::new(file.into())
    }

    fn console(console: &File) -> Result<Self> {
        Self::new(console.try_clone().trying(|| "cannot use the console".to_string())?)
    }

    fn new(file: File) -> Result<Self> {
        let failed = |errno: nix::errno::Errno| Error::failed("cannot set the terminal up", errno.desc());
        let before = tcgetattr(&file).map_err(failed)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&file, SetArg::TCSANOW, &raw).map_err(failed)?;
        Ok(Raw { file, before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.file, SetArg::TCSANOW, &self.before);
    }
}
