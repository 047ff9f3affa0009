//! tcptop: bytes that processes send and receive over TCP, by connection.
//!
//! Since 6.3 the kernel has tracepoints where sockets send and receive. On kernels before, the functions of TCP are looked
//! at: which socket they are given at their beginning, and how many bytes they return at their end.
#![no_std]
#![no_main]

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::bpf_get_current_comm;
use aya_ebpf::macros::{kprobe, kretprobe, map, raw_tracepoint};
use aya_ebpf::maps::HashMap;
use aya_ebpf::programs::{ProbeContext, RawTracePointContext, RetProbeContext};
use kld_ebpf_events::tcp::{Flow, Of, Traffic};
use kld_ebpf_programs::current::wanted;
use kld_ebpf_programs::function::{arg0, result};
use kld_ebpf_programs::output::lose;
use kld_ebpf_programs::read::{Known, field, known};
use kld_ebpf_programs::socket::wanted_family;
use kld_ebpf_programs::table::{Table, value};
use kld_ebpf_programs::tcp::{flow, is_tcp};

/// Of a receive: what was read is left to be read again (linux/socket.h).
const MSG_PEEK: u32 = 2;

#[map]
static TABLE: Table<Of, Traffic> = Table::with_max_entries(1, 0);

/// How far the stream of a socket was read.
#[unsafe(no_mangle)]
static TCP_COPIED: Known = known();

/// What a thread has begun.
#[derive(Clone, Copy)]
#[repr(C)]
struct Begun {
    socket: u64,
    /// How far its stream was read.
    copied: u64,
}

/// What each thread sends or receives.
#[map]
static BEGUN: HashMap<u32, Begun> = HashMap::with_max_entries(16384, 0);

/// sock_send_length(socket, result, flags)
#[raw_tracepoint(tracepoint = "sock_send_length")]
pub fn sent(ctx: RawTracePointContext) -> i32 {
    let socket: *const u8 = ctx.arg(0);
    if is_tcp(socket) && wanted() {
        add(&ctx, socket, ctx.arg::<u64>(1) as i32, true);
    }
    0
}

/// sock_recv_length(socket, result, flags)
#[raw_tracepoint(tracepoint = "sock_recv_length")]
pub fn received(ctx: RawTracePointContext) -> i32 {
    let socket: *const u8 = ctx.arg(0);
    if ctx.arg::<u64>(2) as u32 & MSG_PEEK == 0 && is_tcp(socket) && wanted() {
        add(&ctx, socket, ctx.arg::<u64>(1) as i32, false);
    }
    0
}

/// tcp_sendmsg(socket, message, length), and tcp_sendpage(socket, page, offset, length, flags)
#[kprobe]
pub fn sends(ctx: ProbeContext) -> i32 {
    begin(&ctx)
}

#[kretprobe]
pub fn has_sent(ctx: RetProbeContext) -> i32 {
    end(&ctx, true)
}

/// tcp_recvmsg(socket, message, length, ...)
#[kprobe]
pub fn receives(ctx: ProbeContext) -> i32 {
    begin(&ctx)
}

#[kretprobe]
pub fn has_received(ctx: RetProbeContext) -> i32 {
    end(&ctx, false)
}

#[inline(always)]
fn begin(ctx: &ProbeContext) -> i32 {
    if wanted() {
        let socket: u64 = arg0(ctx);
        let begun = Begun { socket, copied: copied(socket) };
        if BEGUN.insert(&ctx.pid(), &begun, u64::from(BPF_ANY)).is_err() {
            lose();
        }
    }
    0
}

#[inline(always)]
fn end(ctx: &RetProbeContext, sends: bool) -> i32 {
    let thread = ctx.pid();
    // SAFETY: the value is copied at once.
    let Some(begun) = (unsafe { BEGUN.get(&thread) }).copied() else { return 0 };
    let _ = BEGUN.remove(&thread);
    // Which argument the flags are differs between kernels. What was only looked at is left in the stream.
    if sends || copied(begun.socket) != begun.copied {
        add(ctx, begun.socket as *const u8, result(ctx), sends);
    }
    0
}

#[inline(always)]
fn copied(socket: u64) -> u64 {
    field::<u32>(socket as *const u8, &TCP_COPIED).into()
}

#[inline(always)]
fn add(ctx: &impl EbpfContext, socket: *const u8, result: i32, sends: bool) {
    if result <= 0 {
        return;
    }
    let flow = flow(socket);
    if !wanted_family(flow.family) {
        return;
    }
    let (pid, comm) = (ctx.tgid().into(), bpf_get_current_comm().unwrap_or_default());
    if let Some(traffic) = value(&TABLE, Of { pid, flow: Flow { state: 0, ..flow }, comm }) {
        // SAFETY: the entry is this processor's, and nothing else runs on it now.
        unsafe {
            (*traffic).count += 1;
            if sends {
                (*traffic).sent += result as u64;
            } else {
                (*traffic).received += result as u64;
            }
        }
    }
}
