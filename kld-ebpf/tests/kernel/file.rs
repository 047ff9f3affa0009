//! Files that a generator of ours asks about, and file systems that it mounts.

use std::ffi::{CStr, CString};
use std::os::unix::fs::MetadataExt;

use kld_ebpf::Filter;
use kld_ebpf::probe::{Mount, MountCall, Stat};

use crate::common::{Generator, cannot_trace, trace};

/// Asks about a path in one of the five ways.
fn stat(way: i64, path: &CStr) {
    let mut room = [0_u8; 512];
    let (path, room) = (path.as_ptr(), room.as_mut_ptr());
    // SAFETY: the room is larger than any of the structures.
    unsafe {
        match way {
            libc::SYS_newfstatat => libc::syscall(way, libc::AT_FDCWD, path, room, 0),
            libc::SYS_statx => libc::syscall(way, libc::AT_FDCWD, path, 0, libc::STATX_BASIC_STATS, room),
            _ => libc::syscall(way, path, room),
        }
    };
}

#[test]
fn every_way_to_ask_about_a_file_is_told_with_its_path_and_its_outcome() {
    if cannot_trace() {
        return;
    }
    let deed = || {
        stat(libc::SYS_newfstatat, c"/dev/null");
        stat(libc::SYS_statx, c"/nonexistent/file");
        stat(libc::SYS_statfs, c"/proc");
        #[cfg(target_arch = "x86_64")]
        stat(libc::SYS_stat, c"/nonexistent/other");
        #[cfg(target_arch = "x86_64")]
        stat(libc::SYS_lstat, c"/dev/zero");
    };
    let mut wanted = vec![
        ("newfstatat", "/dev/null", Ok(())),
        ("statx", "/nonexistent/file", Err(libc::ENOENT)),
        ("statfs", "/proc", Ok(())),
    ];
    if cfg!(target_arch = "x86_64") {
        wanted.push(("stat", "/nonexistent/other", Err(libc::ENOENT)));
        wanted.push(("lstat", "/dev/zero", Ok(())));
    }
    let failed: Vec<_> = wanted.iter().copied().filter(|one| one.2.is_err()).collect();
    for (switches, wanted) in [(0, wanted), (Stat::FAILED, failed)] {
        let generator = Generator::new(deed);
        let (pid, filter) = (generator.pid, Filter { switches, ..Filter::pid(generator.pid) });
        let (events, counts) = trace::<Stat>(generator, &filter);
        let told: Vec<_> =
            events.iter().map(|event| (event.call, event.path.to_str().unwrap(), event.result)).collect();
        assert_eq!((told, counts.lost), (wanted, 0));
        assert!(events.iter().all(|event| event.task.pid == pid));
    }
}

/// linux/mount.h
const SET_STRING: u64 = 1;
const CREATE: u64 = 6;
const CLONE: u64 = 1;
const EMPTY_PATH: u64 = 4;

/// A system call with up to five arguments.
fn call(number: i64, arguments: [u64; 5]) -> i64 {
    let [a, b, c, d, e] = arguments;
    // SAFETY: all that the arguments point to is alive in the callers.
    unsafe { libc::syscall(number, a, b, c, d, e) }
}

