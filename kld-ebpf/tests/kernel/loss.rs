//! Packets that are lost on purpose: a socket that throws away what it receives stands for a bad network.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use kld_ebpf::probe::{DropReasons, TcpDrop, TcpLatency, TcpRetransmit};
use kld_ebpf::{Btf, Filter};

use crate::common::{Generator, address_of, cannot_trace, free_port, set, socket, start, trace};
use crate::namespace;

/// A filter of one instruction, `return 0`: no byte of any packet is let through.
fn deaf(fd: i32) {
    let mut nothing = libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0 };
    let program = libc::sock_fprog { len: 1, filter: &raw mut nothing };
    let length = size_of::<libc::sock_fprog>() as u32;
    // SAFETY: the program is alive and as long as it says.
    unsafe {
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, (&raw const program).cast(), length)
    };
}

fn hearing(fd: i32) {
    // SAFETY: the option takes nothing.
    unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, (&raw const fd).cast(), 4) };
}

/// A socket that listens.
fn listener(address: SocketAddr) -> i32 {
    let fd = socket(if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }, libc::SOCK_STREAM);
    // Connections of before wait on the port for a while.
    set(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1);
    let (address, length) = address_of(address);
    // SAFETY: the address is as long as it says.
    unsafe {
        libc::bind(fd, (&raw const address).cast(), length);
        libc::listen(fd, 8);
    }
    fd
}

/// A socket that connects; `kind` may say that it does not wait.
fn connect(to: SocketAddr, kind: i32) -> i32 {
    let family = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let fd = socket(family, libc::SOCK_STREAM | kind);
    let (address, length) = address_of(to);
    // SAFETY: the address is as long as it says.
    unsafe { libc::connect(fd, (&raw const address).cast(), length) };
    fd
}

/// A connection whose server hears nothing of what the client sends, for a while. Its sockets are of a user of their own,
/// but who else makes them may be forbidden to filter.
fn lose(address: SocketAddr, uid: u32, while_: Duration) {
    // SAFETY: system calls upon descriptors of ours.
    unsafe {
        libc::setfsuid(uid);
        let listener = listener(address);
        let client = connect(address, 0);
        let server = libc::accept(listener, std::ptr::null_mut(), std::ptr::null_mut());
        deaf(server);
        libc::send(client, c"hello".as_ptr().cast(), 5, 0);
        pause(while_);
        hearing(server);
        libc::recv(server, [0_u8; 8].as_mut_ptr().cast(), 8, 0);
    }
}

fn pause(time: Duration) {
    std::thread::sleep(time);
}

fn both_families(port: u16) -> [SocketAddr; 2] {
    [(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]
}

fn of_user(uid: u32, switches: u32) -> Filter {
    Filter { uid: Some(uid), switches, ..Filter::all() }
}

#[test]
fn a_segment_that_is_sent_again_is_told_with_its_ends_and_its_number() {
    if cannot_trace() {
        return;
    }
    for address in both_families(free_port()) {
        let generator = Generator::new(move || lose(address, 4801, Duration::from_millis(700)));
        let (events, counts) = trace::<TcpRetransmit>(generator, &of_user(4801, 0));
        assert!(!events.is_empty() && counts.lost == 0, "a timeout is 200 ms, then 400");
        for event in &events {
            assert_eq!((event.remote, event.local.ip()), (address, address.ip()));
            assert_eq!((event.state, event.probe, event.task.uid), ("ESTABLISHED", false, 4801));
            assert_eq!(event.sequence, events[0].sequence, "it is the same segment");
        }
    }
}

#[test]
fn tail_loss_probes_are_told_where_they_are_wanted() {
    if cannot_trace() {
        return;
    }
    let [address, _] = both_families(free_port());
    let generator = Generator::new(move || lose(address, 4802, Duration::from_millis(700)));
    let (events, _) = trace::<TcpRetransmit>(generator, &of_user(4802, TcpRetransmit::PROBES));
    let kinds: Vec<bool> = events.iter().map(|event| event.probe).collect();
    assert!(kinds.len() >= 2 && kinds[0] && !kinds[1], "the probe comes first: {kinds:?}");
}

#[test]
fn a_call_that_nobody_hears_and_an_answer_that_nobody_hears_are_sent_again() {
    if cannot_trace() {
        return;
    }
    let [first, _] = both_families(free_port());
    let [second, _] = both_families(free_port());
    let generator = Generator::new(move || {
        // SAFETY: a system call of the child upon itself.
        unsafe { libc::setfsuid(4803) };
        deaf(listener(first));
        connect(first, libc::SOCK_NONBLOCK);
        listener(second);
        let fd = socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK);
        deaf(fd);
        let (address, length) = address_of(second);
        // SAFETY: the address is as long as it says.
        unsafe { libc::connect(fd, (&raw const address).cast(), length) };
        pause(Duration::from_millis(1500));
    });
    let (events, _) = trace::<TcpRetransmit>(generator, &of_user(4803, 0));
    let has = |state: &str, side: &dyn Fn(&TcpRetransmit) -> bool| {
        events.iter().any(|event| event.state == state && side(event))
    };
    assert!(has("SYN_SENT", &|event| event.remote == first), "{events:?}");
    assert!(has("NEW_SYN_RECV", &|event| event.local == second && event.remote.port() != 0), "{events:?}");
    assert!(events.iter().all(|event| event.task.uid == 4803));
}

