//! What is asked of libvirt directly, without its library, and when it is asked through the library after all.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use kld_core::Error;
use kld_core::hypervisor::{Hypervisor, State};
use kld_kvm::libvirt::{Libvirt, lazy};
use kld_test_support::Host;
use uuid::Uuid;

const TIMEOUT: Duration = Duration::from_secs(10);

fn libvirt_at(socket: &Path, folder: &Path) -> Libvirt {
    Libvirt::new(&format!("qemu:///system?socket={}", socket.display()), TIMEOUT, folder)
}

fn definition(name: &str, uuid: Uuid) -> String {
    format!(
        "<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>64</memory>
         <os><type arch='x86_64' machine='q35'>hvm</type></os>
         <devices><graphics type='vnc' port='-1' passwd='sesame'/></devices></domain>"
    )
}

/// A proxy before a host's daemon, which does with each connection, counted from zero, what a test wants.
struct Proxy {
    _folder: tempfile::TempDir,
    socket: PathBuf,
    connections: Arc<AtomicUsize>,
}

impl Proxy {
    fn before(
        host: &Host,
        serve: impl Fn(usize, UnixStream, &dyn Fn() -> UnixStream) + Send + Sync + 'static,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let real = host.folder().join("libvirt-sock");
        let connections = Arc::new(AtomicUsize::new(0));
        let (serve, count) = (Arc::new(serve), Arc::clone(&connections));
        // It ends with the process.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let number = count.fetch_add(1, SeqCst);
                let (serve, real) = (Arc::clone(&serve), real.clone());
                let connect = move || UnixStream::connect(&real).unwrap();
                thread::spawn(move || serve(number, stream.unwrap(), &connect));
            }
        });
        Proxy { _folder: folder, socket, connections }
    }

    fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }
}

/// Hands everything on in both directions until one side ends.
fn pass(ours: UnixStream, theirs: UnixStream) {
    let (mut from, mut to) = (theirs.try_clone().unwrap(), ours.try_clone().unwrap());
    let back = thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Both);
    });
    let (mut from, mut to) = (ours, theirs);
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(std::net::Shutdown::Both);
    let _ = back.join();
}

/// The next message, whole, and its procedure.
fn message(stream: &mut UnixStream) -> std::io::Result<(Vec<u8>, u32)> {
    let mut message = vec![0; 4];
    stream.read_exact(&mut message)?;
    message.resize(u32::from_be_bytes(message[..4].try_into().unwrap()) as usize, 0);
    stream.read_exact(&mut message[4..])?;
    let procedure = u32::from_be_bytes(message[12..16].try_into().unwrap());
    Ok((message, procedure))
}

const AUTH_LIST: u32 = 66;
const DEFINE: u32 = 350;
const UNDEFINE: u32 = 231;

/// Hands calls and answers on one by one, and drops the connection instead of the answer to `procedure`.
fn lose(procedure: u32, mut ours: UnixStream, mut theirs: UnixStream) {
    while let Ok((call, called)) = message(&mut ours) {
        theirs.write_all(&call).unwrap();
        let (answer, _) = message(&mut theirs).unwrap();
        if called == procedure {
            return;
        }
        ours.write_all(&answer).unwrap();
    }
}

