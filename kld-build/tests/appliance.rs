//! The appliance with the smallest guest: a kernel and busybox.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use kld_build::appliance::{Agent, Appliance, Design, Disk, Network, Pipes, Qemu, Shape};
use kld_build::{Cache, Image, Tree};
use kld_core::ByteSize;
use kld_core::exec::{Exec, Streams};

fn design() -> Design {
    static DESIGN: OnceLock<Design> = OnceLock::new();
    let make = || {
        let root = kld_test_support::Root::ensure(&kld_core::ui::Ui::default()).unwrap();
        let tree = Tree::at(root.tree());
        let image = Image::ensure(&Cache::of_user(), &tree, None, true).unwrap().into_inner();
        let disks = vec![Disk { serial: "data".into(), size: ByteSize::mib(64) }];
        let shape = Shape { memory: ByteSize::mib(256), processors: 1, disks, interfaces: 1 };
        Design { qemu: Qemu::of(&tree), image, shape, patience: Design::PATIENCE }
    };
    DESIGN.get_or_init(make).clone()
}

/// A guest's saved state, made once for all tests of this process.
fn state() -> PathBuf {
    static STATE: OnceLock<PathBuf> = OnceLock::new();
    let make = || {
        let cache = Cache::of_user();
        let name = format!("state-{}", design().key().unwrap());
        cache.ensure(&name, |folder| design().boot(&[])?.save(folder)).unwrap().into_inner()
    };
    STATE.get_or_init(make).clone()
}

fn restored() -> Appliance {
    design().restore(&state(), &[]).unwrap()
}

fn sh(agent: &Agent, script: &str) -> String {
    agent.ask(&["sh", "-ec", script]).unwrap()
}

#[test]
#[ignore = "makes a root tree and boots it, which takes minutes: cargo xtask lab test"]
fn a_guest_is_restored_and_takes_a_command_within_five_seconds() {
    state();
    let start = Instant::now();
    let guest = restored();
    assert_eq!(sh(&guest.agent(), "echo $((6 * 7))"), "42\n");
    assert!(start.elapsed() < Duration::from_secs(5), "it took {:?}", start.elapsed());
}

#[test]
#[ignore = "makes a root tree and boots it, which takes minutes: cargo xtask lab test"]
fn a_command_s_exit_code_and_streams_come_apart() {
    let guest = restored();
    let ran = guest.agent().run(&["sh", "-c", "echo out; echo err >&2; exit 7"]).unwrap();
    assert_eq!((ran.code, &ran.stdout[..], &ran.stderr[..]), (7, &b"out\n"[..], &b"err\n"[..]));
    let killed = guest.agent().run(&["sh", "-c", "kill -TERM $$"]).unwrap();
    assert_eq!(killed.code, 128 + 15);
    let error = guest.agent().run(&["no-such-program"]).unwrap_err();
    assert_eq!(error.to_string(), "cannot run no-such-program in the guest: No such file or directory");
}