#[test]
fn every_step_of_a_mount_is_told_with_its_arguments() {
    if cannot_trace() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap().to_string();
    let target = CString::new(path.clone()).unwrap();
    let here = libc::AT_FDCWD as u64;
    let generator = Generator::new(move || {
        let at = |text: &CStr| text.as_ptr() as u64;
        // SAFETY: a system call of the child upon itself.
        unsafe { libc::unshare(libc::CLONE_NEWNS) };
        call(libc::SYS_mount, [0, at(c"/"), 0, libc::MS_REC | libc::MS_PRIVATE, 0]);
        call(
            libc::SYS_mount,
            [at(c"kld"), at(&target), at(c"tmpfs"), libc::MS_NOSUID | libc::MS_NODEV, at(c"size=1m")],
        );
        call(libc::SYS_umount2, [at(&target), libc::MNT_DETACH as u64, 0, 0, 0]);
        call(libc::SYS_umount2, [at(c"/nonexistent"), 0, 0, 0, 0]);
        let made = call(libc::SYS_fsopen, [at(c"tmpfs"), 0, 0, 0, 0]) as u64;
        call(libc::SYS_fsconfig, [made, SET_STRING, at(c"size"), at(c"2m"), 0]);
        call(libc::SYS_fsconfig, [made, CREATE, 0, 0, 0]);
        let mount = call(libc::SYS_fsmount, [made, 0, 0, 0, 0]) as u64;
        call(libc::SYS_move_mount, [mount, at(c""), here, at(&target), EMPTY_PATH]);
        call(libc::SYS_open_tree, [here, at(&target), CLONE, 0, 0]);
        let attributes = [1_u64, 0, 0, 0];
        call(libc::SYS_mount_setattr, [here, at(&target), 0, attributes.as_ptr() as u64, 32]);
    });
    let (pid, filter) = (generator.pid, Filter::pid(generator.pid));
    let (events, counts) = trace::<Mount>(generator, &filter);
    let text = |text: &str| Some(text.into());
    let target = Some(path.into());
    let (made, mount, here) = (events[4].result.unwrap(), events[7].result.unwrap() as i32, libc::AT_FDCWD);
    let fd = made as i32;
    // A kernel before 5.12 has no such call.
    let attributes = events[10].result;
    assert!([Ok(0), Err(libc::ENOSYS)].contains(&attributes), "{attributes:?}");
    let private = libc::MS_REC | libc::MS_PRIVATE;
    let wanted = [
        (MountCall::Mount { source: None, target: text("/"), kind: None, flags: private, data: None }, Ok(0)),
        (
            MountCall::Mount {
                source: text("kld"),
                target: target.clone(),
                kind: text("tmpfs"),
                flags: libc::MS_NOSUID | libc::MS_NODEV,
                data: text("size=1m"),
            },
            Ok(0),
        ),
        (MountCall::Umount { target: target.clone(), flags: libc::MNT_DETACH as u64 }, Ok(0)),
        (MountCall::Umount { target: text("/nonexistent"), flags: 0 }, Err(libc::ENOENT)),
        (MountCall::Fsopen { kind: text("tmpfs"), flags: 0 }, Ok(made)),
        (MountCall::Fsconfig { fd, command: 1, key: text("size"), value: text("2m"), aux: 0 }, Ok(0)),
        (MountCall::Fsconfig { fd, command: 6, key: None, value: None, aux: 0 }, Ok(0)),
        (MountCall::Fsmount { fd, flags: 0, attributes: 0 }, Ok(mount as u64)),
        (
            MountCall::MoveMount {
                from_folder: mount,
                from: text(""),
                to_folder: here,
                to: target.clone(),
                flags: EMPTY_PATH,
            },
            Ok(0),
        ),
        (
            MountCall::OpenTree { folder: here, path: target.clone(), flags: CLONE },
            Ok(events[9].result.unwrap()),
        ),
        (MountCall::SetAttributes { folder: here, path: target, flags: 0 }, attributes),
    ];
    let told: Vec<_> = events.iter().map(|event| (event.call.clone(), event.result)).collect();
    assert_eq!((told.as_slice(), counts.lost), (wanted.as_slice(), 0));
    let own = std::fs::metadata("/proc/self/ns/mnt").unwrap().ino() as u32;
    assert!(events.iter().all(|event| event.task.pid == pid && event.namespace != own));
    assert!(events.iter().all(|event| event.namespace == events[0].namespace));
}

#[test]
fn of_mounts_only_failures_are_told_where_that_is_wanted() {
    if cannot_trace() {
        return;
    }
    let generator = Generator::new(|| {
        call(libc::SYS_umount2, [c"/nonexistent".as_ptr() as u64, 0, 0, 0, 0]);
        call(libc::SYS_fsopen, [c"tmpfs".as_ptr() as u64, 0, 0, 0, 0]);
    });
    let filter = Filter { switches: Mount::FAILED, ..Filter::pid(generator.pid) };
    let (events, _) = trace::<Mount>(generator, &filter);
    assert_eq!(events.iter().map(|event| event.result).collect::<Vec<_>>(), [Err(libc::ENOENT)]);
}
