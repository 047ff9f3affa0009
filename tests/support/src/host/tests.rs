use super::*;

const MACHINE: &str = "<domain type='qemu'><name>still</name><memory unit='MiB'>32</memory>\
    <os><type arch='x86_64' machine='q35'>hvm</type></os></domain>";

fn start_a_machine(host: &Host) {
    let file = host.folder().join("still.xml");
    std::fs::write(&file, MACHINE).unwrap();
    host.virsh(["create", file.to_str().unwrap()]).ok();
}

#[test]
fn a_host_runs_machines_and_leaves_nothing_behind() {
    let host = Host::start();
    start_a_machine(&host);
    assert!(host.virsh(["list", "--name"]).ok().contains("still"));
    let (folder, pid) = (host.folder().to_path_buf(), host.pid);

    drop(host);

    assert!(!folder.exists());
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert!(!processes_that_name(&folder));
}

#[test]
fn hosts_run_side_by_side_and_do_not_see_each_other() {
    let (one, two) = (Host::start(), Host::start());
    start_a_machine(&one);
    assert_eq!(two.virsh(["list", "--name"]).ok().trim(), "");
}

#[test]
fn a_libvirtd_that_ended_starts_again_and_finds_its_machines() {
    let mut host = Host::start();
    start_a_machine(&host);
    host.stop_libvirtd();
    host.start_libvirtd().unwrap();
    assert!(host.virsh(["list", "--name"]).ok().contains("still"));
}

/// The child of the next test: it starts a host and says where, then waits to be killed.
#[test]
#[ignore = "run by a_killed_test_leaves_nothing_behind"]
fn waits_to_be_killed() {
    let Some(answer) = std::env::var_os("KLD_TEST_ANSWER") else { return };
    let host = Host::start();
    start_a_machine(&host);
    std::fs::write(answer, host.folder().to_str().unwrap()).unwrap();
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_killed_test_leaves_nothing_behind() {
    let answer = tempfile::NamedTempFile::new().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "host::tests::waits_to_be_killed"])
        .env("KLD_TEST_ANSWER", answer.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let folder = until(|| std::fs::read_to_string(answer.path()).ok().filter(|text| !text.is_empty()));

    child.kill().unwrap();
    child.wait().unwrap();

    until(|| (!Path::new(&folder).exists()).then_some(()));
    // Who removed it needs a moment to end, too.
    until(|| (!processes_that_name(Path::new(&folder))).then_some(()));
}

#[test]
fn a_folder_too_long_for_a_socket_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let long = folder.path().join("x".repeat(100));
    let error = Host::start_in(&long).unwrap_err();
    assert!(error.to_string().ends_with("is too long a path for a Unix socket"), "{error}");
}

fn until<T>(mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match ready() {
            Some(value) => return value,
            None => assert!(Instant::now() < deadline, "it did not happen within 30 s"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn processes_that_name(folder: &Path) -> bool {
    let folder = folder.as_os_str().as_encoded_bytes();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    lines.into_iter().any(|line| line.windows(folder.len()).any(|part| part == folder))
}