#[test]
#[ignore = "makes a root tree and boots it, which takes minutes: cargo xtask lab test"]
fn bytes_of_every_kind_pass_unchanged_both_ways() {
    let bytes: Vec<u8> =
        (0..3_000_000u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let pipes = Pipes {
        stdin: Box::new(std::io::Cursor::new(bytes.clone())),
        stdout: &mut stdout,
        stderr: &mut stderr,
    };
    let guest = restored();
    assert_eq!(guest.agent().stream(&["cat"], pipes).unwrap(), 0);
    assert!(stdout == bytes && stderr.is_empty(), "{} of {} bytes", stdout.len(), bytes.len());
}

#[test]
#[ignore = "makes a root tree and boots it, which takes minutes: cargo xtask lab test"]
fn output_is_seen_while_the_command_runs() {
    /// Notes when each line came.
    struct Watch(Vec<Instant>);
    impl std::io::Write for Watch {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.push(Instant::now());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let (mut stdout, mut stderr) = (Watch(Vec::new()), Vec::new());
    let guest = restored();
    let pipes = Pipes { stdin: Box::new(std::io::empty()), stdout: &mut stdout, stderr: &mut stderr };
    guest.agent().stream(&["sh", "-c", "echo one; sleep 1; echo two"], pipes).unwrap();
    let times = stdout.0;
    assert!(times.len() == 2 && times[1] - times[0] > Duration::from_millis(500), "{times:?}");
}

#[test]
#[ignore = "makes a root tree and boots it, which takes minutes: cargo xtask lab test"]
fn a_command_ends_although_its_daemon_holds_the_streams() {
    let guest = restored();
    let start = Instant::now();
    assert_eq!(sh(&guest.agent(), "sleep 60 & echo started"), "started\n");
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
#[ignore = "makes a root tree and boots it, which takes minutes: cargo xtask lab test"]
fn commands_run_at_once_and_one_that_is_left_is_killed() {
    let guest = restored();
    let agent = guest.agent();
    let impatient = {
        let agent = agent.clone();
        std::thread::spawn(move || {
            /// Goes away at the first output.
            struct Gone;
            impl std::io::Write for Gone {
                fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                    Err(std::io::ErrorKind::BrokenPipe.into())
                }
                fn flush(&mut self) -> std::io::Result<()> {
                    Ok(())
                }
            }
            let (mut stdout, mut stderr) = (Gone, Vec::new());
            let pipes = Pipes { stdin: Box::new(std::io::empty()), stdout: &mut stdout, stderr: &mut stderr };
            agent.stream(&["sh", "-c", "sleep 2; echo first; exec sleep 1234"], pipes)
        })
    };
    let start = Instant::now();
    assert_eq!(sh(&agent, "echo second"), "second\n");
    assert!(start.elapsed() < Duration::from_secs(2), "it waited for the other command");
    assert!(impatient.join().unwrap().is_err());
    let script = "for i in $(seq 100); do pgrep -f 'sleep 1234' || exit 0; sleep 0.1; done; exit 1";
    assert_eq!(agent.run(&["sh", "-c", script]).unwrap().code, 0, "sleep was not killed");
}

#[test]
#[ignore = "makes a root tree and boots it, which takes minutes: cargo xtask lab test"]
fn files_go_in_and_come_out_again() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("folder");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("a file"), vec![0x5a; 100_000]).unwrap();
    std::os::unix::fs::symlink("a file", folder.join("link")).unwrap();
    let guest = restored();
    guest.agent().copy_in(&folder, "/tmp/in").unwrap();
    assert_eq!(sh(&guest.agent(), "wc -c <'/tmp/in/folder/link'"), "100000\n");

    let back = dir.path().join("back");
    std::fs::create_dir(&back).unwrap();
    guest.agent().copy_out("/tmp/in/folder", &back).unwrap();
    assert_eq!(std::fs::read(back.join("folder/a file")).unwrap(), vec![0x5a; 100_000]);
    assert_eq!(std::fs::read_link(back.join("folder/link")).unwrap(), PathBuf::from("a file"));

    let error = guest.agent().copy_out("/tmp/nothing", &back).unwrap_err().to_string();
    assert!(error.starts_with("cannot copy /tmp/nothing out of the guest: "), "{error}");
    assert!(guest.agent().copy_in(&dir.path().join("nothing"), "/tmp").is_err());
}

#[test]
#[ignore = "makes a root tree and boots it, which takes minutes: cargo xtask lab test"]
fn a_disk_is_found_by_its_serial_number_and_starts_empty() {
    let guest = restored();
    let agent = guest.agent();
    let disk = "disk=/dev/$(basename $(dirname $(grep -lx data /sys/block/*/serial)));";
    let write =
        format!("{disk} head -c 64 $disk | tr -d '\\0' | wc -c; echo mark >$disk; sync; head -c 4 $disk");
    assert_eq!(sh(&agent, &write), "0\nmark");
    drop(guest);
    assert_eq!(sh(&restored().agent(), &format!("{disk} head -c 64 $disk | tr -d '\\0' | wc -c")), "0\n");
}

#[test]
#[ignore = "makes a root tree and boots it, which takes minutes: cargo xtask lab test"]
fn two_guests_on_a_private_network_reach_each_other_and_draw_different_random_numbers() {
    let network = Network::new().unwrap();
    let state = state();
    let start = |address: &str| {
        let guest = design().restore(&state, &[network.plug()]).unwrap();
        sh(&guest.agent(), &format!("ip addr add {address}/24 dev eth0; ip link set eth0 up"));
        guest
    };
    let (a, b) = (start("10.9.0.1"), start("10.9.0.2"));
    sh(&a.agent(), "ping -c 1 -W 10 10.9.0.2");
    let uuid = |guest: &Appliance| sh(&guest.agent(), "cat /proc/sys/kernel/random/uuid");
    assert_ne!(uuid(&a), uuid(&b));
}

