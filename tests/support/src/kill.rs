//! Killing a program at its n-th mutating system call, to see what it leaves behind.
//!
//! The program is traced (`ptrace(2)`) with all its threads and child processes. Calls that change something
//! outside the process are counted over the whole tree, in the order in which they are entered; at the n-th the
//! tree is killed before the call takes effect. Reads, `mmap`, locks and writes to the standard streams do not
//! count. Linux on x86_64 only.
#![allow(clippy::disallowed_types, reason = "the program under test is started by its tracer")]

use std::collections::HashSet;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// No program under test takes this long.
const LIMIT: Duration = Duration::from_secs(300);

/// How a traced program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The mutating calls that were entered; the one at which it was killed is the last.
    pub calls: usize,
    /// Their names.
    pub names: Vec<&'static str>,
    /// True where it came to the n-th call and was killed there.
    pub killed: bool,
    /// Its exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Runs a program, and kills it and all that it started at its `n`-th mutating call (from 1), before the call takes
/// effect. It reads nothing on its standard input. What it left running when it ended is killed too.
///
/// # Panics
/// Where it cannot be started or traced, and where it runs for five minutes.
pub fn kill_at(command: Command, n: Option<usize>) -> Outcome {
    // A thread of its own: the kernel lets the starting thread alone trace a program, and waiting for "any child of
    // this thread" must not take the children of others.
    let tracer = thread::spawn(move || trace(command, n));
    tracer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[allow(clippy::zombie_processes, reason = "`Tree::follow` waits for it, as its tracer")]
fn trace(mut command: Command, n: Option<usize>) -> Outcome {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // SAFETY: ptrace(PTRACE_TRACEME) is one system call that allocates nothing, so that it may be made between
    // fork and exec.
    unsafe { command.pre_exec(|| ptrace::traceme().map_err(std::io::Error::from)) };
    let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let stdout = child.stdout.take().map(read_all);
    let stderr = child.stderr.take().map(read_all);
    let root = Pid::from_raw(child.id() as i32);

    let (ended, watch) = mpsc::channel::<()>();
    let watchdog = thread::spawn(move || {
        let late = watch.recv_timeout(LIMIT) == Err(mpsc::RecvTimeoutError::Timeout);
        if late {
            let _ = kill(root, Signal::SIGKILL);
        }
        late
    });
    let mut tree =
        Tree { root, tracees: HashSet::new(), fresh: HashSet::new(), names: Vec::new(), killed: false };
    let code = tree.follow(n);
    drop(ended);
    assert!(!watchdog.join().unwrap_or(true), "{command:?} did not end in {LIMIT:?}");
    let text = |reader: Option<thread::JoinHandle<Vec<u8>>>| {
        let bytes = reader.and_then(|reader| reader.join().ok()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let (calls, killed) = (tree.names.len(), tree.killed);
    Outcome { calls, names: tree.names, killed, code, stdout: text(stdout), stderr: text(stderr) }
}

fn read_all(mut stream: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is shown; the program's end is judged elsewhere.
        let _ = stream.read_to_end(&mut bytes);
        bytes
    })
}

/// The program with its threads and children.
struct Tree {
    root: Pid,
    /// All threads that are traced.
    tracees: HashSet<Pid>,
    /// Those among them that have not made their first stop.
    fresh: HashSet<Pid>,
    names: Vec<&'static str>,
    killed: bool,
}

impl Tree {
    /// Follows the tree until all of it has ended; returns the program's exit code.
    fn follow(&mut self, n: Option<usize>) -> Option<i32> {
        let first = waitpid(self.root, None);
        assert!(matches!(first, Ok(WaitStatus::Stopped(_, Signal::SIGTRAP))), "cannot trace: {first:?}");
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACEEXEC
            | Options::PTRACE_O_EXITKILL;
        ptrace::setoptions(self.root, options).unwrap_or_else(|error| panic!("cannot trace: {error}"));
        self.tracees.insert(self.root);
        resume(self.root, NONE);

        let mut code = None;
        loop {
            let status = match wait() {
                Ok(Waited::By(status)) => status,
                Ok(Waited::Nameless(pid, signal)) => {
                    resume(pid, signal);
                    continue;
                }
                Err(Errno::EINTR) => continue,
                Err(Errno::ECHILD) => return code,
                Err(error) => panic!("cannot wait for the traced program: {error}"),
            };
            if let Some(pid) = status.pid()
                && self.tracees.insert(pid)
            {
                self.fresh.insert(pid);
            }
            match status {
                WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) => {
                    self.tracees.remove(&pid);
                    self.fresh.remove(&pid);
                    if pid == self.root {
                        code = if let WaitStatus::Exited(_, code) = status { Some(code) } else { None };
                        self.kill_all();
                    }
                }
                WaitStatus::PtraceSyscall(pid) => {
                    match mutating_call_entered(pid) {
                        Some(name) if !self.killed => self.enter(pid, name, n),
                        _ => {}
                    }
                    resume(pid, NONE);
                }
                WaitStatus::PtraceEvent(pid, _, event) => {
                    let starts =
                        [libc::PTRACE_EVENT_CLONE, libc::PTRACE_EVENT_FORK, libc::PTRACE_EVENT_VFORK];
                    if starts.contains(&event)
                        && let Ok(new) = ptrace::getevent(pid)
                        && self.tracees.insert(Pid::from_raw(new as i32))
                    {
                        self.fresh.insert(Pid::from_raw(new as i32));
                    }
                    resume(pid, NONE);
                }
                // A new thread or process stops once, for its tracer only.
                WaitStatus::Stopped(pid, Signal::SIGSTOP) if self.fresh.remove(&pid) => resume(pid, NONE),
                WaitStatus::Stopped(pid, signal) => resume(pid, signal as i32),
                _ => {}
            }
            if self.killed {
                // Those that were started at the same moment are found late.
                self.kill_all();
            }
        }
    }

    fn enter(&mut self, pid: Pid, name: &'static str, n: Option<usize>) {
        self.names.push(name);
        if Some(self.names.len()) == n {
            self.killed = true;
            // So that the call does nothing even if the kernel were to go on with it.
            if let Ok(mut registers) = ptrace::getregs(pid) {
                registers.orig_rax = u64::MAX;
                let _ = ptrace::setregs(pid, registers);
            }
            self.kill_all();
        }
    }

    fn kill_all(&self) {
        for pid in &self.tracees {
            // It may have ended by itself.
            let _ = kill(*pid, Signal::SIGKILL);
        }
    }
}

