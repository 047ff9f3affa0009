//! filetop and fileslower: reads and writes, at the end of the system call, with the file behind the descriptor.
#![no_std]
#![no_main]

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::{bpf_get_current_comm, bpf_probe_read_kernel_str_bytes};
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::{HashMap, PerCpuArray};
use aya_ebpf::programs::RawTracePointContext;
use kld_ebpf_events::io::{ALL, Accesses, Io, NAME, Of};
use kld_ebpf_events::table::Keyed;
use kld_ebpf_programs::current::{now, switches, task, wanted};
use kld_ebpf_programs::file::{Inode, REGULAR, inode, name, of_descriptor};
use kld_ebpf_programs::output::lose;
use kld_ebpf_programs::read::{Known, field, known};
use kld_ebpf_programs::syscall::{Ended, is};
use kld_ebpf_programs::table::{Table, value_of};
use kld_ebpf_programs::text::send_with_name;

#[unsafe(no_mangle)]
static SYS_READ: Known = known();
#[unsafe(no_mangle)]
static SYS_PREAD: Known = known();
#[unsafe(no_mangle)]
static SYS_READV: Known = known();
#[unsafe(no_mangle)]
static SYS_PREADV: Known = known();
#[unsafe(no_mangle)]
static SYS_PREADV2: Known = known();
#[unsafe(no_mangle)]
static SYS_WRITE: Known = known();
#[unsafe(no_mangle)]
static SYS_PWRITE: Known = known();
#[unsafe(no_mangle)]
static SYS_WRITEV: Known = known();
#[unsafe(no_mangle)]
static SYS_PWRITEV: Known = known();
#[unsafe(no_mangle)]
static SYS_PWRITEV2: Known = known();
#[unsafe(no_mangle)]
static TASK_PID: Known = known();
/// Of reads and writes that are told one by one, those shorter than so many microseconds are left out.
#[unsafe(no_mangle)]
static SHORTEST: Known = known();

#[map]
static TABLE: Table<Of, Accesses> = Table::with_max_entries(1, 0);

/// Room for a key: a program's stack is small.
#[map]
static KEY: PerCpuArray<Keyed<Of>> = PerCpuArray::with_max_entries(1, 0);

/// Since when each thread is in its call.
#[map]
static SINCE: HashMap<u32, u64> = HashMap::with_max_entries(32768, 0);

/// Whether a call writes; `None` where it does neither.
#[inline(always)]
fn writes(number: u32) -> Option<bool> {
    let one_of = |calls: [&Known; 5]| {
        is(number, calls[0])
            || is(number, calls[1])
            || is(number, calls[2])
            || is(number, calls[3])
            || is(number, calls[4])
    };
    if one_of([&SYS_READ, &SYS_PREAD, &SYS_READV, &SYS_PREADV, &SYS_PREADV2]) {
        Some(false)
    } else if one_of([&SYS_WRITE, &SYS_PWRITE, &SYS_WRITEV, &SYS_PWRITEV, &SYS_PWRITEV2]) {
        Some(true)
    } else {
        None
    }
}

/// For fileslower: sys_enter(regs, number)
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn begun(ctx: RawTracePointContext) -> i32 {
    let either = writes(ctx.arg::<u64>(1) as u32).is_some();
    if either && wanted() && SINCE.insert(&ctx.pid(), &now(), u64::from(BPF_ANY)).is_err() {
        lose();
    }
    0
}

/// For fileslower: each that took long.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn told(ctx: RawTracePointContext) -> i32 {
    let call = Ended::of(&ctx);
    let Some(writes) = writes(call.number) else { return 0 };
    let thread = ctx.pid();
    // SAFETY: the value is copied at once.
    let Some(since) = (unsafe { SINCE.get(&thread) }).copied() else { return 0 };
    let _ = SINCE.remove(&thread);
    let taken = now().saturating_sub(since);
    if taken < u64::from(SHORTEST.load()) * 1000 {
        return 0;
    }
    if let Some((file, inode)) = behind(&call) {
        let (number, device, kind) = (inode.number, inode.device, inode.kind);
        let writes = writes.into();
        let event = Io { task: task(), taken, result: call.result, inode: number, device, kind, writes };
        send_with_name(event, name(file));
    }
    0
}

/// For filetop: all that succeed.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn counted(ctx: RawTracePointContext) -> i32 {
    let call = Ended::of(&ctx);
    let Some(writes) = writes(call.number) else { return 0 };
    if call.result >= 0
        && wanted()
        && let Some((file, inode)) = behind(&call)
    {
        add(&ctx, file, &inode, writes, call.result as u64);
    }
    0
}

/// The file that a call was about; `None` where there is none, or it is not wanted.
#[inline(always)]
fn behind(call: &Ended) -> Option<(*const u8, Inode)> {
    let file = of_descriptor(call.arg0() as u32);
    if !call.is_native() || file.is_null() {
        return None;
    }
    let inode = inode(file);
    (switches() & ALL != 0 || inode.kind == REGULAR).then_some((file, inode))
}

#[inline(always)]
fn add(ctx: &impl EbpfContext, file: *const u8, inode: &Inode, writes: bool, bytes: u64) {
    let Some(room) = KEY.get_ptr_mut(0) else { return };
    // SAFETY: the room is this processor's, and nothing else runs on it now; the helper checks the name's address.
    let keyed = unsafe {
        let key = &mut (*room).key;
        (key.inode, key.device, key.kind) = (inode.number, inode.device, inode.kind);
        (key.pid, key.tid) = (ctx.tgid(), ctx.pid());
        key.comm = bpf_get_current_comm().unwrap_or_default();
        // What a longer name has left there would make another key.
        key.name = [0; NAME];
        let _ = bpf_probe_read_kernel_str_bytes(name(file), &mut key.name);
        &mut *room
    };
    if let Some(accesses) = value_of(&TABLE, keyed) {
        // SAFETY: the entry is this processor's, and nothing else runs on it now.
        unsafe {
            if writes {
                (*accesses).writes += 1;
                (*accesses).written += bytes;
            } else {
                (*accesses).reads += 1;
                (*accesses).read += bytes;
            }
        }
    }
}

/// Who ends in a call does not come back from it: sched_process_free(task).
#[raw_tracepoint(tracepoint = "sched_process_free")]
pub fn gone(ctx: RawTracePointContext) -> i32 {
    let thread: u32 = field(ctx.arg(0), &TASK_PID);
    let _ = SINCE.remove(&thread);
    0
}
