//! tcpconnect, tcpconnlat, tcplife and tcpstates: what becomes of connections, on
//! inet_sock_set_state(socket, old state, new state).
#![no_std]
#![no_main]

use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::LruHashMap;
use aya_ebpf::programs::RawTracePointContext;
use kld_ebpf_events::Task;
use kld_ebpf_events::tcp::{CONNECTS, ENDS, LATENCIES, State};
use kld_ebpf_programs::current::{argument, is_unfiltered, now, switches, task, wanted};
use kld_ebpf_programs::output::send;
use kld_ebpf_programs::read::{Known, field, known};
use kld_ebpf_programs::socket::wanted_family;
use kld_ebpf_programs::tcp::{family, flow, is_tcp};

#[unsafe(no_mangle)]
static TCP_ACKED: Known = known();
#[unsafe(no_mangle)]
static TCP_RECEIVED: Known = known();
#[unsafe(no_mangle)]
static SOCK_ERROR: Known = known();

// net/tcp_states.h
const ESTABLISHED: u32 = 1;
const SYN_SENT: u32 = 2;
const FIN_WAIT1: u32 = 4;
const CLOSE: u32 = 7;
const CLOSE_WAIT: u32 = 8;
const LAST_ACK: u32 = 9;
const LISTEN: u32 = 10;

/// What is remembered of a connection.
#[derive(Clone, Copy)]
#[repr(C)]
struct Memory {
    began: u64,
    changed: u64,
    owner: Task,
    /// Whether the owner's events are wanted.
    wanted: u64,
}

/// The oldest is forgotten where there are more connections than this.
#[map]
static SOCKETS: LruHashMap<u64, Memory> = LruHashMap::with_max_entries(65536, 0);

const NOBODY: Task = Task { time: 0, cgroup: 0, pid: 0, tid: 0, uid: 0, gid: 0, comm: [0; 16] };

#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub fn changed(ctx: RawTracePointContext) -> i32 {
    let socket: *const u8 = ctx.arg(0);
    let (old, new): (u32, u32) = (ctx.arg(1), ctx.arg(2));
    if !is_tcp(socket) || !wanted_family(family(socket)) {
        return 0;
    }
    if switches() & CONNECTS != 0 {
        if new == SYN_SENT && wanted() {
            // SAFETY: the ring gives room for the event.
            send(|event| unsafe { tell(event, socket, old, new) });
        }
        return 0;
    }
    let key = socket as u64;
    if SOCKETS.get_ptr(key).is_none() {
        let fresh = Memory { began: now(), changed: 0, owner: NOBODY, wanted: 0 };
        let _ = SOCKETS.insert(key, &fresh, 0);
    }
    let Some(memory) = SOCKETS.get_ptr_mut(key) else { return 0 };
    // Who connects or closes runs while it does; all else happens when a packet comes.
    let is_owner = new == SYN_SENT
        || new == LISTEN
        || old == LISTEN && new == CLOSE
        || old == ESTABLISHED && new == FIN_WAIT1
        || old == CLOSE_WAIT && new == LAST_ACK;
    let of_interest = if switches() & LATENCIES != 0 {
        old == SYN_SENT && (new == ESTABLISHED || new == CLOSE && is_refused(socket))
    } else {
        switches() & ENDS == 0 || new == CLOSE && old != LISTEN
    };
    // SAFETY: a socket changes its state on one processor at a time, and the ring gives room for the event.
    unsafe {
        if is_owner {
            (*memory).owner = task();
            (*memory).wanted = u64::from(wanted());
        }
        // Of a connection that was begun before, nobody knows how long it has waited.
        let is_long =
            switches() & LATENCIES == 0 || (*memory).changed != 0 && now() - (*memory).changed >= argument();
        if of_interest && is_long && (is_unfiltered() || (*memory).wanted != 0) {
            send(|event: *mut State| {
                tell(event, socket, old, new);
                (*event).owner = (*memory).owner;
                (*event).began = (*memory).began;
                (*event).changed = (*memory).changed;
            });
        }
        (*memory).changed = now();
    }
    if new == CLOSE {
        let _ = SOCKETS.remove(key);
    }
    0
}

/// Whether the other side has refused, which is an answer too.
#[inline(always)]
fn is_refused(socket: *const u8) -> bool {
    const ECONNREFUSED: i32 = 111;
    field::<i32>(socket, &SOCK_ERROR) == ECONNREFUSED
}

/// Everything but what is remembered.
///
/// SAFETY (of the callers): there is room for the event.
#[inline(always)]
unsafe fn tell(event: *mut State, socket: *const u8, old: u32, new: u32) {
    // SAFETY: the caller vouches for the room.
    unsafe {
        (*event).task = task();
        (*event).owner = (*event).task;
        (*event).socket = socket as u64;
        (*event).began = (*event).task.time;
        (*event).changed = 0;
        (*event).sent = field(socket, &TCP_ACKED);
        (*event).received = field(socket, &TCP_RECEIVED);
        (*event).flow = flow(socket);
        (*event).flow.state = old as u16;
        (*event).new = u64::from(new);
    }
}
