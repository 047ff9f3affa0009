//! Connections over loopback by generators of ours.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use kld_ebpf::Filter;
use kld_ebpf::events::text;
use kld_ebpf::probe::{TcpConnect, TcpLife, TcpState, TcpTop};

use crate::common::{Generator, cannot_trace, tally, trace};

const SENT: usize = 5000;
const ANSWER: usize = 20_000;

/// Answers each of so many connections, from a thread of the test's.
fn server(address: SocketAddr, connections: usize) -> (SocketAddr, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind(address).unwrap();
    let bound = listener.local_addr().unwrap();
    let serve = move || {
        for _ in 0..connections {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            stream.read_to_end(&mut asked).unwrap();
            stream.write_all(&[0; ANSWER]).unwrap();
        }
    };
    (bound, std::thread::spawn(serve))
}

/// Asks, and reads the answer to its end. It allocates nothing: it runs in a forked child.
fn client(address: SocketAddr) {
    let Ok(mut stream) = TcpStream::connect(address) else { return };
    let _ = stream.write_all(&[0; SENT]);
    let _ = stream.shutdown(Shutdown::Write);
    let mut room = [0; 4096];
    while stream.read(&mut room).is_ok_and(|count| count > 0) {}
}

fn both_families() -> [SocketAddr; 2] {
    [(Ipv4Addr::LOCALHOST, 0).into(), (Ipv6Addr::LOCALHOST, 0).into()]
}

/// To TCP the SYN and the FIN are a byte each.
#[track_caller]
fn about(told: u64, bytes: usize) {
    assert!((bytes as u64..=bytes as u64 + 2).contains(&told), "{told} for {bytes} bytes");
}

#[test]
fn a_connection_that_is_begun_is_told_with_both_addresses() {
    if cannot_trace() {
        return;
    }
    for family in both_families() {
        let (address, served) = server(family, 200);
        let generator = Generator::new(move || (0..200).for_each(|_| client(address)));
        let (pid, filter) = (generator.pid, Filter::pid(generator.pid));
        let (events, counts) = trace::<TcpConnect>(generator, &filter);
        served.join().unwrap();
        assert_eq!((events.len(), counts.lost), (200, 0));
        for event in &events {
            assert_eq!((event.task.pid, event.remote, event.local.ip()), (pid, address, address.ip()));
        }
    }
}

#[test]
fn a_connection_that_nobody_answers_is_told_too() {
    if cannot_trace() {
        return;
    }
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let generator = Generator::new(move || client(free));
    let filter = Filter::pid(generator.pid);
    let (events, _) = trace::<TcpConnect>(generator, &filter);
    assert_eq!(events.iter().map(|event| event.remote).collect::<Vec<_>>(), [free]);
}

#[test]
fn a_connection_s_life_is_told_with_its_bytes_and_its_owner() {
    if cannot_trace() {
        return;
    }
    for family in both_families() {
        let (address, served) = server(family, 20);
        let generator = Generator::new(move || (0..20).for_each(|_| client(address)));
        let (pid, filter) = (generator.pid, Filter::pid(generator.pid));
        let began = Instant::now();
        let (events, counts) = trace::<TcpLife>(generator, &filter);
        served.join().unwrap();
        let ours: Vec<_> = events.iter().filter(|event| event.remote == address).collect();
        assert_eq!((ours.len(), events.len(), counts.lost), (20, 20, 0));
        for life in ours {
            let owner = life.owner.unwrap();
            assert_eq!((owner.pid, life.local.ip()), (pid, address.ip()));
            about(life.sent, SENT);
            about(life.received, ANSWER);
            assert!(life.local.port() != 0 && life.age > Duration::ZERO && life.age < began.elapsed());
        }
    }
}

#[test]
fn the_side_that_was_connected_to_is_told_with_who_closed_it() {
    if cannot_trace() {
        return;
    }
    let (address, served) = server((Ipv4Addr::LOCALHOST, 0).into(), 5);
    let generator = Generator::new(move || {
        (0..5).for_each(|_| client(address));
        // The server's side ends a moment after the client's.
        std::thread::sleep(Duration::from_millis(300));
    });
    let (events, _) = trace::<TcpLife>(generator, &Filter::all());
    served.join().unwrap();
    let server: Vec<_> = events.iter().filter(|event| event.local == address).collect();
    assert_eq!(server.len(), 5);
    for life in server {
        assert_eq!(life.owner.map(|owner| owner.pid), Some(std::process::id()));
        about(life.received, SENT);
        about(life.sent, ANSWER);
    }
}

