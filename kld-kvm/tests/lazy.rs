//! libvirt is loaded by kld, not with the program. This program is the example: it uses the `virt` crate.
#![cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#![allow(clippy::disallowed_types, reason = "a test that must see how a program ends, by which signal")]

use std::collections::BTreeSet;
use std::ffi::{CStr, c_int, c_void};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};

use kld_core::exec::Exec;
use kld_kvm::libvirt::lazy;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::ErrorNumber;
use virt::sys;

const DRIVER: &str = "test:///default";

fn connect() -> Connect {
    lazy::load().unwrap();
    Connect::open(Some(DRIVER)).unwrap()
}

/// Runs one test of this program in a process of its own, in which `MARK` is set.
fn alone(test: &str, environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(MARK, "1").envs(environment.iter().copied());
    command.output().unwrap()
}

const MARK: &str = "KLD_TEST_ALONE";

fn is_alone() -> bool {
    std::env::var_os(MARK).is_some()
}

fn readelf(what: &str) -> String {
    let this = std::env::current_exe().unwrap();
    let finished = Exec::new("readelf").args(["--wide", what]).arg(this).run().unwrap();
    String::from_utf8(finished.stdout).unwrap()
}

#[test]
fn a_program_that_uses_libvirt_does_not_need_it_to_start() {
    let dynamic = readelf("--dynamic");
    let needed: Vec<_> = dynamic.lines().filter(|line| line.contains("(NEEDED)")).collect();

    assert!(needed.iter().any(|line| line.contains("[libc.so.6]")), "{dynamic}");
    assert!(!needed.iter().any(|line| line.contains("virt")), "{needed:?}");
}

#[test]
fn the_trampolines_are_invisible_to_other_libraries() {
    let symbols = readelf("--dyn-syms");

    assert!(symbols.contains("dlopen"), "{symbols}");
    assert!(!symbols.contains(" vir"), "{symbols}");
}

#[test]
fn libvirt_works_through_the_trampolines() {
    let connection = connect();

    assert_eq!(connection.get_uri().unwrap(), DRIVER);
    assert_eq!(Domain::lookup_by_name(&connection, "test").unwrap().get_id(), Some(1));
}

#[test]
fn errors_of_libvirt_arrive() {
    let error = Domain::lookup_by_name(&connect(), "nobody").unwrap_err();

    assert_eq!(error.code(), ErrorNumber::NoDomain);
}

#[test]
fn libvirt_calls_back() {
    unsafe extern "C" fn note(
        _: sys::virConnectPtr,
        _: sys::virDomainPtr,
        event: c_int,
        _: c_int,
        told: *mut c_void,
    ) {
        // SAFETY: it is the pointer given at registration, to a cell that outlives the registration.
        unsafe { *told.cast::<c_int>() = event };
    }
    type Note = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, c_int, *mut c_void);

    // Given a watch on the life of domains, in a process of its own: the event loop is the whole process's
    if !is_alone() {
        let output = alone("libvirt_calls_back", &[]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    lazy::load().unwrap();
    virt::event::event_register_default_impl().unwrap();
    let connection = connect();
    let mut told: c_int = -1;
    // SAFETY: for lifecycle events libvirt calls the callback with the arguments of a Note.
    let watch = unsafe {
        sys::virConnectDomainEventRegisterAny(
            connection.as_ptr(),
            std::ptr::null_mut(),
            sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE as c_int,
            Some(std::mem::transmute::<Note, unsafe extern "C" fn(_, _, _)>(note)),
            (&raw mut told).cast(),
            None,
        )
    };
    assert!(watch >= 0);

    // When one is suspended
    Domain::lookup_by_name(&connection, "test").unwrap().suspend().unwrap();
    virt::event::event_run_default_impl().unwrap();

    // Then the watcher is told
    // SAFETY: the watch is the one registered above.
    unsafe { sys::virConnectDomainEventDeregisterAny(connection.as_ptr(), watch) };
    assert_eq!(told, sys::VIR_DOMAIN_EVENT_SUSPENDED as c_int);
}

#[test]
fn arguments_on_the_stack_arrive() {
    if is_alone() {
        let domain = Domain::lookup_by_name(&connect(), "test").unwrap();
        let text = |text: &'static CStr| text.as_ptr();
        // SAFETY: valid C strings, of which the driver, which cannot migrate, keeps none.
        unsafe {
            sys::virDomainMigrateToURI2(
                domain.as_ptr(),
                text(c"to"),
                text(c"by"),
                text(c"xml"),
                4,
                text(c"name"),
                7,
            )
        };
        return;
    }

    // Given libvirt's own log of a call with seven arguments
    let log = [("LIBVIRT_DEBUG", "1"), ("LIBVIRT_LOG_OUTPUTS", "1:stderr")];
    let output = alone("arguments_on_the_stack_arrive", &log);

    // Then it shows all as they were given
    let stderr = String::from_utf8_lossy(&output.stderr);
    let call = stderr.lines().find(|line| line.contains("virDomainMigrateToURI2")).unwrap_or(&stderr);
    assert!(call.contains("dconnuri=to, miguri=by, dxml=xml, flags=0x4, dname=name, bandwidth=7"), "{call}");
}

#[test]
fn a_call_before_loading_ends_the_program_and_says_so() {
    if is_alone() {
        let _ = Connect::open(Some(DRIVER));
        return;
    }

    let output = alone("a_call_before_loading_ends_the_program_and_says_so", &[]);

    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("virConnectOpen was called before libvirt was loaded"), "{stderr}");
    assert_eq!(output.status.signal(), Some(nix::libc::SIGABRT));
}

#[test]
fn what_libvirt_has_is_known_once_it_is_loaded() {
    if is_alone() {
        assert!(!lazy::has("virConnectOpen"), "before it is loaded");
        lazy::load().unwrap();
        return;
    }

    assert!(alone("what_libvirt_has_is_known_once_it_is_loaded", &[]).status.success());
    lazy::load().unwrap();
    assert!(lazy::has("virConnectOpen"));
    assert!(lazy::has("virDomainQemuMonitorCommand"), "libvirt-qemu's");
    assert!(!lazy::has("virNoSuchFunction"));
}

#[test]
fn the_table_holds_every_function_that_virt_sys_declares() {
    let names = |text: &str, before: &str| -> BTreeSet<String> {
        let rests = text.lines().filter_map(|line| line.trim().strip_prefix(before).map(str::to_string));
        let word = |rest: String| rest.split(|c: char| !c.is_alphanumeric()).next().unwrap_or("").to_string();
        rests.map(word).filter(|word| word.starts_with("vir")).collect()
    };
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--format-version=1", "--manifest-path"])
        .arg(here.join("Cargo.toml"))
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let virt_sys =
        metadata["packages"].as_array().unwrap().iter().find(|package| package["name"] == "virt-sys");
    let manifest = Path::new(virt_sys.unwrap()["manifest_path"].as_str().unwrap());

    let bindings = std::fs::read_to_string(manifest.with_file_name("bindgen").join("bindings.rs")).unwrap();
    let table = std::fs::read_to_string(here.join("src/libvirt/lazy/symbols.rs")).unwrap();

    assert_eq!(names(&table, ""), names(&bindings, "pub fn "));
}