/// What was waited for.
enum Waited {
    By(WaitStatus),
    /// A signal that nix has no name for stopped a tracee: one for real time, as pthread_cancel(3) sends them.
    Nameless(Pid, i32),
}

/// Waits for any tracee of this thread.
fn wait() -> nix::Result<Waited> {
    let mut raw = 0;
    // SAFETY: the status has its place.
    let pid = Errno::result(unsafe { libc::waitpid(-1, &mut raw, libc::__WALL | libc::__WNOTHREAD) })?;
    let pid = Pid::from_raw(pid);
    match WaitStatus::from_raw(pid, raw) {
        Ok(status) => Ok(Waited::By(status)),
        Err(_) if libc::WIFSTOPPED(raw) => Ok(Waited::Nameless(pid, libc::WSTOPSIG(raw))),
        // One that ended it is a signal like others.
        Err(_) => Ok(Waited::By(WaitStatus::Signaled(pid, Signal::SIGKILL, false))),
    }
}

/// No signal.
const NONE: i32 = 0;

/// Lets a tracee run to its next system call, with a signal. One that was killed meanwhile is waited for.
fn resume(pid: Pid, signal: i32) {
    let signal = signal as usize as *mut libc::c_void;
    // SAFETY: the request reads and writes no memory of this process.
    let done = unsafe {
        libc::ptrace(libc::PTRACE_SYSCALL, pid.as_raw(), std::ptr::null_mut::<libc::c_void>(), signal)
    };
    match Errno::result(done) {
        Ok(_) | Err(Errno::ESRCH) => {}
        Err(error) => panic!("cannot go on with the traced program: {error}"),
    }
}

/// The name of the mutating call that a tracee is about to make; `None` at any other call, and at a call's end.
fn mutating_call_entered(pid: Pid) -> Option<&'static str> {
    let info = ptrace::syscall_info(pid).ok()?;
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return None;
    }
    // SAFETY: `op` says that the kernel filled the variant `entry`.
    let entry = unsafe { info.u.entry };
    mutating(entry.nr as libc::c_long, &entry.args, || {
        // openat2's flags are the first word of its third argument.
        ptrace::read(pid, entry.args[2] as ptrace::AddressType).unwrap_or(0) as u64
    })
}

