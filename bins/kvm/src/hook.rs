//! `kvm-hook`: libvirt's hook that verifies a machine's ZFS volumes at every start; and the hook itself.
//!
//! libvirt calls the hook as `.../qemu.d/kld MACHINE OPERATION STAGE EXTRA`, with the definition on standard input, and
//! waits for it. It must not call libvirt, which would wait for it in turn.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use clap::{ArgMatches, Command};
use kld_core::config::Config;
use kld_core::error::Trying;
use kld_core::tool::{Context, Tool, report};
use kld_core::ui::Ui;
use kld_core::{Change, Error, Plan, Result};
use kld_kvm::domain::Definition;
use kld_kvm::domain::xml::MAX_SIZE;
use kld_kvm::libvirt::hook::{FOREIGN, Hook, HookState, NAME};
use kld_zfs::device;

use crate::args::{dry_run, flag, show_plan};
use crate::host::absolute;

pub const TOOL: Tool = Tool { name: "kvm-hook", about: kld_catalog::about("kvm-hook"), command, run };

/// Where libvirt takes no for an answer before a machine runs: as soon as it is to be started, restored or taken over
/// from another host, and right before its QEMU is. Everywhere else a no would come too late or do harm: at
/// `reconnect` it would end a machine that runs.
const ASKED: [[&str; 2]; 2] = [["prepare", "begin"], ["start", "begin"]];

const INSTALL: &str = "kvm-hook --install";

/// libvirt waits for a hook without end.
const LIMIT: u32 = 60;

fn command() -> Command {
    Command::new("kvm-hook")
        .args([
            flag("install", "Install it, or bring it up to date").conflicts_with("remove"),
            flag("remove", "Remove it"),
            dry_run(),
        ])
        .after_help(
            "Examples:\n  kvm-hook\n  kvm-hook --install\n  kvm-hook --remove\n\n\
             Without an option it says whether the hook is installed, and exits 1 where it is not. The hook is called by \
             libvirt before a machine starts, by virsh and others too, and refuses the start where a path under \
             /dev/zvol is not the volume that it names. Other hooks are not touched.",
        )
}

/// The hook that the configuration means, to be made of this very program.
pub fn hook(config: &Config) -> Result<Hook> {
    let program = std::env::current_exe().trying(|| "cannot find this program".to_string())?;
    Ok(Hook::new(absolute(config, "hook-dir")?, program))
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let hook = hook(&context.config)?;
    let state = hook.state()?;
    let (install, remove) = (matches.get_flag("install"), matches.get_flag("remove"));
    if matches.get_flag("dry-run") {
        return show_plan(context, &plan(&hook, state, install, remove));
    }
    let looked_for = hook.is_looked_for();
    let change = match (install, remove) {
        (true, _) => hook.install()?,
        (_, true) => hook.remove()?,
        _ => Change::Unchanged(()),
    };
    show(context, &hook, change.is_changed())?;
    if install && change.is_changed() && !looked_for {
        context.ui.note(
            "libvirt finds its first hook when it reads its configuration: systemctl reload libvirtd (or virtqemud)",
        );
    }
    if install || remove {
        return Ok(());
    }
    match hook.state()? {
        HookState::Installed => Ok(()),
        HookState::Foreign => {
            Err(Error::message("the hook's place is taken by something else").with_hint(FOREIGN))
        }
        HookState::Missing => Err(Error::message("the hook is not installed").with_hint(INSTALL)),
        HookState::Outdated => Err(Error::message("the hook is of another build of kld").with_hint(INSTALL)),
    }
}

fn plan(hook: &Hook, state: HookState, install: bool, remove: bool) -> Plan {
    let mut plan = Plan::new("change libvirt's hook");
    match state {
        HookState::Missing | HookState::Outdated if install => {
            plan.step("install", hook.path().display(), "a copy of this program");
        }
        HookState::Installed | HookState::Outdated if remove => {
            plan.step("remove", hook.path().display(), "");
        }
        _ => {}
    }
    plan
}

fn show(context: &Context, hook: &Hook, changed: bool) -> Result<()> {
    let (path, state) = (hook.path(), hook.state()?);
    if context.ui.json {
        return context
            .ui
            .json(&serde_json::json!({"version": 1, "path": path, "state": state, "changed": changed}));
    }
    let said = match (state, changed) {
        (HookState::Installed, true) => "installed",
        (HookState::Installed, false) => "is installed",
        (HookState::Missing, true) => "removed",
        (HookState::Missing, false) => "is not installed",
        (HookState::Outdated, _) => "is of another build",
        (HookState::Foreign, _) => "is something else",
    };
    context.ui.line(format!("{} {said}", path.display()))
}

/// What libvirt calls the hook with, where this process is the hook.
pub fn called() -> Option<Vec<OsString>> {
    let mut args = std::env::args_os();
    let called = args.next()?;
    Path::new(&called).ends_with(Path::new("qemu.d").join(NAME)).then(|| args.collect())
}

/// Lets the machine start, or says why not and refuses.
pub fn answer(call: &[OsString]) -> ExitCode {
    nix::unistd::alarm::set(LIMIT);
    let word = |at: usize| call.get(at).map(OsString::as_os_str).unwrap_or_default();
    if !ASKED.iter().any(|[operation, stage]| word(1) == *operation && word(2) == *stage) {
        return ExitCode::SUCCESS;
    }
    let read = || {
        let mut bytes = Vec::new();
        let read = std::io::stdin().take(MAX_SIZE as u64 + 1).read_to_end(&mut bytes);
        read.trying(|| "cannot read its definition".to_string()).map(|_| bytes)
    };
    let verified = read().and_then(|definition| verify(&definition));
    report(&Ui::default(), verified.map_err(|error| refusal(word(0), &error)))
}

/// Verifies the volumes of a definition. One that speaks of none is not read further: kld does not stand in the way of
/// machines that it has nothing to do with.
fn verify(definition: &[u8]) -> Result<()> {
    let folder = device::FOLDER.as_bytes();
    if !definition.windows(folder.len()).any(|bytes| bytes == folder) {
        return Ok(());
    }
    let text = std::str::from_utf8(definition)
        .map_err(|_| Error::failed("cannot read its definition", "it is not UTF-8"))?;
    device::verify_paths(&Definition::parse(text)?.paths_below(Path::new(device::FOLDER)))
}

fn refusal(machine: &OsStr, error: &Error) -> Error {
    let refused = Error::refused(format!("{} is not started: {error}", machine.display()));
    match error.hint() {
        Some(hint) => refused.with_hint(hint),
        None => refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_speaks_of_no_volume_is_let_through_unread() {
        verify(b"<domain> \xff no XML at all").unwrap();
    }

    #[test]
    fn what_speaks_of_a_volume_and_cannot_be_read_is_refused() {
        for bad in [&b"<domain>/dev/zvol/\xff"[..], b"<domain>/dev/zvol/", b"/dev/zvol/"] {
            assert!(verify(bad).is_err());
        }
    }

    #[test]
    fn the_refusal_names_the_machine_and_keeps_the_advice() {
        let error = refusal(OsStr::new("web"), &Error::message("it is wrong").with_hint("mend it"));
        assert_eq!(error.to_string(), "web is not started: it is wrong");
        assert_eq!((error.hint(), error.exit()), (Some("mend it"), kld_core::error::Exit::Refused));
    }
}