#[test]
fn of_segments_only_the_wanted_are_told() {
    if cannot_trace() {
        return;
    }
    let [address, _] = both_families(free_port());
    let count = |filter: Filter| {
        let generator = Generator::new(move || lose(address, 4804, Duration::from_millis(300)));
        let told = trace::<TcpRetransmit>(generator, &filter).0;
        told.iter().filter(|event| event.remote == address).count()
    };
    assert!(count(of_user(4804, TcpRetransmit::IPV4)) >= 1);
    assert_eq!(count(of_user(4804, TcpRetransmit::IPV6)), 0);
    assert_eq!(count(of_user(4711, 0)), 0);
}

#[test]
fn whose_group_a_socket_is_of_is_known_where_nobody_runs() {
    let Some(root) = kld_ebpf::names::cgroup_root().filter(|_| !cannot_trace()) else {
        return eprintln!("not tested: this host has no control groups of the second version");
    };
    let folder = root.join(format!("kld-loss-{}", std::process::id()));
    let below = folder.join("below");
    if let Err(error) = std::fs::create_dir_all(&below) {
        return eprintln!("not tested: no control group can be made here: {error}");
    }
    std::fs::create_dir(folder.join("other")).unwrap();
    let [address, _] = both_families(free_port());
    let counts = ["", "below", "other"].map(|wanted| {
        let generator = Generator::new(move || lose(address, 4805, Duration::from_millis(300)));
        std::fs::write(below.join("cgroup.procs"), generator.pid.to_string()).unwrap();
        let filter = Filter { cgroup: Some(folder.join(wanted)), ..Filter::all() };
        trace::<TcpRetransmit>(generator, &filter).0.len()
    });
    for gone in ["other", "below", ""] {
        std::fs::remove_dir(folder.join(gone)).unwrap();
    }
    assert!(counts[0] >= 1 && counts[1] >= 1 && counts[2] == 0, "{counts:?}");
}

#[test]
fn a_packet_that_is_dropped_is_told_with_its_ends_its_flags_and_the_reason() {
    if cannot_trace() {
        return;
    }
    let reasons = DropReasons::of(&Btf::of_kernel().unwrap());
    if reasons.name(2) != "NOT_SPECIFIED" {
        return eprintln!("not tested: this kernel tells no reasons");
    }
    for address in both_families(free_port()) {
        let generator = Generator::new(move || {
            // Nobody listens there yet.
            connect(address, 0);
            lose(address, 4806, Duration::from_millis(50));
        });
        let (events, _) = trace::<TcpDrop>(generator, &Filter::all());
        let ours = events.iter().filter(|event| event.destination == address);
        let told: Vec<_> = ours
            .map(|event| (reasons.name(event.reason.unwrap()), event.flag_names(), event.state))
            .collect();
        assert_eq!(told[0], ("NO_SOCKET".to_string(), "SYN".to_string(), None));
        let wanted = ("SOCKET_FILTER".to_string(), "PSH|ACK".to_string(), Some("ESTABLISHED"));
        assert!(told[1..].contains(&wanted), "{told:?}");
        assert!(events.iter().all(|event| event.destination != address || event.source.ip() == address.ip()));
    }
}

