//! `wg-leaks` finds what is planted in a network namespace of the test's own, with the right process, and nothing on
//! a clean one. In the lab the tunnel is WireGuard's; elsewhere an interface of another kind that is named as one.
#![allow(clippy::print_stderr, reason = "a test says why it does not run")]

mod ground;

use std::net::{TcpListener, TcpStream, UdpSocket};

use ground::{Ground, Leaky, cannot_look, hold};
use serde_json::Value;

/// A leak: who plants it, and what must be told of it.
struct Planted {
    process: Leaky,
    kind: &'static str,
    protocol: &'static str,
    local: &'static str,
    remote: &'static str,
    interface: Option<&'static str>,
    owner: Option<&'static str>,
}

impl Planted {
    fn flow(process: Leaky, protocol: &'static str, remote: &'static str) -> Planted {
        let (kind, interface) = ("flow", Some("out0"));
        Planted { process, kind, protocol, local: "", remote, interface, owner: None }
    }

    fn listener(process: Leaky, protocol: &'static str, local: &'static str) -> Planted {
        Planted { process, kind: "listener", protocol, local, remote: "", interface: None, owner: None }
    }

    fn through(self, interface: &'static str) -> Planted {
        Planted { interface: Some(interface), ..self }
    }

    fn of(self, owner: &'static str) -> Planted {
        Planted { owner: Some(owner), ..self }
    }

    fn is(&self, told: &Value) -> bool {
        let end = |side: &str| {
            let address = told[format!("{side}_address")].as_str().unwrap_or_default();
            format!("{address} {}", told[format!("{side}_port")])
        };
        told["kind"] == self.kind
            && told["protocol"] == self.protocol
            && (self.local.is_empty() || end("local") == self.local)
            && (self.remote.is_empty() || end("remote") == self.remote)
    }
}

/// The leaks and the summary that the tool has told.
fn told(stdout: &str) -> (Vec<Value>, Value) {
    let mut all: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let summary = all.pop().unwrap()["summary"].take();
    (all, summary)
}

const OF_CONTAINER: &str = "docker-0123456789abcccccccccccccccccccccccccccccccccccccccccccccccccccc.scope";

