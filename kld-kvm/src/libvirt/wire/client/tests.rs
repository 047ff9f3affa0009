//! A daemon of the test's own, which answers as a test wants it to.

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::thread;

use proptest::prelude::*;

use super::*;

/// The client of a daemon that runs `serve` on its end of the connection.
fn client(serve: impl FnOnce(UnixStream) + Send + 'static) -> Client {
    let (ours, theirs) = UnixStream::pair().unwrap();
    thread::spawn(move || serve(theirs));
    Client { stream: ours, serial: 0, owed: 0, deadline: Instant::now() + Duration::from_secs(5) }
}

/// A message as it comes: its header and its payload.
fn receive(stream: &mut UnixStream) -> (Header, Vec<u8>) {
    let mut length = [0; LENGTH];
    stream.read_exact(&mut length).unwrap();
    let mut message = vec![0; u32::from_be_bytes(length) as usize - LENGTH];
    stream.read_exact(&mut message).unwrap();
    (Header::decode(&mut Decoder::new(&message)).unwrap(), message[HEADER..].to_vec())
}

fn reply(to: Header) -> Header {
    Header { kind: TYPE_REPLY, ..to }
}

fn send(stream: &mut UnixStream, header: Header, payload: &[u8]) {
    stream.write_all(&header.message(payload).unwrap()).unwrap();
}

fn call(procedure: i32, arguments: &[u8]) -> Call {
    Call { procedure, arguments: arguments.to_vec() }
}

/// What becomes of a call that the daemon answers with `answer`.
fn asked(answer: impl FnOnce(&mut UnixStream, Header) + Send + 'static) -> Result<Vec<Answer>, Trouble> {
    let mut client = client(|mut stream| {
        let (header, _) = receive(&mut stream);
        answer(&mut stream, header);
    });
    client.exchange(&[call(7, b"")])
}

fn lost(cause: &str) -> Result<Vec<Answer>, Trouble> {
    Err(Trouble::Lost(cause.to_string()))
}

#[test]
fn a_call_goes_out_as_libvirt_expects_it() {
    let mut client = client(|mut stream| {
        let mut bytes = [0; 32];
        stream.read_exact(&mut bytes).unwrap();
        let expected = b"\0\0\0\x20\x20\0\x80\x86\0\0\0\x01\0\0\0\x17\0\0\0\0\0\0\0\x01\0\0\0\0args";
        assert_eq!(&bytes, expected);
        let answer = b"\0\0\0\x20\x20\0\x80\x86\0\0\0\x01\0\0\0\x17\0\0\0\x01\0\0\0\x01\0\0\0\0gave";
        stream.write_all(answer).unwrap();
    });
    assert_eq!(client.exchange(&[call(23, b"args")]), Ok(vec![Ok(b"gave".to_vec())]));
}

#[test]
fn answers_that_come_in_another_order_are_given_to_their_calls() {
    let mut client = client(|mut stream| {
        let mut calls: Vec<_> = (0..3).map(|_| receive(&mut stream)).collect();
        calls.rotate_left(1);
        for (header, payload) in calls {
            send(&mut stream, reply(header), &payload);
        }
    });
    let answers = client.exchange(&[call(1, b"aaaa"), call(2, b"bbbb"), call(1, b"cccc")]).unwrap();
    assert_eq!(answers, [Ok(b"aaaa".to_vec()), Ok(b"bbbb".to_vec()), Ok(b"cccc".to_vec())]);
}

#[test]
fn no_more_calls_are_under_way_than_libvirtd_works_on() {
    const CALLS: usize = 40;
    let mut client = client(|mut stream| {
        let mut waiting: Vec<_> = (0..WINDOW).map(|_| receive(&mut stream)).collect();
        stream.set_nonblocking(true).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        stream.set_nonblocking(false).unwrap();
        for answered in 0..CALLS {
            let (header, payload) = waiting.remove(0);
            send(&mut stream, reply(header), &payload);
            if answered + WINDOW < CALLS {
                waiting.push(receive(&mut stream));
            }
        }
    });
    let calls: Vec<_> = (0..CALLS).map(|n| call(9, &[n as u8; 4])).collect();
    let answers = client.exchange(&calls).unwrap();
    assert!(answers.iter().zip(&calls).all(|(answer, call)| answer.as_ref() == Ok(&call.arguments)));
    assert!(!client.owes());
}

