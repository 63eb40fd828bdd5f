//! What arrives need not come from a peer of good will: typed refusals, counters, no panic, bounded memory.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use oarlock_transport::{Identity, Lane, TcpOptions, TcpTransport, Transport};

use crate::common::raw::{
    ENVELOPE, Greeting, HELLO, Key, PING, PREFACE, Raw, RefusalRecord, SNAPSHOT_CHUNK,
    SNAPSHOT_END, SNAPSHOT_START, WELCOME, frame,
};
use crate::common::{Event, Recorder, eventually};

const CLUSTER: u64 = 0xc1;

fn victim(options: TcpOptions) -> (TcpTransport, Arc<Recorder>, SocketAddr) {
    let transport =
        TcpTransport::bind(Identity::new(1, CLUSTER), "127.0.0.1:0", options).expect("a free port");
    let handler = Recorder::new();
    transport.start(handler.clone()).expect("started");
    let address = transport.local_addrs()[0];
    (transport, handler, address)
}

/// Member 2's hello, for a lane (1, 2) or a snapshot (3).
fn hello(purpose: u32) -> Greeting {
    Greeting { purpose, cluster: CLUSTER, from: 2, to: 1, nonce: 77, ..Greeting::default() }
}

fn refusal(code: u32, a: u64, b: u64) -> RefusalRecord {
    RefusalRecord { code, a, b, reason: String::new() }
}

fn counted(transport: &TcpTransport, label: &'static str, count: u64) {
    eventually(label, || transport.stats().faults.get(label) == Some(&count));
}

#[test]
fn hellos_are_judged_and_refused_by_type() {
    let (one, handler, address) = victim(TcpOptions::new());
    for (greeting, expected) in [
        (Greeting { cluster: 5, ..hello(1) }, refusal(1, CLUSTER, 5)),
        (Greeting { to: 9, ..hello(1) }, refusal(2, 9, 1)),
    ] {
        assert_eq!(Raw::greet(address, &greeting).refusal(), expected);
    }
    for (greeting, code) in [
        (Greeting { from: 0, ..hello(1) }, 6),
        (Greeting { from: 1, ..hello(1) }, 6),
        (hello(0), 7),
        (hello(9), 7),
        (Greeting { hello: vec![0; (4 << 10) + 1], ..hello(1) }, 7),
        (Greeting { urls: vec!["http://a:1".into(); 17], ..hello(1) }, 7),
        (Greeting { purpose: 4, query: "weather".into(), ..Greeting::default() }, 10),
    ] {
        assert_eq!(Raw::greet(address, &greeting).refusal().code, code, "{greeting:?}");
    }
    let largest =
        Greeting { hello: vec![0; 4 << 10], urls: vec!["http://a:1".into(); 16], ..hello(1) };
    let mut raw = Raw::greet(address, &largest);
    assert_eq!(raw.read_answer().expect("welcome").0, WELCOME);
    let events = handler.events();
    assert_eq!(
        events.iter().filter(|event| matches!(event, Event::Admitted(_))).count(),
        1,
        "{events:?}"
    );
    let refused = one.stats().refused;
    assert_eq!((refused["wrong_cluster"], refused["wrong_member"], refused["rejected"]), (1, 1, 2));
    assert_eq!((refused["protocol"], refused["no_answer"]), (4, 1));
}

#[test]
fn other_versions_are_refused_with_both_versions() {
    let (one, _, address) = victim(TcpOptions::new());
    let mut raw = Raw::connect(address);
    raw.write(b"OARLOCK\x07 whatever version 7 says next");
    assert_eq!(raw.refusal(), refusal(5, 1, 7));
    assert_eq!(one.stats().refused["incompatible"], 1);
}

#[test]
fn strangers_are_counted_and_http_gets_a_sentence() {
    let (one, _, address) = victim(TcpOptions::new());
    let mut raw = Raw::connect(address);
    raw.write(b"GET /members HTTP/1.1\r\nhost: x\r\n\r\n");
    let mut answer = String::new();
    raw.stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.ends_with("not HTTP\n"), "{answer}");
    counted(&one, "http", 1);
    let mut raw = Raw::connect(address);
    raw.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
    raw.assert_ended();
    counted(&one, "tls", 1);
    let mut raw = Raw::connect(address);
    raw.write(b"EHLO example.org\r\n");
    raw.assert_ended();
    counted(&one, "garbage", 1);
    Raw::connect(address).assert_ended(); // a port scan is nobody's fault
    let mut raw = Raw::connect(address);
    raw.write(b"OAR");
    raw.stream.shutdown(std::net::Shutdown::Write).expect("open");
    assert_eq!(raw.refusal().code, 7);
    counted(&one, "truncated", 1);
}