/// The name of a call that changes something outside the process.
fn mutating(number: libc::c_long, args: &[u64; 6], openat2_flags: impl Fn() -> u64) -> Option<&'static str> {
    let creates = |flags: u64| {
        let flags = flags as i32;
        flags & (libc::O_CREAT | libc::O_TRUNC) != 0 || flags & libc::O_TMPFILE == libc::O_TMPFILE
    };
    let not_standard = |fd: u64| !matches!(fd as i32, 0..=2);
    let (name, counts) = match number {
        libc::SYS_open => ("open", creates(args[1])),
        libc::SYS_openat => ("openat", creates(args[2])),
        libc::SYS_openat2 => ("openat2", creates(openat2_flags())),
        libc::SYS_creat => ("creat", true),
        libc::SYS_write => ("write", not_standard(args[0])),
        libc::SYS_pwrite64 => ("pwrite64", not_standard(args[0])),
        libc::SYS_writev => ("writev", not_standard(args[0])),
        libc::SYS_pwritev => ("pwritev", not_standard(args[0])),
        libc::SYS_pwritev2 => ("pwritev2", not_standard(args[0])),
        libc::SYS_sendfile => ("sendfile", not_standard(args[0])),
        libc::SYS_splice => ("splice", not_standard(args[2])),
        libc::SYS_copy_file_range => ("copy_file_range", true),
        libc::SYS_sendto => ("sendto", true),
        libc::SYS_sendmsg => ("sendmsg", true),
        libc::SYS_sendmmsg => ("sendmmsg", true),
        libc::SYS_rename => ("rename", true),
        libc::SYS_renameat => ("renameat", true),
        libc::SYS_renameat2 => ("renameat2", true),
        libc::SYS_unlink => ("unlink", true),
        libc::SYS_unlinkat => ("unlinkat", true),
        libc::SYS_mkdir => ("mkdir", true),
        libc::SYS_mkdirat => ("mkdirat", true),
        libc::SYS_rmdir => ("rmdir", true),
        libc::SYS_link => ("link", true),
        libc::SYS_linkat => ("linkat", true),
        libc::SYS_symlink => ("symlink", true),
        libc::SYS_symlinkat => ("symlinkat", true),
        libc::SYS_mknod => ("mknod", true),
        libc::SYS_mknodat => ("mknodat", true),
        libc::SYS_truncate => ("truncate", true),
        libc::SYS_ftruncate => ("ftruncate", true),
        libc::SYS_fallocate => ("fallocate", true),
        libc::SYS_chmod => ("chmod", true),
        libc::SYS_fchmod => ("fchmod", true),
        libc::SYS_fchmodat => ("fchmodat", true),
        libc::SYS_fchmodat2 => ("fchmodat2", true),
        libc::SYS_chown => ("chown", true),
        libc::SYS_lchown => ("lchown", true),
        libc::SYS_fchown => ("fchown", true),
        libc::SYS_fchownat => ("fchownat", true),
        libc::SYS_setxattr => ("setxattr", true),
        libc::SYS_lsetxattr => ("lsetxattr", true),
        libc::SYS_fsetxattr => ("fsetxattr", true),
        libc::SYS_fsync => ("fsync", true),
        libc::SYS_fdatasync => ("fdatasync", true),
        libc::SYS_mount => ("mount", true),
        libc::SYS_umount2 => ("umount2", true),
        libc::SYS_ioctl => ("ioctl", ioctl_changes(args[1] as libc::Ioctl)),
        _ => return None,
    };
    counts.then_some(name)
}

/// What ZFS is asked for begins so (`ZFS_IOC_FIRST` in OpenZFS's sys/fs/zfs.h); the last byte says what.
const ZFS: libc::Ioctl = (b'Z' as libc::Ioctl) << 8;