#[test]
fn events_and_keepalive_messages_in_between_are_passed_over() {
    let answers = asked(|stream, header| {
        let event = Header { kind: TYPE_MESSAGE, serial: 0, procedure: 107, ..header };
        send(stream, event, b"something happened  ");
        send(stream, Header { program: 0x2000_8087, ..event }, b"");
        let ping = Header { program: KEEPALIVE_PROGRAM, procedure: PING, ..event };
        send(stream, ping, b"");
        let (pong, payload) = receive(stream);
        assert_eq!((pong.program, pong.procedure, pong.kind), (KEEPALIVE_PROGRAM, PONG, TYPE_MESSAGE));
        assert_eq!(payload, b"");
        send(stream, reply(header), b"done");
    });
    assert_eq!(answers, Ok(vec![Ok(b"done".to_vec())]));
}

#[test]
fn an_answer_that_no_call_asked_for_is_not_taken() {
    type Change = fn(Header) -> Header;
    let surprises: [(&str, Change); 6] = [
        ("it answered what it was not asked", |header| Header { serial: header.serial + 1, ..header }),
        ("it answered what it was not asked", |header| Header { serial: 0, ..header }),
        ("it answered another call", |header| Header { procedure: header.procedure + 1, ..header }),
        ("it speaks another version", |header| Header { version: 2, ..header }),
        ("its answer has a status of its own", |header| Header { status: 2, ..header }),
        ("it sent what is no answer", |header| Header { kind: 3, ..header }),
    ];
    for (cause, change) in surprises {
        let answers = asked(move |stream, header| send(stream, change(reply(header)), b""));
        assert_eq!(answers, lost(cause));
    }
}

#[test]
fn the_same_answer_twice_is_not_taken() {
    let mut client = client(|mut stream| {
        let (header, _) = receive(&mut stream);
        receive(&mut stream);
        send(&mut stream, reply(header), b"");
        send(&mut stream, reply(header), b"");
    });
    let answers = client.exchange(&[call(7, b""), call(7, b"")]);
    assert_eq!(answers, lost("it answered what it was not asked"));
}

#[test]
fn a_length_that_cannot_be_is_not_believed() {
    let with_length = |length: u32| {
        asked(move |stream, header| {
            let mut message = reply(header).message(b"").unwrap();
            message[..LENGTH].copy_from_slice(&length.to_be_bytes());
            stream.write_all(&message).unwrap();
        })
    };
    assert_eq!(with_length(u32::MAX), lost("its answer is too long"));
    assert_eq!(with_length((LENGTH + LONGEST + 1) as u32), lost("its answer is too long"));
    assert_eq!(with_length(27), lost("its answer makes no sense"));
    assert_eq!(with_length(0), lost("its answer makes no sense"));
    // The longest there may be, of which nothing comes.
    assert_eq!(with_length((LENGTH + LONGEST) as u32), lost("it closed the connection"));
}

#[test]
fn an_answer_that_ends_early_is_lost() {
    let cut = asked(|stream, header| {
        let message = reply(header).message(b"a longer answer ").unwrap();
        stream.write_all(&message[..message.len() - 3]).unwrap();
    });
    assert_eq!(cut, lost("it closed the connection"));
    // Unread data in the socket of one who goes turns the end into a reset.
    let gone = client(drop).exchange(&[call(7, b"")]).unwrap_err();
    assert!(matches!(gone, Trouble::Unsent | Trouble::Lost(_)), "{gone:?}");
}

