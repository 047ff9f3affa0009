use super::*;

fn interface(name: &str, kind: &str, address: &str) -> Interface {
    let (kind, addresses) = (kind.to_string(), vec![address.parse().unwrap()]);
    Interface { index: 1, name: name.into(), kind, loopback: name == "lo", addresses }
}

#[test]
fn metrics_are_told_on_the_loopback_and_inside_tunnels_and_nowhere_else() {
    let all = [interface("eth0", "", "192.0.2.5"), interface("wg0", "wireguard", "10.0.0.1")];
    for address in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "10.0.0.1"] {
        assert!(permit(address.parse().unwrap(), &all).is_ok(), "{address}");
    }
    for address in ["0.0.0.0", "::", "192.0.2.5", "10.0.0.2", "::ffff:192.0.2.5"] {
        let error = permit(address.parse().unwrap(), &all).unwrap_err();
        assert_eq!(
            (error.exit() as u8, error.hint()),
            (2, Some("listen on 127.0.0.1, [::1] or 10.0.0.1 (wg0)"))
        );
    }
    let error = permit("0.0.0.0".parse().unwrap(), &all[..1]).unwrap_err();
    let said = "no metrics are told on 0.0.0.0: it is of neither the loopback nor a WireGuard interface";
    assert_eq!(error.to_string(), said);
    assert!(error.hint().unwrap().contains("there is no WireGuard interface"));
}

fn exposed(metrics: &str) -> SocketAddr {
    let (exposed, address) = Exposed::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    exposed.tell(metrics.into());
    address
}

#[test]
fn a_port_that_another_has_is_told_with_what_helps() {
    let error = Exposed::listen(exposed("")).unwrap_err();
    assert!(error.to_string().starts_with("cannot listen on 127.0.0.1:"), "{error}");
    assert!(error.hint().unwrap().starts_with("another program listens there"), "{:?}", error.hint());
}

fn ask(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request).unwrap();
    io::read_to_string(stream).unwrap()
}

const ASKED: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[test]
fn what_is_told_last_is_what_is_answered() {
    let (exposed, address) = Exposed::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    for metrics in ["kld_a_total 1\n", "kld_a_total 2\n"] {
        exposed.tell(metrics.into());
        let answer = ask(address, ASKED);
        assert!(
            answer.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4;"),
            "{answer}"
        );
        assert!(answer.ends_with(&format!("\r\n\r\n{metrics}")), "{answer}");
    }
}

#[test]
fn a_long_answer_arrives_whole_and_a_request_may_come_in_pieces() {
    let long = "kld_a_total 1\n".repeat(200_000);
    let address = exposed(&long);
    let mut stream = TcpStream::connect(address).unwrap();
    for piece in ASKED.chunks(7) {
        stream.write_all(piece).unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
    let answer = io::read_to_string(stream).unwrap();
    assert!(answer.ends_with(&format!("\r\n\r\n{long}")), "{} bytes", answer.len());
}

#[test]
fn what_is_not_served_is_refused_and_the_next_is_served() {
    let address = exposed("kld_a_total 1\n");
    let long = [b"GET /".to_vec(), vec![b'a'; 3 * http::LONGEST]].concat();
    for (request, wanted) in [
        (&b"GET /other HTTP/1.1\r\nHost: a\r\n\r\n"[..], "404"),
        (b"DELETE /metrics HTTP/1.1\r\nHost: a\r\n\r\n", "405"),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", "400"),
        (&long, "431"),
    ] {
        let answer = ask(address, request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {wanted} ")), "{answer}");
    }
    assert!(ask(address, ASKED).ends_with("kld_a_total 1\n"));
}

#[test]
fn those_who_say_nothing_keep_nobody_out_for_long() {
    let address = exposed("kld_a_total 1\n");
    let silent: Vec<TcpStream> = (0..MOST + 2).map(|_| TcpStream::connect(address).unwrap()).collect();
    let began = Instant::now();
    assert!(ask(address, ASKED).ends_with("kld_a_total 1\n"));
    assert!(began.elapsed() < 4 * PATIENCE, "{:?}", began.elapsed());
    let first = io::read_to_string(&silent[0]).unwrap();
    assert!(first.starts_with("HTTP/1.1 408 "), "{first}");
}