#[test]
fn every_planted_leak_is_found_with_its_process() {
    if cannot_look() {
        return;
    }
    let ground = Ground::new();
    let any4 = ground.plant("any4", || hold(TcpListener::bind("0.0.0.0:8001")));
    let any6 = ground.plant("any6", || hold(TcpListener::bind("[::]:8002")));
    let any_udp = ground.plant("anyudp", || hold(UdpSocket::bind("0.0.0.0:8003")));
    let wrong = ground.plant("wrongaddr", || hold(TcpListener::bind("192.0.2.1:8004")));
    let open = ground.plant("isopen", || hold(TcpStream::connect("192.0.2.2:7000")));
    let watching = ground.watch(&[]);
    // From here on the programs watch.
    ground.outside.connect("192.0.2.1:8004");
    // The kernel refuses this one, and its refusal is nobody's flow.
    ground.outside.is_refused("192.0.2.1:9");
    let planted = [
        Planted::listener(any4, "tcp", "0.0.0.0 8001"),
        Planted::listener(any6, "tcp", ":: 8002"),
        Planted::listener(any_udp, "udp", "0.0.0.0 8003"),
        Planted::listener(wrong.clone(), "tcp", "192.0.2.1 8004").through("out0"),
        Planted { local: "192.0.2.1 8004", ..Planted::flow(wrong, "tcp", "") },
        Planted::flow(open, "tcp", "192.0.2.2 7000"),
        Planted::flow(
            ground.plant("tcp4", || hold(TcpStream::connect("192.0.2.2:7001"))),
            "tcp",
            "192.0.2.2 7001",
        ),
        Planted::flow(
            ground.plant("tcp6", || hold(TcpStream::connect("[2001:db8::2]:7002"))),
            "tcp",
            "2001:db8::2 7002",
        ),
        Planted::flow(
            ground.plant("udp4", || send_connected("0.0.0.0:0", "192.0.2.2:7003")),
            "udp",
            "192.0.2.2 7003",
        ),
        Planted::flow(
            ground.plant("udp4un", || send("0.0.0.0:0", "192.0.2.2:7004")),
            "udp",
            "192.0.2.2 7004",
        ),
        Planted::flow(
            ground.plant("udp6", || send_connected("[::]:0", "[2001:db8::2]:7005")),
            "udp",
            "2001:db8::2 7005",
        ),
        Planted::flow(
            ground.plant("udp6un", || send("[::]:0", "[2001:db8::2]:7006")),
            "udp",
            "2001:db8::2 7006",
        ),
        Planted::flow(ground.plant("resolver", || send("0.0.0.0:0", "192.0.2.2:53")), "udp", "192.0.2.2 53"),
        Planted::flow(
            ground.plant_shortly("brief", || drop(TcpStream::connect("192.0.2.2:7007"))),
            "tcp",
            "192.0.2.2 7007",
        ),
        Planted::flow(
            ground.plant_in(OF_CONTAINER, "inside", || send("0.0.0.0:0", "192.0.2.2:7008")),
            "udp",
            "192.0.2.2 7008",
        )
        .of("0123456789ab"),
        // The tunnel's address does not make it go through the tunnel.
        Planted {
            local: "10.0.0.1 7009",
            ..Planted::flow(
                ground.plant("wayout", || send("10.0.0.1:7009", "192.0.2.2:7009")),
                "udp",
                "192.0.2.2 7009",
            )
        },
    ];
    let ran = watching.end();
    let (leaks, summary) = told(&ran.stdout);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    for leak in &planted {
        let found: Vec<&Value> = leaks.iter().filter(|told| leak.is(told)).collect();
        let name = &leak.process.name;
        assert_eq!(found.len(), 1, "{name}: {found:?} of {leaks:#?}");
        let told = found[0];
        assert_eq!((&told["comm"], &told["pid"]), (&(*name).into(), &leak.process.pid.into()), "{told}");
        assert_eq!(told["interface"].as_str(), leak.interface, "{name}: {told}");
        assert_eq!(told["owner"].as_str(), leak.owner, "{name}: {told}");
    }
    let ours = |told: &Value| planted.iter().any(|leak| told["pid"] == leak.process.pid);
    let others: Vec<&Value> = leaks.iter().filter(|told| !ours(told)).collect();
    assert!(others.is_empty(), "nobody planted {others:#?}");
    let count = |kind: &str| leaks.iter().filter(|told| told["kind"] == kind).count();
    assert_eq!(
        (&summary["listeners"], &summary["flows"]),
        (&count("listener").into(), &count("flow").into())
    );
}

#[test]
fn nothing_is_found_where_all_goes_through_the_tunnel_or_stays() {
    if cannot_look() {
        return;
    }
    let ground = Ground::new();
    let _listeners = [
        ground.plant("tunnel4", || hold(TcpListener::bind("10.0.0.1:8001"))),
        ground.plant("tunnel6", || hold(TcpListener::bind("[fd00::1]:8002"))),
        ground.plant("loopback4", || hold(TcpListener::bind("127.0.0.1:8003"))),
        ground.plant("loopback6", || hold(UdpSocket::bind("[::1]:8004"))),
        ground.plant("isopen", || hold(TcpStream::connect("10.0.0.2:7000"))),
    ];
    let watching = ground.watch(&[]);
    ground.outside.connect("10.0.0.1:8001");
    ground.outside.is_refused("192.0.2.1:9");
    let _flows = [
        ground.plant("tcp4", || hold(TcpStream::connect("10.0.0.2:7001"))),
        ground.plant("tcp6", || hold(TcpStream::connect("[fd00::2]:7002"))),
        ground.plant("udp4", || send("10.0.0.1:0", "10.0.0.2:53")),
        ground.plant("udp6", || send_connected("[fd00::1]:0", "[fd00::2]:53")),
        ground.plant("stays", || hold(TcpStream::connect("127.0.0.1:8003"))),
        ground.plant_shortly("brief", || drop(TcpStream::connect("10.0.0.2:7007"))),
    ];
    let ran = watching.end();
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{}", ran.stdout);
    let (leaks, summary) = told(&ran.stdout);
    assert!(leaks.is_empty(), "{leaks:#?}");
    assert_eq!(summary["tunnels"][0]["interface"], "wg0");
    assert_eq!(summary["tunnels"][0]["port"].as_u64(), ground.port().map(u64::from));
}

