//! mountsnoop: file systems that are mounted and unmounted, at the end of the system calls of old and of new.
#![no_std]
#![no_main]

use aya_ebpf::helpers::bpf_probe_read_user_str_bytes;
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::RawTracePointContext;
use kld_ebpf_events::file::{
    FSCONFIG, FSMOUNT, FSOPEN, MOUNT, MOUNT_SETATTR, MOVE_MOUNT, Mount, NONE, OPEN_TREE, PATH, UMOUNT,
};
use kld_ebpf_programs::current::{switches, task, wanted};
use kld_ebpf_programs::output::send_bytes;
use kld_ebpf_programs::read::{Known, field, known};
use kld_ebpf_programs::syscall::{Ended, is};
use kld_ebpf_programs::task::current;

#[unsafe(no_mangle)]
static SYS_MOUNT: Known = known();
#[unsafe(no_mangle)]
static SYS_UMOUNT2: Known = known();
#[unsafe(no_mangle)]
static SYS_FSOPEN: Known = known();
#[unsafe(no_mangle)]
static SYS_FSCONFIG: Known = known();
#[unsafe(no_mangle)]
static SYS_FSMOUNT: Known = known();
#[unsafe(no_mangle)]
static SYS_OPEN_TREE: Known = known();
#[unsafe(no_mangle)]
static SYS_MOVE_MOUNT: Known = known();
#[unsafe(no_mangle)]
static SYS_MOUNT_SETATTR: Known = known();
#[unsafe(no_mangle)]
static TASK_NAMESPACES: Known = known();
#[unsafe(no_mangle)]
static NAMESPACES_MOUNT: Known = known();
#[unsafe(no_mangle)]
static MOUNT_NUMBER: Known = known();

/// The switch for failures only.
const FAILED: u32 = 1;

// linux/mount.h: those commands of fsconfig(2) whose value is a text.
const SET_STRING: u64 = 1;
const SET_PATH: u64 = 3;
const SET_PATH_EMPTY: u64 = 4;

/// An event and its texts, too long for a program's stack.
#[repr(C)]
struct Room {
    event: Mount,
    texts: [[u8; PATH]; 4],
}

#[map]
static ROOM: PerCpuArray<Room> = PerCpuArray::with_max_entries(1, 0);

/// What a call was given: which it is, its numbers, and where its texts are.
struct Given {
    call: u32,
    numbers: [u64; 3],
    texts: [u64; 4],
}

#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn ended(ctx: RawTracePointContext) -> i32 {
    let call = Ended::of(&ctx);
    let Some(given) = given(&call) else { return 0 };
    if !call.is_native() || !wanted() || switches() & FAILED != 0 && call.result >= 0 {
        return 0;
    }
    let Some(room) = ROOM.get_ptr_mut(0) else { return 0 };
    let namespace = field(field(field(current(), &TASK_NAMESPACES), &NAMESPACES_MOUNT), &MOUNT_NUMBER);
    // SAFETY: the room is this processor's, and nothing else runs on it now; the helper checks the addresses.
    unsafe {
        (*room).event.task = task();
        (*room).event.numbers = given.numbers;
        (*room).event.namespace = namespace;
        (*room).event.call = given.call;
        (*room).event.result = call.result;
        let texts = &mut (*room).texts;
        (*room).event.lengths = [
            read(given.texts[0], &mut texts[0]),
            read(given.texts[1], &mut texts[1]),
            read(given.texts[2], &mut texts[2]),
            read(given.texts[3], &mut texts[3]),
        ];
        send_bytes(room.cast(), size_of::<Room>());
    }
    0
}

/// Reads a text; returns its length.
#[inline(always)]
fn read(at: u64, into: &mut [u8; PATH]) -> u32 {
    if at == 0 {
        return NONE;
    }
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_user_str_bytes(at as *const u8, into) }.map_or(0, |text| text.len() as u32)
}

#[inline(always)]
fn given(call: &Ended) -> Option<Given> {
    let number = call.number;
    let (call, numbers, texts) = if is(number, &SYS_MOUNT) {
        (MOUNT, [call.arg3(), 0, 0], [call.arg0(), call.arg1(), call.arg2(), call.arg4()])
    } else if is(number, &SYS_UMOUNT2) {
        (UMOUNT, [call.arg1(), 0, 0], [call.arg0(), 0, 0, 0])
    } else if is(number, &SYS_FSOPEN) {
        (FSOPEN, [call.arg1(), 0, 0], [call.arg0(), 0, 0, 0])
    } else if is(number, &SYS_FSCONFIG) {
        let command = call.arg1();
        let is_text = command == SET_STRING || command == SET_PATH || command == SET_PATH_EMPTY;
        let value = if is_text { call.arg3() } else { 0 };
        (FSCONFIG, [call.arg0(), command, call.arg4()], [call.arg2(), value, 0, 0])
    } else if is(number, &SYS_FSMOUNT) {
        (FSMOUNT, [call.arg0(), call.arg1(), call.arg2()], [0; 4])
    } else if is(number, &SYS_OPEN_TREE) {
        (OPEN_TREE, [call.arg0(), call.arg2(), 0], [call.arg1(), 0, 0, 0])
    } else if is(number, &SYS_MOVE_MOUNT) {
        (MOVE_MOUNT, [call.arg0(), call.arg2(), call.arg4()], [call.arg1(), call.arg3(), 0, 0])
    } else if is(number, &SYS_MOUNT_SETATTR) {
        (MOUNT_SETATTR, [call.arg0(), call.arg2(), 0], [call.arg1(), 0, 0, 0])
    } else {
        return None;
    };
    Some(Given { call, numbers, texts })
}