#[test]
#[ignore = "makes a root tree and boots it, which takes minutes: cargo xtask lab test"]
fn the_clock_of_a_restored_guest_is_right() {
    state();
    let here = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let before = here();
    let guest = restored();
    let there: u64 = sh(&guest.agent(), "date +%s").trim().parse().unwrap();
    // What sets it is on its way for a while on a busy machine.
    assert!((before - 1..=here() + 1).contains(&there), "{there} is not between {before} and {}", here());
}

#[test]
#[ignore = "makes a root tree and boots it, which takes minutes: cargo xtask lab test"]
fn a_guest_that_is_dropped_leaves_nothing() {
    let guest = restored();
    let (folder, pid) = (guest.folder().to_path_buf(), guest.pid());
    assert!(folder.exists());
    drop(guest);
    assert!(!folder.exists() && !runs(pid));
}

#[test]
#[ignore = "makes a root tree and boots it, which takes minutes: cargo xtask lab test"]
fn a_guest_whose_parent_is_killed_leaves_nothing() {
    // The test program itself is the parent, in a process of its own that runs the helper below alone.
    let helper = Exec::at(&std::env::current_exe().unwrap())
        .args(["--exact", "helper_that_holds_a_guest", "--nocapture", "--include-ignored"])
        .keep_environment("HOME")
        .keep_environment("XDG_")
        .env("KLD_HOLD_A_GUEST", "1");
    state();
    let streams = Streams { stdout: std::process::Stdio::piped(), ..Streams::default() };
    let mut parent = helper.start(streams).unwrap();
    let said = std::io::BufRead::lines(std::io::BufReader::new(parent.stdout.take().unwrap()))
        .map_while(Result::ok)
        .find_map(|line| line.split_once("guest: ").map(|(_, said)| said.to_string()))
        .expect("the helper names its guest");
    let (pid, folder) = said.split_once(' ').unwrap();
    let (pid, folder): (i32, _) = (pid.parse().unwrap(), PathBuf::from(folder));
    assert!(runs(pid) && folder.exists());
    parent.signal(nix::sys::signal::Signal::SIGKILL);
    let deadline = Instant::now() + Duration::from_secs(10);
    while runs(pid) || folder.exists() {
        assert!(
            Instant::now() < deadline,
            "QEMU runs: {}; its folder is there: {}",
            runs(pid),
            folder.exists()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
#[ignore = "the helper of another test, which kills it"]
fn helper_that_holds_a_guest() {
    if std::env::var_os("KLD_HOLD_A_GUEST").is_some() {
        let guest = restored();
        println!("\nguest: {} {}", guest.pid(), guest.folder().display());
        std::thread::sleep(Duration::from_secs(600));
    }
}

fn runs(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A process that ended, and that nobody has asked after yet, does not run.
    status.rsplit(')').next().and_then(|rest| rest.trim().chars().next()).is_some_and(|state| state != 'Z')
}

#[test]
#[ignore = "makes a root tree and boots it, which takes minutes: cargo xtask lab test"]
fn a_state_that_was_cut_short_is_refused_with_qemu_s_reason() {
    let damaged = tempfile::tempdir().unwrap();
    let memory = damaged.path().join("memory");
    std::fs::copy(state().join("memory"), &memory).unwrap();
    std::fs::File::options().write(true).open(&memory).unwrap().set_len(50_000).unwrap();
    let error = design().restore(damaged.path(), &[]).unwrap_err().to_string();
    assert!(error.starts_with("cannot restore a guest: "), "{error}");
}

#[test]
#[ignore = "makes a root tree and boots it, which takes minutes: cargo xtask lab test"]
fn a_serial_number_that_qemu_would_misread_is_refused() {
    let mut design = design();
    design.shape.disks[0].serial = "a,file=/etc/passwd".into();
    let error = design.boot(&[]).unwrap_err();
    assert_eq!(error.exit(), kld_core::Exit::Usage);
}

#[test]
#[ignore = "makes a root tree and boots it, which takes minutes: cargo xtask lab test"]
fn a_command_that_takes_longer_than_its_limit_is_given_up_and_killed() {
    let guest = restored();
    let start = Instant::now();
    let limited = guest.agent().limited(Duration::from_secs(2));
    let error = limited.run(&["sleep", "4321"]).unwrap_err();
    assert_eq!(error.to_string(), "sleep failed in the guest: it was not done within 2 s");
    assert!(start.elapsed() < Duration::from_secs(20));
    let script = "for i in $(seq 100); do pgrep -f 'sleep 4321' || exit 0; sleep 0.1; done; exit 1";
    assert_eq!(guest.agent().run(&["sh", "-c", script]).unwrap().code, 0, "sleep was not killed");
}