#[test]
fn domains_are_read_defined_and_forgotten_without_libvirts_library() {
    if std::env::var_os(ALONE).is_none() {
        alone("domains_are_read_defined_and_forgotten_without_libvirts_library");
        return;
    }
    let host = Host::start();
    let libvirt = Libvirt::new(&host.uri(), TIMEOUT, &host.state_dir());
    let uuid = Uuid::new_v4();
    // Names as other tools give them.
    let name = "Büro Nr. 7 (测试) 🐧";

    assert_eq!(libvirt.domain(name).unwrap(), None);
    assert_eq!(libvirt.domain_by_uuid(uuid).unwrap(), None);
    assert_eq!(libvirt.domains().unwrap(), []);
    assert_eq!(libvirt.define(&definition(name, uuid)).unwrap(), uuid);
    let record = libvirt.domain(name).unwrap().unwrap();
    assert_eq!((record.name.as_str(), record.uuid, record.state), (name, uuid, State::Off));
    assert!(record.persistent && !record.saved);
    assert!(record.definition.contains("passwd='sesame'"), "{}", record.definition);
    assert_eq!(libvirt.domain_by_uuid(uuid).unwrap().as_ref(), Some(&record));
    assert_eq!(libvirt.domains().unwrap(), [record]);
    assert!(libvirt.undefine(uuid).unwrap().is_changed());
    assert!(!libvirt.undefine(uuid).unwrap().is_changed());
    drop(libvirt);

    assert!(!lazy::has("virConnectOpen"), "libvirt's library was loaded");
}

const ALONE: &str = "KLD_TEST_ALONE";

