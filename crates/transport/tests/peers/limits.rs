//! Bounds of a transport that nothing hostile is needed to meet.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use oarlock_transport::{Envelope, Identity, Lane, TcpOptions, TcpTransport, Transport};
use parking_lot::Mutex;

use crate::common::raw::{Greeting, Key, PREFACE, Raw, WELCOME, frame};
use crate::common::{Recorder, envelope, eventually};

const CLUSTER: u64 = 0xc1;

fn started(transport: TcpTransport) -> (TcpTransport, Arc<Recorder>) {
    let handler = Recorder::new();
    transport.start(handler.clone()).expect("started");
    (transport, handler)
}

fn member(id: u64, options: TcpOptions) -> (TcpTransport, Arc<Recorder>) {
    let transport = TcpTransport::bind(Identity::new(id, CLUSTER), "127.0.0.1:0", options);
    started(transport.expect("a free port"))
}

fn url(transport: &TcpTransport) -> String {
    format!("http://{}", transport.local_addrs()[0])
}

/// What the receiver says it reads at most counts, not what we would read: it would end the connection otherwise, and
/// the same message would come again.
#[test]
fn the_receivers_limits_hold_for_the_sender() {
    let (one, first) = member(1, TcpOptions::new());
    let (two, second) = member(2, TcpOptions::new().max_frame(64 << 10).max_payloads(3));
    one.add_peer(2, &[url(&two)]).expect("a good peer");
    let sized = |len: usize| envelope(2, Lane::Append, vec![1; len]);
    let parts = |count| Envelope { payloads: vec![Bytes::new(); count], ..sized(1) };
    one.send(vec![sized(64 << 10), sized((64 << 10) + 1), parts(3), parts(4), sized(2)]);
    second.wait_received(3);
    first.wait_unreachable(2);
    let lens: Vec<usize> = second.heads(Lane::Append).iter().map(Bytes::len).collect();
    assert_eq!(lens, [64 << 10, 1, 2]);
    let stats = one.stats().peers[&2].clone();
    assert_eq!((stats.dropped, stats.connects, stats.sent_frames), (2, 2, 3), "{stats:?}");
    assert!(two.stats().faults.is_empty());
}

/// Names are resolved at each attempt, and both families are dialled; the second half needs a machine with IPv6.
#[test]
fn names_and_ipv6_addresses_are_listened_on_and_dialled() {
    for host in ["localhost", "[::1]"] {
        let family = if host == "localhost" { "127.0.0.1:0" } else { "[::1]:0" };
        let Ok(probe) = TcpListener::bind(family) else { continue };
        let port = probe.local_addr().expect("bound").port();
        drop(probe);
        let urls = [format!("http://{host}:{port}")];
        let bound = TcpTransport::bind_urls(Identity::new(2, CLUSTER), &urls, TcpOptions::new());
        let (_two, inbox) = started(bound.expect("the port was free just now"));
        let (one, _) = member(1, TcpOptions::new());
        one.add_peer(2, &urls).expect("a good url");
        one.send(vec![envelope(2, Lane::Message, host)]);
        inbox.wait_received(1);
        assert_eq!(inbox.heads(Lane::Message), [host]);
    }
}

/// Somebody who welcomes us and hangs up, always anew: a proxy without a backend, or a member under the wrong limits.
#[test]
fn connections_that_end_at_once_are_not_made_in_a_storm() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address: SocketAddr = listener.local_addr().expect("bound");
    let count = Arc::new(AtomicU32::new(0));
    let counting = Arc::clone(&count);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            counting.fetch_add(1, Ordering::Relaxed);
            let mut raw = Raw { stream, send: Key::GREETING, receive: Key::GREETING };
            let _ = raw.read_answer();
            let greeting =
                Greeting { purpose: 1, cluster: CLUSTER, from: 2, to: 1, ..Greeting::default() };
            let head = prost::Message::encode_to_vec(&greeting);
            let welcome = frame(&mut Key::GREETING.clone(), WELCOME, &head, &[]);
            let _ = raw.stream.write_all(&[&PREFACE[..], &welcome].concat());
        }
    });
    let pauses = (Duration::from_millis(20), Duration::from_millis(500));
    let (one, handler) = member(1, TcpOptions::new().backoff(pauses.0, pauses.1));
    one.add_peer(2, &[format!("http://{address}")]).expect("a good url");
    handler.wait_unreachable(2);
    // Time itself is what is looked at: two seconds of attempts, each pause at least half of what it doubles to.
    std::thread::sleep(Duration::from_secs(2));
    let made = count.load(Ordering::Relaxed);
    assert!((4..=28).contains(&made), "{made} connections in two seconds");
    one.stop();
}

/// A handler that never returns is its owner's bug; `stop` names it and does not share its fate.
#[test]
fn stop_does_not_wait_for_a_handler_that_does_not_return() {
    let (one, _) = member(1, TcpOptions::new());
    let (two, inbox) = member(2, TcpOptions::new());
    let gate = Arc::new(Mutex::new(()));
    let held = gate.lock();
    let (inner, entered) = (Arc::clone(&gate), Arc::new(AtomicU32::new(0)));
    let entering = Arc::clone(&entered);
    *inbox.receive.lock() = Box::new(move |_| {
        entering.fetch_add(1, Ordering::SeqCst);
        drop(inner.lock());
        Ok(())
    });
    one.add_peer(2, &[url(&two)]).expect("a good peer");
    one.send(vec![envelope(2, Lane::Message, "stuck")]);
    eventually("the handler's turn", || entered.load(Ordering::SeqCst) == 1);
    let start = Instant::now();
    two.stop();
    let took = start.elapsed();
    assert!(took < Duration::from_millis(2500), "{took:?}");
    drop(held);
}