/// What only asks ZFS: the lists and the states of pools, datasets, snapshots, properties, holds and bookmarks.
/// Everything else counts, channel programs among them, since nobody can tell what they do.
const ZFS_QUESTIONS: [libc::Ioctl; 24] = [
    0x04, 0x05, 0x06, 0x0a, 0x12, 0x13, 0x14, 0x15, 0x20, 0x24, 0x25, 0x27, 0x29, 0x2d, 0x2e, 0x32, 0x33,
    0x35, 0x38, 0x39, 0x3a, 0x3e, 0x41, 0x44,
];

fn ioctl_changes(request: libc::Ioctl) -> bool {
    match request & !0xff {
        ZFS => !ZFS_QUESTIONS.contains(&(request & 0xff)),
        _ => [libc::FICLONE, libc::FICLONERANGE].contains(&request),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// A shell that reads nothing of its user's.
    fn shell(folder: &Path, script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).current_dir(folder).env_clear().env("PATH", "/usr/bin:/bin");
        command
    }

    fn copy(folder: &Path) -> Command {
        std::fs::write(folder.join("from"), "contents").unwrap();
        shell(folder, "exec cp from to")
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_program_that_is_not_killed_runs_through() {
        for n in [None, Some(1_000_000)] {
            let folder = tempfile::tempdir().unwrap();
            let outcome = kill_at(copy(folder.path()), n);
            assert_eq!((outcome.killed, outcome.code), (false, Some(0)), "{outcome:?}");
            assert!(outcome.calls >= 2, "it opens and fills the file: {outcome:?}");
            assert_eq!(std::fs::read_to_string(folder.path().join("to")).unwrap(), "contents");
        }
    }

    #[test]
    fn signals_for_real_time_reach_the_program() {
        let folder = tempfile::tempdir().unwrap();
        let outcome = kill_at(shell(folder.path(), "trap 'exit 3' 35; kill -35 $$; exit 4"), None);
        assert_eq!(outcome.code, Some(3), "{outcome:?}");
        let outcome = kill_at(shell(folder.path(), "kill -35 $$; exit 4"), None);
        assert_eq!(outcome.code, None, "{outcome:?}");
    }

    #[test]
    fn killed_at_the_first_call_it_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let outcome = kill_at(copy(folder.path()), Some(1));
        assert_eq!((outcome.killed, outcome.code, outcome.calls), (true, None, 1), "{outcome:?}");
        assert_eq!(names(folder.path()), ["from"]);
    }

    #[test]
    fn killed_at_the_second_call_it_leaves_what_the_first_made() {
        let folder = tempfile::tempdir().unwrap();
        let outcome = kill_at(copy(folder.path()), Some(2));
        assert!(outcome.killed);
        assert_eq!(std::fs::read_to_string(folder.path().join("to")).unwrap(), "", "{outcome:?}");
    }

    #[test]
    fn each_call_can_be_the_last() {
        let script = "mkdir a && echo x > a/b && mv a/b c && ln -s c d && rm c && rmdir a";
        let left = |n| {
            let folder = tempfile::tempdir().unwrap();
            let outcome = kill_at(shell(folder.path(), script), n);
            (outcome, names(folder.path()))
        };
        let (whole, _) = left(None);
        assert_eq!(whole.code, Some(0), "{whole:?}");
        for n in 1..=whole.calls {
            let (outcome, _) = left(Some(n));
            assert_eq!(outcome.names, whole.names[..n], "calls come in the same order every time");
            assert!(outcome.killed);
        }
        let before = |name| whole.names.iter().position(|known| known.starts_with(name)).unwrap() + 1;
        assert_eq!(left(Some(before("mkdir"))).1, Vec::<String>::new());
        assert_eq!(left(Some(before("rename"))).1, ["a"]);
        assert_eq!(left(Some(before("symlink"))).1, ["a", "c"]);
        assert_eq!(left(Some(before("unlink"))).1, ["a", "c", "d"]);
        assert_eq!(left(None).1, ["d"]);
    }

    #[test]
    fn what_the_program_started_is_counted_and_killed_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let script = "(sleep 1000 & echo $!); mkdir a; mkdir b";
        let outcome = kill_at(shell(folder.path(), script), Some(2));
        assert!(outcome.killed, "{outcome:?}");
        assert_eq!(names(folder.path()), ["a"]);
        let sleeper: i32 = outcome.stdout.trim().parse().unwrap();
        assert!(is_gone(sleeper));
    }

    /// True where a process has ended, though its new parent may not have asked for its exit code yet.
    fn is_gone(pid: i32) -> bool {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
    }

    #[test]
    fn what_a_program_leaves_running_is_killed_when_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let outcome = kill_at(shell(folder.path(), "sleep 1000 & echo $!"), None);
        assert_eq!((outcome.killed, outcome.code), (false, Some(0)), "{outcome:?}");
        assert!(is_gone(outcome.stdout.trim().parse().unwrap()));
    }

    #[test]
    fn calls_of_all_threads_are_counted() {
        const FOLDER: &str = "KLD_TEST_KILL_FOLDER";
        if let Some(folder) = std::env::var_os(FOLDER) {
            // This is the program under test: the same test, run by itself.
            for name in ["a", "b", "c", "d"] {
                let path = Path::new(&folder).join(name);
                thread::spawn(|| std::fs::File::create(path).unwrap()).join().unwrap();
            }
            return;
        }
        let program = |folder: &Path| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "kill::tests::calls_of_all_threads_are_counted"]).env(FOLDER, folder);
            command
        };
        let folder = tempfile::tempdir().unwrap();
        let outcome = kill_at(program(folder.path()), Some(3));
        assert_eq!((outcome.killed, outcome.code), (true, None), "{outcome:?}");
        assert_eq!(names(folder.path()), ["a", "b"]);
        let outcome = kill_at(program(folder.path()), None);
        assert_eq!((outcome.calls, outcome.code), (4, Some(0)), "{outcome:?}");
    }

    #[test]
    fn output_and_exit_code_are_kept_and_signals_arrive() {
        let folder = tempfile::tempdir().unwrap();
        let outcome = kill_at(shell(folder.path(), "echo out; echo err >&2; exit 3"), None);
        assert_eq!((outcome.code, outcome.calls), (Some(3), 0), "{outcome:?}");
        assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("out\n", "err\n"));
        let outcome = kill_at(shell(folder.path(), "trap 'echo caught; exit 4' TERM; kill -TERM $$"), None);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(4), "caught\n"));
        let outcome = kill_at(shell(folder.path(), "kill -KILL $$"), None);
        assert_eq!((outcome.code, outcome.killed), (None, false));
    }

    #[test]
    fn reading_and_printing_do_not_count() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), "x").unwrap();
        let outcome = kill_at(shell(folder.path(), "cat a; ls; grep -q x < a"), Some(1));
        assert_eq!((outcome.killed, outcome.calls), (false, 0), "{outcome:?}");
    }

    #[test]
    fn flags_and_descriptors_decide() {
        let name = |number, args| mutating(number, &args, || libc::O_TRUNC as u64);
        let (creating, reading) = (libc::O_CREAT as u64, libc::O_RDONLY as u64);
        assert_eq!(name(libc::SYS_openat, [0, 0, creating, 0, 0, 0]), Some("openat"));
        assert_eq!(name(libc::SYS_openat, [0, 0, reading, 0, 0, 0]), None);
        assert_eq!(name(libc::SYS_openat, [0, 0, libc::O_DIRECTORY as u64, 0, 0, 0]), None);
        assert_eq!(name(libc::SYS_openat2, [0; 6]), Some("openat2"));
        assert_eq!(name(libc::SYS_write, [2, 0, 0, 0, 0, 0]), None);
        assert_eq!(name(libc::SYS_write, [3, 0, 0, 0, 0, 0]), Some("write"));
        assert_eq!(name(libc::SYS_ioctl, [3, libc::FICLONE, 0, 0, 0, 0]), Some("ioctl"));
        assert_eq!(name(libc::SYS_ioctl, [3, libc::TCGETS, 0, 0, 0, 0]), None);
        assert_eq!(name(libc::SYS_flock, [3, 0, 0, 0, 0, 0]), None);
        let zfs = |request| name(libc::SYS_ioctl, [3, request, 0, 0, 0, 0]);
        assert_eq!([0x5a12, 0x5a14].map(zfs), [None; 2], "ZFS_IOC_OBJSET_STATS, ZFS_IOC_DATASET_LIST_NEXT");
        assert_eq!([0x5a17, 0x5a23].map(zfs), [Some("ioctl"); 2], "ZFS_IOC_CREATE, ZFS_IOC_SNAPSHOT");
    }
}