/// One byte now and then does not hold a connection for longer than a handshake may take.
#[test]
fn slow_handshakes_time_out() {
    let (one, _, address) = victim(TcpOptions::new().handshake_timeout(Duration::from_millis(300)));
    let start = Instant::now();
    let mut raw = Raw::connect(address);
    let dripped = PREFACE.iter().chain(&[0; 1000]).take_while(|byte| {
        std::thread::sleep(Duration::from_millis(20));
        raw.stream.write_all(&[**byte]).is_ok()
    });
    assert!(dripped.count() < 500, "still listening after ten seconds");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    counted(&one, "timeout", 1);
    eventually("the place is free again", || one.stats().half_open == 0);
}

#[test]
fn half_open_connections_are_few() {
    let (one, _, address) = victim(TcpOptions::new().max_half_open(3));
    let held: Vec<Raw> = (0..3).map(|_| Raw::connect(address)).collect();
    eventually("three are held", || one.stats().half_open == 3);
    let mut fourth = Raw::connect(address);
    let (kind, head) = fourth.read_answer().expect("busy");
    assert_eq!((kind, prost::Message::decode(&head[..]).ok()), (3, Some(refusal(8, 0, 0))));
    assert_eq!(one.stats().refused["busy"], 1);
    drop(held);
    eventually("they are given back", || one.stats().half_open == 0);
    Raw::admitted(address, &hello(1));
}

/// Each of these is the fault of one frame on an admitted connection.
#[test]
fn broken_frames_are_refused_by_type() {
    let (one, handler, address) = victim(TcpOptions::new().max_frame(1 << 16).max_payloads(4));
    let mut count = 0;
    let mut broken = |label: &'static str, faults: u64, write: &dyn Fn(&mut Raw)| {
        let mut raw = Raw::admitted(address, &hello(1));
        raw.send(ENVELOPE, b"good", &[b"payload"]);
        write(&mut raw);
        let refusal = raw.refusal();
        assert_eq!(refusal.code, 7, "{label}: {refusal:?}");
        counted(&one, label, faults);
        count += 1;
    };
    broken("oversize", 1, &|raw| {
        // Nothing follows such a header: whoever believed it would wait, or hold 4 GiB.
        let mut header = frame(&mut raw.send, ENVELOPE, b"", &[]);
        header[4..8].copy_from_slice(&u32::MAX.to_be_bytes());
        raw.write(&header);
    });
    broken("oversize", 2, &|raw| raw.send(ENVELOPE, &[0; (1 << 16) + 1], &[]));
    broken("oversize", 3, &|raw| raw.send(ENVELOPE, b"", &[&b""[..]; 5]));
    broken("checksum", 1, &|raw| {
        let mut bytes = frame(&mut raw.send, ENVELOPE, b"head", &[b"payload"]);
        bytes[30] ^= 1;
        raw.write(&bytes);
    });
    broken("checksum", 2, &|raw| {
        // A frame that comes twice, or from another connection.
        let bytes = frame(&mut raw.send, ENVELOPE, b"head", &[]);
        raw.write(&[&bytes[..], &bytes].concat());
    });
    broken("malformed", 1, &|raw| raw.send(99, b"", &[]));
    broken("malformed", 2, &|raw| raw.send(HELLO, b"", &[]));
    broken("malformed", 3, &|raw| raw.send(SNAPSHOT_CHUNK, b"", &[b"x"]));
    broken("truncated", 1, &|raw| {
        let bytes = frame(&mut raw.send, ENVELOPE, b"head", &[b"payload"]);
        raw.write(&bytes[..25]);
        raw.stream.shutdown(std::net::Shutdown::Write).expect("open");
    });
    // One at the limit is no fault; a ping is nothing to hand over.
    let mut raw = Raw::admitted(address, &hello(1));
    raw.send(PING, b"", &[]);
    raw.send(ENVELOPE, &[1; 1 << 16], &[]);
    // The good ones of each connection, the first of the pair, and the last.
    handler.wait_received(count + 2);
    assert!(handler.heads(Lane::Message).iter().all(|head| [4, 1 << 16].contains(&head.len())));
}

