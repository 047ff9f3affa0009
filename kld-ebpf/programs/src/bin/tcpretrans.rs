//! tcpretrans: segments that are sent again, on tcp_retransmit_skb(socket, packet[, error]) and
//! tcp_retransmit_synack(listening socket, request).
#![no_std]
#![no_main]

use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use kld_ebpf_events::tcp::{PROBES, Retransmit};
use kld_ebpf_programs::current::switches;
use kld_ebpf_programs::output::send;
use kld_ebpf_programs::read::{Known, field, known};
use kld_ebpf_programs::socket::{wanted_family, wanted_owner};
use kld_ebpf_programs::tcp::flow;

#[unsafe(no_mangle)]
static PACKET_CONTROL: Known = known();
#[unsafe(no_mangle)]
static CONTROL_SEQUENCE: Known = known();
#[unsafe(no_mangle)]
static CONNECTION_PENDING: Known = known();
#[unsafe(no_mangle)]
static CONNECTION_CONGESTION: Known = known();
#[unsafe(no_mangle)]
static SOCK_NUMBER: Known = known();
#[unsafe(no_mangle)]
static REQUEST_SEQUENCE: Known = known();

/// ICSK_TIME_LOSS_PROBE, in net/inet_connection_sock.h.
const LOSS_PROBE: u8 = 5;
/// TCP_CA_Recovery, in linux/tcp.h: from here on segments are taken for lost.
const RECOVERY: u8 = 3;
/// The state's field is five bits wide.
const STATE_BITS: u8 = 0x1f;

#[raw_tracepoint(tracepoint = "tcp_retransmit_skb")]
pub fn sent_again(ctx: RawTracePointContext) -> i32 {
    let (socket, packet): (*const u8, *const u8) = (ctx.arg(0), ctx.arg(1));
    // The timer for a probe is still noted as pending while the probe is sent.
    let probe = field::<u8>(socket, &CONNECTION_PENDING) == LOSS_PROBE
        && field::<u8>(socket, &CONNECTION_CONGESTION) & STATE_BITS < RECOVERY;
    if probe && switches() & PROBES == 0 {
        return 0;
    }
    let flow = flow(socket);
    if !wanted_family(flow.family) {
        return 0;
    }
    let Some(task) = wanted_owner(socket) else { return 0 };
    let control = packet.wrapping_add(PACKET_CONTROL.load() as usize);
    let sequence = field(control, &CONTROL_SEQUENCE);
    // SAFETY: the ring gives room for the event.
    send(|event: *mut Retransmit| unsafe {
        event.write(Retransmit { task, flow, sequence, probe: u32::from(probe) });
    });
    0
}

/// The answer to the first segment of a connection that is not one yet: a request, which has the beginning of a
/// socket.
#[raw_tracepoint(tracepoint = "tcp_retransmit_synack")]
pub fn answered_again(ctx: RawTracePointContext) -> i32 {
    let (listener, request): (*const u8, *const u8) = (ctx.arg(0), ctx.arg(1));
    let mut flow = flow(request);
    flow.local_port = field(request, &SOCK_NUMBER);
    if !wanted_family(flow.family) {
        return 0;
    }
    let Some(task) = wanted_owner(listener) else { return 0 };
    let sequence = field(request, &REQUEST_SEQUENCE);
    // SAFETY: the ring gives room for the event.
    send(|event: *mut Retransmit| unsafe {
        event.write(Retransmit { task, flow, sequence, probe: 0 });
    });
    0
}
