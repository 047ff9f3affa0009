//! execsnoop: programs that are started, on sched_process_exec(task, old_pid, binprm), and those that are not, at
//! the end of the system call.
#![no_std]
#![no_main]

use aya_ebpf::helpers::bpf_probe_read_user_str_bytes;
use aya_ebpf::helpers::generated::bpf_probe_read_user;
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::RawTracePointContext;
use kld_ebpf_events::process::{ARGS, Exec};
use kld_ebpf_programs::current::{task, wanted};
use kld_ebpf_programs::output::send_bytes;
use kld_ebpf_programs::read::{Known, field, known};
use kld_ebpf_programs::syscall::{Ended, is};
use kld_ebpf_programs::task::{current, parent};

#[unsafe(no_mangle)]
static SYS_EXECVE: Known = known();
#[unsafe(no_mangle)]
static SYS_EXECVEAT: Known = known();
#[unsafe(no_mangle)]
static TASK_MM: Known = known();
#[unsafe(no_mangle)]
static MM_ARG_START: Known = known();
#[unsafe(no_mangle)]
static MM_ARG_END: Known = known();

/// An event and its arguments, too long for a program's stack.
#[repr(C)]
struct Room {
    event: Exec,
    args: [u8; ARGS],
}

#[map]
static ROOM: PerCpuArray<Room> = PerCpuArray::with_max_entries(1, 0);

#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn started(ctx: RawTracePointContext) -> i32 {
    if !wanted() {
        return 0;
    }
    let Some(room) = ROOM.get_ptr_mut(0) else { return 0 };
    let new: *const u8 = ctx.arg(0);
    let memory: *const u8 = field(new, &TASK_MM);
    let start: u64 = field(memory, &MM_ARG_START);
    let length = field::<u64>(memory, &MM_ARG_END).saturating_sub(start);
    let mut kept = length.min(ARGS as u64) as u32;
    // SAFETY: the room is this processor's, and nothing else runs on it now; the helper checks the address.
    unsafe {
        (*room).event = Exec { task: task(), parent: parent(new), result: 0, length };
        let into = (&raw mut (*room).args).cast();
        if bpf_probe_read_user(into, kept, start as *const _) != 0 {
            kept = 0;
        }
        send_bytes(room.cast(), size_of::<Exec>() + kept as usize);
    }
    0
}

/// Loaded only where failures are wanted.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn failed(ctx: RawTracePointContext) -> i32 {
    let call = Ended::of(&ctx);
    let at_path = if is(call.number, &SYS_EXECVE) {
        call.arg0()
    } else if is(call.number, &SYS_EXECVEAT) {
        call.arg1()
    } else {
        return 0;
    };
    if call.result >= 0 || !call.is_native() || !wanted() {
        return 0;
    }
    let Some(room) = ROOM.get_ptr_mut(0) else { return 0 };
    // SAFETY: as above.
    unsafe {
        let path = bpf_probe_read_user_str_bytes(at_path as *const u8, &mut (*room).args);
        let length = path.map_or(0, <[u8]>::len).min(ARGS);
        let result = call.result as i32;
        (*room).event = Exec { task: task(), parent: parent(current()), result, length: length as u64 };
        send_bytes(room.cast(), size_of::<Exec>() + length);
    }
    0
}
