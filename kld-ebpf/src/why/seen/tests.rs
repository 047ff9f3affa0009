use std::net::SocketAddr;

use kld_ebpf_events::Task;

use super::*;

/// A segment of one connection, that was sent again at this moment, in milliseconds.
fn again(at: u64, sequence: u32, state: &'static str) -> TcpRetransmit {
    let time = at * 1_000_000;
    let task = Task { time, cgroup: 0, pid: 0, tid: 0, uid: 0, gid: 0, comm: [0; 16] };
    let (local, remote): (SocketAddr, SocketAddr) =
        ("192.0.2.1:9".parse().unwrap(), "192.0.2.2:80".parse().unwrap());
    TcpRetransmit { task, local, remote, state, sequence, probe: false }
}

fn stalled_ms(segments: &[TcpRetransmit]) -> f64 {
    retransmits(segments, None, (0, 100_000_000_000)).stalled_s * 1000.0
}

#[test]
fn a_segment_that_is_sent_again_was_waited_for_since_it_was_sent_before() {
    assert_eq!(stalled_ms(&[again(5000, 1, "ESTABLISHED")]), 200.0);
    assert_eq!(stalled_ms(&[again(5000, 1, "SYN_SENT")]), 1000.0);
    let doubled = [5000, 5400, 6200].map(|at| again(at, 1, "ESTABLISHED"));
    assert_eq!(stalled_ms(&doubled), 200.0 + 400.0 + 800.0);
    let burst = [5000, 5001, 5002].map(|at| again(at, at as u32, "ESTABLISHED"));
    assert_eq!(stalled_ms(&burst), 202.0, "what is sent at once was waited for at once");
}

#[test]
fn of_a_wait_that_began_before_the_watch_only_the_rest_counts() {
    let mut seen = Seen::nothing(None);
    seen.begin(10_000_000_000);
    let wait = |ended_s: u64, waited_s| {
        let task =
            Task { time: ended_s * 1_000_000_000, cgroup: 0, pid: 5, tid: 5, uid: 0, gid: 0, comm: [0; 16] };
        RunqSlower { pid: 7, tid: 7, comm: [0; 16], waited: Duration::from_secs(waited_s), before: task }
    };
    seen.long_wait(&wait(11, 80));
    seen.long_wait(&wait(14, 2));
    assert_eq!((seen.waiters.longest()[0].seconds, seen.runners.longest()[0].seconds), (3.0, 3.0));
    assert_eq!(seen.before, 79.0, "which is in the table's sum, and is taken off");
}

#[test]
fn requests_are_awaited_unless_they_are_of_the_background() {
    let (sync, ahead, background) = (1 << 11, 1 << 19, 1 << 20);
    for awaited in [0, ahead, 1 | sync, 2, 9 | sync] {
        assert!(is_awaited(awaited), "{awaited:#x}");
    }
    for other in [1, 1 | background, 3, 3 | sync, 5 | sync] {
        assert!(!is_awaited(other), "{other:#x}");
    }
}

#[test]
fn the_longest_come_first_and_few_are_told() {
    let mut times = Times::default();
    (1..=20).for_each(|pid| times.add(pid, "a", f64::from(pid % 7)));
    times.add(3, "a", 10.0);
    let told = times.longest();
    assert_eq!((told[0].pid, told[0].seconds, told.len()), (3, 13.0, MOST));
}