/// Bytes at random, behind a good handshake and instead of one: the transport lives on.
#[test]
fn noise_does_no_harm() {
    let seed = fastrand::u64(..);
    let mut rng = fastrand::Rng::with_seed(seed);
    let (one, handler, address) = victim(TcpOptions::new());
    for round in 0..60 {
        let noise: Vec<u8> = (0..rng.usize(1..3000)).map(|_| rng.u8(..)).collect();
        let mut raw = match round % 3 {
            0 => Raw::connect(address),
            1 => Raw::admitted(address, &hello(1 + round % 2)),
            _ => {
                let mut raw = Raw::connect(address);
                raw.write(&PREFACE);
                raw
            }
        };
        let _ = raw.stream.write_all(&noise);
        let _ = raw.stream.shutdown(std::net::Shutdown::Write);
        let _ = raw.stream.read_to_end(&mut Vec::new());
    }
    let mut raw = Raw::admitted(address, &hello(1));
    raw.send(ENVELOPE, b"still here", &[]);
    handler
        .wait("seed", |events| events.iter().any(|event| matches!(event, Event::Received { .. })));
    assert_eq!(handler.heads(Lane::Message), ["still here"], "seed {seed}");
    eventually("the connections are gone", || one.stats().half_open == 0);
}

#[test]
fn a_newer_connection_displaces_the_older_one() {
    let (_one, handler, address) = victim(TcpOptions::new());
    let mut old = Raw::admitted(address, &hello(1));
    old.send(ENVELOPE, b"old", &[]);
    handler.wait_received(1);
    let mut other_lane = Raw::admitted(address, &hello(2));
    let mut new = Raw::admitted(address, &Greeting { nonce: 78, ..hello(1) });
    old.assert_ended();
    new.send(ENVELOPE, b"new", &[]);
    handler.wait_received(2);
    assert_eq!(handler.heads(Lane::Message), ["old", "new"]);
    other_lane.send(ENVELOPE, b"append", &[]);
    handler.wait_received(3);
}

