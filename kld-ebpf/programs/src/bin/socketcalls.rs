//! bindsnoop, solisten and tcpaccept: sockets that are bound, that listen and that take connections, at the end of the
//! system call.
#![no_std]
#![no_main]

use aya_ebpf::helpers::bpf_probe_read_user;
use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use kld_ebpf_events::socket::{Accept, Bind, FAILED, Listen};
use kld_ebpf_events::tcp::Flow;
use kld_ebpf_programs::current::{argument, switches, task, wanted};
use kld_ebpf_programs::output::send;
use kld_ebpf_programs::read::{Known, known};
use kld_ebpf_programs::socket::{AF_INET, interface, kind, namespace, of_descriptor, options, wanted_family};
use kld_ebpf_programs::syscall::{Ended, is};
use kld_ebpf_programs::tcp::{family, flow, is_tcp, protocol, widen};

#[unsafe(no_mangle)]
static SYS_BIND: Known = known();
#[unsafe(no_mangle)]
static SYS_LISTEN: Known = known();
#[unsafe(no_mangle)]
static SYS_ACCEPT: Known = known();
#[unsafe(no_mangle)]
static SYS_ACCEPT4: Known = known();

// The errors of a descriptor that is no socket.
const EBADF: i64 = -9;
const ENOTSOCK: i64 = -88;

/// The socket of the internet that a call is about; `None` where it is not wanted.
#[inline(always)]
fn called_on(call: &Ended) -> Option<*const u8> {
    let failed = call.result < 0;
    if !call.is_native()
        || failed && switches() & FAILED == 0
        || call.result == EBADF
        || call.result == ENOTSOCK
        || !wanted()
    {
        return None;
    }
    let socket = of_descriptor(call.arg0() as u32);
    wanted_family(family(socket)).then_some(socket)
}

/// Whether a port is wanted.
#[inline(always)]
fn wanted_port(port: u16) -> bool {
    argument() == 0 || argument() == u64::from(port)
}

#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn bound(ctx: RawTracePointContext) -> i32 {
    let call = Ended::of(&ctx);
    if !is(call.number, &SYS_BIND) {
        return 0;
    }
    let Some(socket) = called_on(&call) else { return 0 };
    let flow = if call.result < 0 { asked(call.arg1()) } else { flow(socket) };
    if !wanted_port(flow.local_port) {
        return 0;
    }
    let result = call.result as i32;
    // SAFETY: the ring gives room for the event.
    send(|event: *mut Bind| unsafe {
        (*event).task = task();
        (*event).flow = flow;
        (*event).options = options(socket);
        (*event).interface = interface(socket);
        (*event).kind = kind(socket);
        (*event).protocol = protocol(socket);
        (*event).result = result;
    });
    0
}

/// The address that a program gives, a struct sockaddr_in or sockaddr_in6; zeros where it cannot be read.
#[inline(always)]
fn asked(at: u64) -> Flow {
    /// Family, port, address of version 4 or flow label.
    type Head = (u16, u16, u32);
    // SAFETY: the helper checks the addresses.
    let (family, port, address) = unsafe { bpf_probe_read_user(at as *const Head) }.unwrap_or_default();
    let local = if family == AF_INET {
        widen(address)
    } else {
        // SAFETY: as above.
        unsafe { bpf_probe_read_user((at + 8) as *const [u8; 16]) }.unwrap_or_default()
    };
    Flow { local, family, local_port: u16::from_be(port), ..Flow::default() }
}

#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn listens(ctx: RawTracePointContext) -> i32 {
    let call = Ended::of(&ctx);
    if !is(call.number, &SYS_LISTEN) {
        return 0;
    }
    let Some(socket) = called_on(&call) else { return 0 };
    let flow = flow(socket);
    if !wanted_port(flow.local_port) {
        return 0;
    }
    let (backlog, result) = (call.arg1() as i32, call.result as i32);
    // SAFETY: the ring gives room for the event.
    send(|event: *mut Listen| unsafe {
        (*event).task = task();
        (*event).flow = flow;
        (*event).backlog = backlog;
        (*event).namespace = namespace(socket);
        (*event).protocol = u32::from(protocol(socket));
        (*event).result = result;
    });
    0
}

#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn accepted(ctx: RawTracePointContext) -> i32 {
    let call = Ended::of(&ctx);
    let accepts = is(call.number, &SYS_ACCEPT) || is(call.number, &SYS_ACCEPT4);
    if !accepts || call.result < 0 || !call.is_native() || !wanted() {
        return 0;
    }
    let socket = of_descriptor(call.result as u32);
    if !wanted_family(family(socket)) || !is_tcp(socket) {
        return 0;
    }
    let flow = flow(socket);
    if !wanted_port(flow.local_port) {
        return 0;
    }
    // SAFETY: the ring gives room for the event.
    send(|event: *mut Accept| unsafe {
        (*event).task = task();
        (*event).flow = flow;
    });
    0
}
