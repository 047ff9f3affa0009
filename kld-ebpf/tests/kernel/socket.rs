//! Sockets that a generator of ours binds, listens on and takes connections with.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

use kld_ebpf::Filter;
use kld_ebpf::probe::{Bind, Listen, TcpAccept};

use crate::common::{Generator, address_of, cannot_trace, free_port, set, socket, trace};

/// bind(2); the address is IPv4's loopback or IPv6's.
fn bind(fd: i32, ip: SocketAddr) -> i32 {
    let (address, length) = address_of(ip);
    // SAFETY: the address is as long as it says.
    unsafe { libc::bind(fd, (&raw const address).cast(), length) }
}

fn v4(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn v6(port: u16) -> SocketAddr {
    (Ipv6Addr::LOCALHOST, port).into()
}

#[test]
fn a_socket_that_is_bound_is_told_with_its_address_and_what_it_is_set_to() {
    if cannot_trace() {
        return;
    }
    let (tcp, udp) = (free_port(), free_port());
    let deed = move || {
        let first = socket(libc::AF_INET, libc::SOCK_STREAM);
        set(first, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1);
        bind(first, v4(tcp));
        let second = socket(libc::AF_INET6, libc::SOCK_DGRAM);
        set(second, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1);
        bind(second, v6(udp));
        let third = socket(libc::AF_INET, libc::SOCK_STREAM);
        set(third, libc::IPPROTO_IP, libc::IP_FREEBIND, 1);
        set(third, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1);
        set(third, libc::IPPROTO_IP, libc::IP_TRANSPARENT, 1);
        bind(third, v4(0));
        let fourth = socket(libc::AF_INET, libc::SOCK_STREAM);
        // SAFETY: the name is alive.
        unsafe {
            libc::setsockopt(fourth, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, c"lo".as_ptr().cast(), 3);
        }
        bind(fourth, v4(0));
        // Refused, no socket at all, and none of the internet's.
        bind(socket(libc::AF_INET, libc::SOCK_DGRAM), (Ipv4Addr::new(192, 0, 2, 1), 4242).into());
        bind(0x7fff, v4(0));
        let unix = socket(libc::AF_UNIX, libc::SOCK_STREAM);
        // SAFETY: an address that is a family alone.
        unsafe { libc::bind(unix, (&raw const UNIX).cast(), 2) };
    };
    static UNIX: libc::sa_family_t = libc::AF_UNIX as libc::sa_family_t;
    let tell = |event: &Bind| {
        (
            event.address,
            event.protocol.into(),
            event.kind.into(),
            event.options,
            event.interface,
            event.result,
        )
    };
    let generator = Generator::new(deed);
    let (pid, filter) = (generator.pid, Filter { switches: Bind::FAILED, ..Filter::pid(generator.pid) });
    let (events, counts) = trace::<Bind>(generator, &filter);
    let told: Vec<_> = events.iter().map(tell).collect();
    let (stream, packets) = ((libc::IPPROTO_TCP, libc::SOCK_STREAM), (libc::IPPROTO_UDP, libc::SOCK_DGRAM));
    let deferred = Bind::FREEBIND | Bind::NO_PORT | Bind::TRANSPARENT;
    let chosen = told[3].0.port();
    let wanted = [
        (v4(tcp), stream.0, stream.1, Bind::REUSE_ADDRESS, 0, Ok(())),
        (v6(udp), packets.0, packets.1, Bind::REUSE_PORT, 0, Ok(())),
        (v4(0), stream.0, stream.1, deferred, 0, Ok(())),
        (v4(chosen), stream.0, stream.1, 0, 1, Ok(())),
        ("192.0.2.1:4242".parse().unwrap(), packets.0, packets.1, 0, 0, Err(libc::EADDRNOTAVAIL)),
    ];
    assert_eq!((told.as_slice(), counts.lost), (wanted.as_slice(), 0));
    assert!(chosen != 0, "the port that the kernel has chosen");
    assert!(events.iter().all(|event| event.task.pid == pid));

    let count = |filter: &dyn Fn(u32) -> Filter| {
        let generator = Generator::new(deed);
        let filter = filter(generator.pid);
        trace::<Bind>(generator, &filter).0.len()
    };
    assert_eq!(count(&Filter::pid), 4, "what has failed is told where that is wanted");
    assert_eq!(count(&|pid| Filter { argument: tcp.into(), ..Filter::pid(pid) }), 1);
    assert_eq!(count(&|pid| Filter { argument: 1, ..Filter::pid(pid) }), 0);
}

#[test]
fn a_socket_that_listens_is_told_with_its_backlog_and_its_namespace() {
    if cannot_trace() {
        return;
    }
    let (one, other) = (free_port(), free_port());
    let deed = move || {
        for (address, family, backlog) in [(v4(one), libc::AF_INET, 7), (v6(other), libc::AF_INET6, 4096)] {
            let fd = socket(family, libc::SOCK_STREAM);
            bind(fd, address);
            // SAFETY: a system call upon a descriptor of ours.
            unsafe { libc::listen(fd, backlog) };
        }
        // SAFETY: as above.
        unsafe { libc::listen(socket(libc::AF_INET, libc::SOCK_DGRAM), 1) };
    };
    let namespace = std::fs::metadata("/proc/self/ns/net").unwrap().ino() as u32;
    for (switches, failures) in [(0, 0), (Listen::FAILED, 1)] {
        let generator = Generator::new(deed);
        let (pid, filter) = (generator.pid, Filter { switches, ..Filter::pid(generator.pid) });
        let (events, counts) = trace::<Listen>(generator, &filter);
        let tell = |event: &Listen| (event.address, event.backlog, event.namespace, event.result);
        let told: Vec<_> = events.iter().map(tell).collect();
        let wanted = [
            (v4(one), 7, namespace, Ok(())),
            (v6(other), 4096, namespace, Ok(())),
            ("0.0.0.0:0".parse().unwrap(), 1, namespace, Err(libc::EOPNOTSUPP)),
        ];
        assert_eq!((told.as_slice(), counts.lost), (&wanted[..2 + failures], 0));
        assert!(events.iter().all(|event| event.task.pid == pid));
    }
}

#[test]
fn a_connection_that_is_taken_is_told_with_both_ends_and_who_took_it() {
    if cannot_trace() {
        return;
    }
    const EACH: usize = 50;
    for address in [v4(0), v6(0)] {
        let listener = TcpListener::bind(address).unwrap();
        let (local, fd) = (listener.local_addr().unwrap(), listener.as_raw_fd());
        let generator = Generator::with(fd, move || {
            for _ in 0..EACH {
                // SAFETY: the address is not asked for.
                unsafe {
                    libc::close(libc::syscall(libc::SYS_accept, fd, 0, 0) as i32);
                    libc::close(libc::accept4(fd, std::ptr::null_mut(), std::ptr::null_mut(), 0));
                }
            }
        });
        let clients: Vec<TcpStream> = (0..2 * EACH).map(|_| TcpStream::connect(local).unwrap()).collect();
        let mut wanted: Vec<_> = clients.iter().map(|client| (local, client.local_addr().unwrap())).collect();
        let (pid, filter) = (generator.pid, Filter::pid(generator.pid));
        let (events, counts) = trace::<TcpAccept>(generator, &filter);
        let mut told: Vec<_> = events.iter().map(|event| (event.local, event.remote)).collect();
        told.sort();
        wanted.sort();
        assert_eq!((told, counts.lost), (wanted, 0));
        assert!(events.iter().all(|event| event.task.pid == pid));
    }
}

#[test]
fn of_connections_that_are_taken_only_the_wanted_are_told() {
    if cannot_trace() {
        return;
    }
    let listener = TcpListener::bind(v4(0)).unwrap();
    let (local, fd) = (listener.local_addr().unwrap(), listener.as_raw_fd());
    let count = |filter: &dyn Fn(u32) -> Filter| {
        let generator = Generator::with(fd, move || {
            // SAFETY: the address is not asked for.
            unsafe { libc::accept4(fd, std::ptr::null_mut(), std::ptr::null_mut(), 0) };
        });
        let client = TcpStream::connect(local).unwrap();
        let filter = filter(generator.pid);
        let told = trace::<TcpAccept>(generator, &filter).0.len();
        drop(client);
        told
    };
    assert_eq!(count(&|pid| Filter { switches: TcpAccept::IPV4, ..Filter::pid(pid) }), 1);
    assert_eq!(count(&|pid| Filter { switches: TcpAccept::IPV6, ..Filter::pid(pid) }), 0);
    assert_eq!(count(&|pid| Filter { argument: local.port().into(), ..Filter::pid(pid) }), 1);
    assert_eq!(count(&|pid| Filter { argument: 1, ..Filter::pid(pid) }), 0);
}