#[test]
fn a_call_that_did_not_go_out_is_known_not_to_have_been_carried_out() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut client = Client { stream: ours, serial: 0, owed: 0, deadline };
    assert!(client.heard().is_err());
    assert_eq!(client.exchange(&[call(7, b"")]), Err(Trouble::Unsent));

    let too_long = vec![0; LONGEST];
    assert_eq!(client.exchange(&[Call { procedure: 7, arguments: too_long }]), Err(Trouble::Unsent));
}

#[test]
fn a_daemon_that_is_slow_is_waited_for_until_the_deadline_and_no_longer() {
    const LIMIT: Duration = Duration::from_millis(200);
    let mut client = client(|mut stream| {
        let (header, _) = receive(&mut stream);
        // A byte now and then does not make the time longer.
        for byte in reply(header).message(b"").unwrap() {
            thread::sleep(LIMIT / 8);
            if stream.write_all(&[byte]).is_err() {
                return;
            }
        }
    });
    client.set_deadline(Instant::now() + LIMIT);
    let begun = Instant::now();
    assert_eq!(client.exchange(&[call(7, b"")]), Err(Trouble::Silent));
    assert!(begun.elapsed() >= LIMIT && begun.elapsed() < LIMIT * 3, "{:?}", begun.elapsed());
    assert!(client.owes());
}

#[test]
fn a_daemon_that_takes_no_more_connections_is_given_up_in_time() {
    const LIMIT: Duration = Duration::from_millis(100);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let mut waiting = Vec::new();
    let begun = Instant::now();
    let refused = loop {
        match Client::connect(&path, Instant::now() + LIMIT) {
            Ok(client) => waiting.push(client),
            Err(trouble) => break trouble,
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "the daemon's queue has no end");
    };
    assert_eq!(refused, Trouble::Silent);
    assert_eq!(
        Client::connect(&folder.path().join("none"), Instant::now() + LIMIT).unwrap_err(),
        Trouble::Unsent
    );
}

#[test]
fn a_refusal_has_libvirts_code_and_message() {
    let error = |code, domain, message: &[u8]| {
        Encoder::default().word(code).word(domain).present(message).word(2).word(0).finish()
    };
    let missing = Refusal::decode(&error(sys::VIR_ERR_NO_DOMAIN, 10, b"Domain not found")).unwrap();
    assert_eq!(missing.code(), ErrorNumber::NoDomain);
    assert_eq!(missing.message(), "Domain not found");
    // What a daemon that is older than a call says.
    let old = error(sys::VIR_ERR_RPC, sys::VIR_FROM_RPC, b"unknown procedure: 350");
    assert_eq!(Refusal::decode(&old).unwrap().code(), ErrorNumber::NoSupport);
    let other = error(sys::VIR_ERR_RPC, sys::VIR_FROM_QEMU, b"unknown procedure: 350");
    assert_eq!(Refusal::decode(&other).unwrap().code(), ErrorNumber::Rpc);

    let answers = asked(|stream, header| {
        send(stream, Header { status: STATUS_ERROR, ..reply(header) }, b"\0\0\0\x2a");
    });
    assert_eq!(answers, lost("its answer makes no sense"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_that_a_daemon_sends_break_the_client(bytes: Vec<u8>, honest_length: bool) {
        let sent = bytes.clone();
        let result = asked(move |stream, header| {
            if honest_length {
                let length = (LENGTH + HEADER + sent.len()) as u32;
                let mut message = reply(header).message(&sent).unwrap();
                message[..LENGTH].copy_from_slice(&length.to_be_bytes());
                stream.write_all(&message).unwrap();
            } else {
                stream.write_all(&sent).unwrap();
            }
        });
        if honest_length {
            prop_assert_eq!(result, Ok(vec![Ok(bytes)]));
        } else {
            prop_assert!(result.is_err());
        }
    }

    #[test]
    fn no_refusal_breaks_the_client(bytes: Vec<u8>) {
        let _ = Refusal::decode(&bytes);
    }
}