/// Runs one test in a process of its own, in which nobody else loads the library.
#[allow(clippy::disallowed_types, reason = "a test that must see how a program ends")]
fn alone(test: &str) {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    let ran = command.args(["--exact", test, "--nocapture"]).env(ALONE, "1").output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

#[test]
fn both_ways_say_the_same() {
    let host = Host::start();
    let direct = Libvirt::new(&host.uri(), TIMEOUT, &host.state_dir());
    let library = Libvirt::new(&host.uri(), TIMEOUT, &host.state_dir()).through_the_library();
    let running = Uuid::new_v4();
    for (name, uuid) in [("b off", Uuid::new_v4()), ("a running", running)] {
        direct.define(&definition(name, uuid)).unwrap();
    }
    direct.start(running).unwrap();
    let transient = definition("c transient", Uuid::new_v4());
    let file = host.folder().join("transient.xml");
    fs::write(&file, transient).unwrap();
    assert_eq!(host.virsh(["create", &file.display().to_string()]).code, Some(0));

    let told = direct.domains().unwrap();
    assert_eq!(told, library.domains().unwrap());
    let known: Vec<_> = told.iter().map(|it| (it.name.as_str(), it.state, it.persistent)).collect();
    assert_eq!(
        known,
        [
            ("a running", State::Running, true),
            ("b off", State::Off, true),
            ("c transient", State::Running, false)
        ]
    );
    for record in &told {
        assert_eq!(direct.domain(&record.name).unwrap().as_ref(), Some(record));
        assert_eq!(library.domain_by_uuid(record.uuid).unwrap().as_ref(), Some(record));
    }
    let refused = |libvirt: &Libvirt| {
        let told = |error: Error| format!("{error}\n{:?}", error.hint());
        [
            told(libvirt.define("<domain").unwrap_err()),
            told(libvirt.define("<domain type='qemu'/>").unwrap_err()),
            told(libvirt.define(&definition("b off", Uuid::from_u128(1))).unwrap_err()),
            told(libvirt.define(&definition("other", running)).unwrap_err()),
            format!("{:?}", libvirt.undefine(told_uuid(libvirt, "c transient")).unwrap()),
        ]
    };
    assert_eq!(refused(&direct), refused(&library));
}

fn told_uuid(libvirt: &Libvirt, name: &str) -> Uuid {
    libvirt.domain(name).unwrap().unwrap().uuid
}

#[test]
fn a_daemon_that_says_something_unexpected_is_asked_through_the_library() {
    let host = Host::start();
    let proxy = Proxy::before(&host, |number, mut ours, connect| match number {
        0 => {
            let (call, _) = message(&mut ours).unwrap();
            ours.write_all(&call).unwrap(); // a call where an answer should be
        }
        _ => pass(ours, connect()),
    });
    let libvirt = libvirt_at(&proxy.socket, host.folder());

    assert_eq!(libvirt.domains().unwrap(), []);
    assert_eq!(proxy.connections(), 2);
    // By then the daemon speaks as expected.
    let uuid = Uuid::new_v4();
    assert_eq!(libvirt.define(&definition("web", uuid)).unwrap(), uuid);
    assert_eq!(proxy.connections(), 3);
}

#[test]
fn a_daemon_that_wants_to_know_who_asks_is_asked_through_the_library_from_then_on() {
    let host = Host::start();
    let proxy = Proxy::before(&host, |number, mut ours, connect| match number {
        0 => {
            let (call, procedure) = message(&mut ours).unwrap();
            assert_eq!(procedure, AUTH_LIST);
            let mut answer = call[..16].to_vec();
            answer[..4].copy_from_slice(&36u32.to_be_bytes());
            answer.extend([0, 0, 0, 1]);
            answer.extend(&call[20..]);
            answer.extend([0, 0, 0, 1, 0, 0, 0, 2]); // one way, which is polkit
            ours.write_all(&answer).unwrap();
            assert_eq!(ours.read(&mut [0]).unwrap(), 0, "something else was asked");
        }
        _ => pass(ours, connect()),
    });
    let libvirt = libvirt_at(&proxy.socket, host.folder());

    assert_eq!(libvirt.domains().unwrap(), []);
    assert_eq!(libvirt.domain("none").unwrap(), None);
    assert_eq!(proxy.connections(), 2);
}

#[test]
fn a_definition_whose_answer_is_lost_is_not_made_twice() {
    let host = Host::start();
    let proxy = Proxy::before(&host, |_, ours, connect| lose(DEFINE, ours, connect()));
    let libvirt = libvirt_at(&proxy.socket, host.folder());

    let uuid = Uuid::new_v4();
    let error = libvirt.define(&definition("web", uuid)).unwrap_err();

    assert_eq!(
        error.to_string(),
        "cannot define the machine: libvirt was asked, but its answer is not known (it closed the connection)"
    );
    assert_eq!(proxy.connections(), 1);
    assert_eq!(libvirt.domain("web").unwrap().unwrap().uuid, uuid);
}

#[test]
fn a_machine_is_not_forgotten_twice_where_the_answer_is_lost() {
    let host = Host::start();
    let proxy = Proxy::before(&host, |_, ours, connect| lose(UNDEFINE, ours, connect()));
    let libvirt = libvirt_at(&proxy.socket, host.folder());
    let uuid = Uuid::new_v4();
    libvirt.define(&definition("web", uuid)).unwrap();

    let error = libvirt.undefine(uuid).unwrap_err();

    let expected =
        format!("cannot forget the machine {uuid}: libvirt was asked, but its answer is not known");
    assert!(error.to_string().starts_with(&expected), "{error}");
    assert_eq!(proxy.connections(), 1);
    assert!(!libvirt.undefine(uuid).unwrap().is_changed());
}

#[test]
fn a_daemon_that_was_started_again_defines_as_before() {
    let mut host = Host::start();
    let libvirt = Libvirt::new(&host.uri(), TIMEOUT, &host.state_dir());
    libvirt.domains().unwrap();
    host.stop_libvirtd();
    host.start_libvirtd().unwrap();
    // Nothing went out on the dead connection: this is no lost answer.
    let uuid = Uuid::new_v4();
    assert_eq!(libvirt.define(&definition("web", uuid)).unwrap(), uuid);
}

#[test]
fn many_machines_are_listed() {
    let host = Host::start();
    let libvirt = Libvirt::new(&host.uri(), TIMEOUT, &host.state_dir());
    for n in 0..60 {
        libvirt.define(&definition(&format!("m{n:02}"), Uuid::new_v4())).unwrap();
    }
    let names: Vec<_> = libvirt.domains().unwrap().into_iter().map(|record| record.name).collect();
    assert_eq!(names, (0..60).map(|n| format!("m{n:02}")).collect::<Vec<_>>());
}