#[test]
fn a_tunnel_that_appears_later_is_one() {
    if cannot_look() || !kld_test_support::in_lab() {
        return;
    }
    let ground = Ground::new();
    let watching = ground.watch(&[]);
    ground.another_tunnel();
    let _flow = ground.plant("later", || send("10.9.0.1:0", "10.9.0.2:53"));
    let ran = watching.end();
    let (leaks, summary) = told(&ran.stdout);
    assert_eq!((ran.code, leaks.len()), (Some(0), 0), "{leaks:#?}");
    assert_eq!(summary["tunnels"].as_array().map(Vec::len), Some(2));
}

#[test]
fn what_is_allowed_is_no_leak_and_is_counted() {
    if cannot_look() {
        return;
    }
    let ground = Ground::new();
    let _served = ground.plant("served", || hold(TcpListener::bind("0.0.0.0:8022")));
    let allow = ["--allow", "tcp,port=8022", "--allow", "to=192.0.2.0/24,to-port=53"];
    let watching = ground.watch(&allow);
    ground.outside.connect("192.0.2.1:8022");
    let _asks = ground.plant("resolver", || send_connected("0.0.0.0:0", "192.0.2.2:53"));
    let ran = watching.end();
    assert_eq!(ran.code, Some(0), "{}", ran.stdout);
    let (_, summary) = told(&ran.stdout);
    let times: Vec<&Value> = summary["allowed"].as_array().unwrap().iter().map(|one| &one["times"]).collect();
    assert_eq!(times, [2, 1], "a listener and its flow; an answer: {summary}");
}

#[test]
fn listeners_alone_are_looked_at_once_and_told_in_columns() {
    if cannot_look() {
        return;
    }
    let ground = Ground::new();
    let any = ground.plant("any4", || hold(TcpListener::bind("0.0.0.0:8001")));
    let _flow = ground.plant("isopen", || hold(TcpStream::connect("192.0.2.2:7000")));
    let ran = ground.run(&["--listeners-only"]);
    let lines: Vec<Vec<&str>> = ran.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    let pid = any.pid.to_string();
    assert_eq!(
        lines,
        [
            vec!["KIND", "PROTO", "LOCAL", "REMOTE", "INTERFACE", "PID", "COMM", "OWNER"],
            vec!["listener", "tcp", "0.0.0.0:8001", "-", "*", &pid, "any4", "-"],
        ]
    );
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.stderr.starts_with("note: 1 listener and 0 flows outside the tunnel; not watched\n"),
        "{}",
        ran.stderr
    );
    assert!(!ran.stderr.contains("error"), "{}", ran.stderr);
}

#[test]
fn what_cannot_be_meant_is_refused() {
    if cannot_look() {
        return;
    }
    let ground = Ground::new();
    let ran = ground.run(&["--tunnel", "wg9"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(2), "error: there is no interface 'wg9'\n"));
    let ran = ground.run(&["--allow", "tcp,prot=22"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("'prot' is none of interface, from, port, to and to-port"), "{}", ran.stderr);
}

fn send(from: &str, to: &str) {
    let socket = UdpSocket::bind(from).unwrap();
    let _ = socket.send_to(b"leak", to);
    hold(Ok(socket));
}

fn send_connected(from: &str, to: &str) {
    let socket = UdpSocket::bind(from).unwrap();
    socket.connect(to).unwrap();
    let _ = socket.send(b"leak");
    hold(Ok(socket));
}