#[test]
fn a_peer_that_falls_silent_is_let_go() {
    let (_one, _, address) = victim(TcpOptions::new().idle_timeout(Duration::from_millis(100)));
    let mut raw = Raw::admitted(address, &hello(1));
    let start = Instant::now();
    let mut rest = Vec::new();
    let _ = raw.stream.read_to_end(&mut rest);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn snapshots_that_lie_are_not_accepted() {
    let (one, handler, address) = victim(TcpOptions::new());
    let lying = |write: &dyn Fn(&mut Raw)| {
        let mut raw = Raw::admitted(address, &hello(3));
        write(&mut raw);
        assert_eq!(raw.refusal().code, 7);
    };
    let start = |raw: &mut Raw, len: u64| raw.send(SNAPSHOT_START, b"meta", &[&len.to_be_bytes()]);
    lying(&|raw| raw.send(SNAPSHOT_CHUNK, b"", &[b"no start"]));
    lying(&|raw| raw.send(SNAPSHOT_START, b"meta", &[b"no length"]));
    lying(&|raw| {
        start(raw, 10);
        raw.send(SNAPSHOT_CHUNK, b"", &[b"five."]);
        raw.send(SNAPSHOT_END, b"", &[]);
    });
    lying(&|raw| {
        start(raw, 3);
        raw.send(SNAPSHOT_CHUNK, b"", &[b"five."]);
    });
    lying(&|raw| {
        start(raw, 5);
        raw.send(SNAPSHOT_CHUNK, b"", &[b""]);
    });
    lying(&|raw| {
        start(raw, 5);
        let mut chunk = frame(&mut raw.send, SNAPSHOT_CHUNK, b"", &[b"five."]);
        *chunk.last_mut().expect("bytes") ^= 1;
        raw.write(&chunk);
    });
    // One whose sender goes away has nobody left to be told.
    let mut raw = Raw::admitted(address, &hello(3));
    start(&mut raw, u64::MAX);
    raw.send(SNAPSHOT_CHUNK, b"", &[&[7; 1000]]);
    drop(raw);
    handler.wait("all are broken", |events| {
        events.iter().filter(|event| matches!(event, Event::BrokenSnapshot { .. })).count() == 5
    });
    assert!(!handler.events().iter().any(|event| matches!(event, Event::Snapshot { .. })));
    eventually("counting", || one.stats().peers[&2].snapshots_refused == 5);

    let mut raw = Raw::admitted(address, &hello(3));
    start(&mut raw, 5);
    raw.send(SNAPSHOT_CHUNK, b"", &[b"five."]);
    raw.send(SNAPSHOT_END, b"", &[]);
    assert_eq!(raw.read().expect("a verdict").0, 10, "accepted");
    let whole =
        Event::Snapshot { from: 2, head: Bytes::from_static(b"meta"), content: b"five.".to_vec() };
    assert!(handler.events().contains(&whole));
}

#[test]
fn the_first_frame_must_be_a_hello() {
    let (one, _, address) = victim(TcpOptions::new());
    let mut raw = Raw::connect(address);
    raw.write(&PREFACE);
    raw.write(&frame(&mut Key::GREETING.clone(), ENVELOPE, b"hi", &[]));
    assert_eq!(raw.refusal().code, 7);
    counted(&one, "malformed", 1);
    let mut raw = Raw::connect(address);
    raw.write(&PREFACE);
    raw.write(&frame(&mut Key::GREETING.clone(), HELLO, &[0; (64 << 10) + 1], &[]));
    assert_eq!(raw.refusal().code, 7);
    counted(&one, "oversize", 1);
}

/// Ids are claims, and there are as many as anybody likes; threads and memory are not.
#[test]
fn admitted_connections_are_bounded_however_many_ids_say_hello() {
    let (one, handler, address) = victim(TcpOptions::new().max_admitted(3));
    let from = |id| Greeting { from: id, ..hello(1) };
    let held: Vec<Raw> = (2..5).map(|id| Raw::admitted(address, &from(id))).collect();
    assert_eq!(one.stats().admitted, 3);
    assert_eq!(Raw::greet(address, &from(9)).refusal(), refusal(8, 0, 0));
    // One that takes its own place again needs no other.
    let mut again = Raw::admitted(address, &Greeting { nonce: 78, ..from(3) });
    again.send(ENVELOPE, b"again", &[]);
    handler.wait_received(1);
    drop((held, again));
    eventually("they are given back", || one.stats().admitted == 0);
    Raw::admitted(address, &from(9));
}

/// Nor is more than so much remembered of those who came and went.
#[test]
fn few_of_many_ids_that_say_hello_are_remembered() {
    let (one, _, address) = victim(TcpOptions::new());
    let from = |id| Greeting { from: id, ..hello(1) };
    for id in 1000..2500 {
        drop(Raw::admitted(address, &from(id)));
    }
    let known = one.stats().peers.len();
    assert!(known <= 1024, "{known} peers are counted");
}

/// What comes back on a lane is a sign of life or a refusal. Anything else is a fault, and no sign of life.
#[test]
fn an_acceptor_that_says_what_it_may_not_is_left() {
    let (one, handler, _) = victim(TcpOptions::new());
    let acceptor = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", acceptor.local_addr().expect("bound"));
    one.add_peer(2, &[url]).expect("a good url");
    let (stream, _) = acceptor.accept().expect("a lane");
    let mut raw = Raw { stream, send: Key::GREETING, receive: Key::GREETING };
    let (_, head) = raw.read_answer().expect("a hello");
    let theirs: Greeting = prost::Message::decode(&head[..]).expect("a greeting");
    let greeting = Greeting { from: 2, to: 1, max_frame: 1 << 20, ..hello(1) };
    let mut key = Key::GREETING;
    let welcome = frame(&mut key, WELCOME, &prost::Message::encode_to_vec(&greeting), &[]);
    raw.write(&[&PREFACE[..], &welcome].concat());
    raw.send = Key::of(2, theirs.nonce, greeting.nonce);
    raw.send(ENVELOPE, b"who asked you?", &[]);
    counted(&one, "malformed", 1);
    handler.wait_unreachable(2);
    assert!(handler.heads(Lane::Message).is_empty());
}