#[test]
fn every_state_of_a_connection_is_told_in_order() {
    if cannot_trace() {
        return;
    }
    let (address, served) = server((Ipv4Addr::LOCALHOST, 0).into(), 1);
    let generator = Generator::new(move || client(address));
    let filter = Filter::pid(generator.pid);
    let (events, counts) = trace::<TcpState>(generator, &filter);
    served.join().unwrap();
    // The generator has inherited the listening socket.
    let events: Vec<_> = events.iter().filter(|event| event.remote == address).collect();
    let states: Vec<_> = events.iter().map(|event| (event.old, event.new)).collect();
    let wanted = [
        ("CLOSE", "SYN_SENT"),
        ("SYN_SENT", "ESTABLISHED"),
        ("ESTABLISHED", "FIN_WAIT1"),
        ("FIN_WAIT1", "FIN_WAIT2"),
        ("FIN_WAIT2", "CLOSE"),
    ];
    assert_eq!((states.as_slice(), counts.lost), (wanted.as_slice(), 0));
    assert!(events.iter().all(|event| event.socket == events[0].socket));
    assert!(events[0].lasted.is_zero() && events[1..].iter().all(|event| !event.lasted.is_zero()));
}

#[test]
fn bytes_are_counted_by_process_and_connection() {
    if cannot_trace() {
        return;
    }
    let own = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
    for family in both_families() {
        let (address, served) = server(family, 20);
        let generator = Generator::new(move || (0..20).for_each(|_| client(address)));
        let (pid, filter) = (generator.pid, Filter::pid(generator.pid));
        let (table, ()) = tally::<TcpTop, _>(generator, &filter, |_| ());
        served.join().unwrap();
        assert_eq!(table.len(), 20, "each connection has a port of its own");
        for (key, traffic) in &table {
            let (local, remote) = TcpTop::ends(key);
            assert_eq!((key.pid, text(&key.comm), remote), (pid.into(), own.trim_end(), address));
            assert_eq!((traffic.sent, traffic.received), (SENT as u64, ANSWER as u64), "to the byte");
            assert!(local.ip() == address.ip() && local.port() != 0);
        }
    }
}

#[test]
fn what_is_looked_at_and_left_is_not_received_and_datagrams_are_not_tcp_s() {
    if cannot_trace() {
        return;
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let served = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&[0; 1000]).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let generator = Generator::new(move || {
        let Ok(mut stream) = TcpStream::connect(address) else { return };
        let mut room = [0; 1000];
        let _ = stream.peek(&mut room);
        let _ = stream.read_exact(&mut room);
        if let Ok(socket) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)) {
            let _ = socket.send_to(&room, address);
        }
    });
    let filter = Filter::pid(generator.pid);
    let (table, ()) = tally::<TcpTop, _>(generator, &filter, |_| ());
    served.join().unwrap();
    let told: Vec<_> = table.values().map(|traffic| (traffic.sent, traffic.received)).collect();
    assert_eq!(told, [(0, 1000)]);
}

#[test]
fn only_the_wanted_version_and_the_wanted_user_s_bytes_are_counted() {
    if cannot_trace() {
        return;
    }
    let count = |filter: &dyn Fn(u32) -> Filter| -> usize {
        let counts = both_families().map(|family| {
            let (address, served) = server(family, 1);
            let generator = Generator::new(move || client(address));
            let filter = filter(generator.pid);
            let (table, ()) = tally::<TcpTop, _>(generator, &filter, |_| ());
            served.join().unwrap();
            table.len()
        });
        counts.iter().sum()
    };
    assert_eq!(count(&Filter::pid), 2);
    assert_eq!(count(&|pid| Filter { switches: TcpTop::IPV4, ..Filter::pid(pid) }), 1);
    assert_eq!(count(&|pid| Filter { switches: TcpTop::IPV6, ..Filter::pid(pid) }), 1);
    assert_eq!(count(&|pid| Filter { uid: Some(4711), ..Filter::pid(pid) }), 0);
}