#[test]
fn of_dropped_packets_only_the_wanted_are_told() {
    if cannot_trace() {
        return;
    }
    let [address, _] = both_families(free_port());
    let flags = |filter: Filter| {
        let generator = Generator::new(move || {
            connect(address, 0);
            lose(address, 4807, Duration::from_millis(50));
        });
        let told = trace::<TcpDrop>(generator, &filter).0;
        let ours = told.iter().filter(|event| event.destination == address);
        ours.map(TcpDrop::flag_names).collect::<Vec<_>>()
    };
    assert!(flags(Filter { switches: TcpDrop::IPV4, ..Filter::all() }).len() >= 2);
    assert!(flags(Filter { switches: TcpDrop::IPV6, ..Filter::all() }).is_empty());
    assert!(flags(of_user(4711, 0)).is_empty(), "what has no socket is nobody's");
    // Before 6.11 the kernel does not tell for whom a packet was that came in.
    if Btf::of_kernel().unwrap().tracepoint("kfree_skb") == Some(4) {
        let own = flags(of_user(4807, 0));
        assert!(own.iter().any(|flags| flags == "PSH|ACK"), "the socket is this user's: {own:?}");
    }
}

#[test]
fn a_packet_that_is_dropped_on_its_way_out_is_its_socket_s() {
    if cannot_trace() {
        return;
    }
    let [address, _] = both_families(free_port());
    let told = |filter: Filter| {
        let generator = Generator::new(move || {
            let interface = namespace::own();
            // SAFETY: a system call of the child upon itself.
            unsafe { libc::setfsuid(4810) };
            listener(address);
            let client = connect(address, 0);
            namespace::drop_all(interface);
            // SAFETY: the bytes are alive.
            unsafe { libc::send(client, c"hello".as_ptr().cast(), 5, 0) };
        });
        trace::<TcpDrop>(generator, &filter).0
    };
    let own = told(of_user(4810, 0));
    let data = own.iter().find(|event| event.flag_names() == "PSH|ACK").unwrap_or_else(|| panic!("{own:?}"));
    assert_eq!((data.destination, data.task.uid, data.state), (address, 4810, Some("ESTABLISHED")));
    assert_eq!(told(of_user(4711, 0)).len(), 0);
}

#[test]
fn how_long_a_connection_waits_that_was_begun_before_is_not_known_and_not_told() {
    if cannot_trace() {
        return;
    }
    let [address, _] = both_families(free_port());
    let listener = listener(address);
    deaf(listener);
    let fd = connect(address, libc::SOCK_NONBLOCK);
    let mut tracer = start::<TcpLatency>(&Filter::all());
    hearing(listener);
    let mut poll = libc::pollfd { fd, events: libc::POLLOUT, revents: 0 };
    // SAFETY: there is one entry, and the descriptors are this test's own.
    let answered = unsafe { libc::poll(&raw mut poll, 1, 10_000) };
    tracer.stopper().stop();
    let told = tracer.by_ref().filter(|event| event.remote == address).count();
    // SAFETY: as above.
    unsafe {
        libc::close(fd);
        libc::close(listener);
    }
    assert_eq!((answered, told), (1, 0));
}

#[test]
fn how_long_an_answer_takes_is_told_and_what_it_was() {
    if cannot_trace() {
        return;
    }
    for address in both_families(free_port()) {
        let deed = move || {
            // Refused; then answered at the second call, a second later; then at once.
            connect(address, 0);
            let listener = listener(address);
            deaf(listener);
            let fd = connect(address, libc::SOCK_NONBLOCK);
            pause(Duration::from_millis(300));
            hearing(listener);
            let mut poll = libc::pollfd { fd, events: libc::POLLOUT, revents: 0 };
            // SAFETY: there is one entry.
            unsafe { libc::poll(&raw mut poll, 1, 5000) };
            connect(address, 0);
        };
        let generator = Generator::new(deed);
        let (pid, filter) = (generator.pid, Filter::pid(generator.pid));
        let (events, counts) = trace::<TcpLatency>(generator, &filter);
        let refused: Vec<bool> = events.iter().map(|event| event.refused).collect();
        assert_eq!((refused.as_slice(), counts.lost), ([true, false, false].as_slice(), 0));
        for event in &events {
            assert_eq!((event.task.pid, event.remote, event.local.ip()), (pid, address, address.ip()));
        }
        let lasted = [0, 1, 2].map(|index: usize| events[index].lasted);
        let (soon, second) = (Duration::from_millis(100), Duration::from_secs(1));
        assert!(lasted[0] > Duration::ZERO && lasted[0] < soon && lasted[2] < soon, "{lasted:?}");
        assert!(lasted[1] >= second.mul_f64(0.9) && lasted[1] < 3 * second, "{lasted:?}");

        let generator = Generator::new(deed);
        let filter = Filter { argument: 500_000_000, ..Filter::pid(generator.pid) };
        assert_eq!(trace::<TcpLatency>(generator, &filter).0.len(), 1, "only what has taken half a second");
    }
}
