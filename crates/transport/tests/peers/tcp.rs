//! What TCP transports promise each other, over real loopback sockets.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::{BOUND, Event, Recorder, envelope, eventually, raw};
use bytes::Bytes;
use oarlock_transport::{
    Envelope, FrameFault, Identity, Lane, PeerError, QueryError, Refusal, Shed, TcpError,
    TcpOptions, TcpTransport, Transport, query, query_members,
};

const CLUSTER: u64 = 0xc1;

fn options() -> TcpOptions {
    TcpOptions::new().backoff(Duration::from_millis(10), Duration::from_millis(50))
}

fn member_at(id: u64, address: SocketAddr, options: TcpOptions) -> (TcpTransport, Arc<Recorder>) {
    let identity = Identity::new(id, CLUSTER).incarnation(9).urls(["http://me:1"]);
    let transport = TcpTransport::bind(identity, address, options).expect("a free port");
    let handler = Recorder::new();
    transport.start(handler.clone()).expect("started");
    (transport, handler)
}

fn member(id: u64, options: TcpOptions) -> (TcpTransport, Arc<Recorder>) {
    member_at(id, ([127, 0, 0, 1], 0).into(), options)
}

fn url(transport: &TcpTransport) -> String {
    format!("http://{}", transport.local_addrs()[0])
}

fn introduce(one: &TcpTransport, id: u64, two: &TcpTransport) {
    one.add_peer(id, &[url(two)]).expect("a good peer");
}

fn connected(one: &TcpTransport, id: u64) {
    eventually("connecting", || one.active_since(id).is_some());
}

#[test]
fn it_listens_where_peer_urls_say_or_names_the_one_that_cannot_be() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port();
    for (url, word) in [
        (format!("http://127.0.0.1:{port}"), "in use"),
        ("https://127.0.0.1:2380".to_owned(), "https"),
        ("127.0.0.1:2380".to_owned(), "no scheme"),
    ] {
        let identity = Identity::new(1, CLUSTER);
        match TcpTransport::bind_urls(identity, std::slice::from_ref(&url), options()) {
            Err(TcpError::Listen { address, source }) => {
                assert_eq!(address, url);
                assert!(source.to_string().contains(word), "{source}");
            }
            other => panic!("{url}: {:?}", other.map(|_| "listens")),
        }
    }
    // A port that was free may be taken by somebody else in between, but not twenty times.
    let listens = (0..20).find_map(|_| {
        let free = TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?;
        let urls = [format!("http://{free}")];
        let transport =
            TcpTransport::bind_urls(Identity::new(1, CLUSTER), &urls, options()).ok()?;
        Some((free, transport.local_addrs().to_vec()))
    });
    let (free, found) = listens.expect("a free port");
    assert_eq!(found, [free]);
}

#[test]
fn envelopes_arrive_whole_and_in_order_on_each_lane() {
    let (one, _) = member(1, options());
    let (two, inbox) = member(2, options());
    introduce(&one, 2, &two);
    let payload = |i: u32| {
        vec![Bytes::from(vec![i as u8; i as usize % 700]), Bytes::new(), Bytes::from_static(b"x")]
    };
    for i in 0..1000u32 {
        let head = i.to_be_bytes().to_vec();
        let lane = Lane::ALL[i as usize % 2];
        one.send(vec![Envelope { payloads: payload(i), ..envelope(2, lane, head) }]);
    }
    let events = inbox.wait_received(1000);
    let mut next = [0, 1];
    for event in events {
        let Event::Received { from: 1, lane, head, payloads } = event else { continue };
        let i = u32::from_be_bytes(head[..].try_into().expect("four bytes"));
        assert_eq!(i, next[lane as usize], "{lane:?}");
        assert_eq!(payloads, payload(i));
        next[lane as usize] += 2;
    }
    eventually("the sender counts", || one.stats().peers[&2].sent_frames == 1000);
    let (sent, received) = (one.stats().peers[&2].clone(), two.stats().peers[&1].clone());
    assert_eq!((sent.sent_bytes, sent.dropped), (received.received_bytes, 0));
    assert_eq!(received.received_frames, 1000);
}

#[test]
fn both_directions_have_connections_of_their_own() {
    let (one, first) = member(1, options());
    let (two, second) = member(2, options());
    introduce(&one, 2, &two);
    one.send(vec![envelope(2, Lane::Message, "ping")]);
    second.wait_received(1);
    let admitted = second
        .wait("admission", |events| events.iter().any(|event| matches!(event, Event::Admitted(_))));
    let Some(Event::Admitted(info)) = admitted.first() else { panic!("{admitted:?}") };
    assert_eq!((info.id, info.cluster, info.incarnation), (1, CLUSTER, 9));
    assert_eq!(
        (info.urls.as_slice(), &info.hello[..]),
        (&["http://me:1".to_owned()][..], &b"hello 2"[..])
    );
    assert_eq!(two.active_since(1), None, "who was dialled has not dialled");
    introduce(&two, 1, &one);
    two.send(vec![envelope(1, Lane::Message, "pong")]);
    first.wait_received(1);
    connected(&two, 1);
    let since = one.active_since(2).expect("active");
    one.send(vec![envelope(2, Lane::Message, "again")]);
    second.wait_received(2);
    assert_eq!(one.active_since(2), Some(since), "still the same connection");
}

/// A receiver that is busy with appends does not keep heartbeats waiting.
#[test]
fn a_big_append_does_not_delay_a_heartbeat() {
    let (one, _) = member(1, options());
    let (two, inbox) = member(2, options());
    let gate = Arc::new(parking_lot::Mutex::new(()));
    let held = gate.lock();
    let inner = Arc::clone(&gate);
    // `receive` of an append blocks while the test holds the gate: the lane's buffers fill up behind it.
    *inbox.receive.lock() = Box::new(|_| Ok(()));
    let blocking = Arc::new(Blocking { recorder: Arc::clone(&inbox), gate: inner });
    let three = TcpTransport::bind(Identity::new(3, CLUSTER), "127.0.0.1:0", options())
        .expect("a free port");
    three.start(blocking).expect("started");
    introduce(&one, 2, &two);
    introduce(&one, 3, &three);
    let bulk = Bytes::from(vec![7; 8 << 20]);
    for _ in 0..4 {
        one.send(vec![Envelope {
            payloads: vec![bulk.clone()],
            ..envelope(3, Lane::Append, "bulk")
        }]);
    }
    one.send(vec![envelope(3, Lane::Message, "heartbeat")]);
    inbox.wait_received(1);
    assert_eq!(inbox.heads(Lane::Message), ["heartbeat"]);
    assert!(inbox.heads(Lane::Append).is_empty());
    drop(held);
    inbox.wait_received(5);
}

struct Blocking {
    recorder: Arc<Recorder>,
    gate: Arc<parking_lot::Mutex<()>>,
}

impl oarlock_transport::Handler for Blocking {
    fn hello(&self, peer: u64) -> Bytes {
        self.recorder.hello(peer)
    }
    fn admit(&self, peer: &oarlock_transport::PeerInfo) -> Result<(), Refusal> {
        self.recorder.admit(peer)
    }
    fn receive(
        &self,
        from: u64,
        lane: Lane,
        head: Bytes,
        payloads: Vec<Bytes>,
    ) -> Result<(), FrameFault> {
        if lane == Lane::Append {
            drop(self.gate.lock());
        }
        self.recorder.receive(from, lane, head, payloads)
    }
    fn receive_snapshot(
        &self,
        from: u64,
        head: Bytes,
        len: u64,
        content: &mut dyn std::io::Read,
    ) -> Result<(), Refusal> {
        self.recorder.receive_snapshot(from, head, len, content)
    }
    fn unreachable(&self, peer: u64) {
        self.recorder.unreachable(peer);
    }
    fn refused(&self, peer: u64, refusal: &Refusal) {
        self.recorder.refused(peer, refusal);
    }
    fn members(&self) -> Option<Bytes> {
        self.recorder.members()
    }
}

#[test]
fn a_restarted_peer_is_found_again() {
    let (one, first) = member(1, options());
    let (two, second) = member(2, options());
    introduce(&one, 2, &two);
    one.send(vec![envelope(2, Lane::Message, "before")]);
    second.wait_received(1);
    let address = two.local_addrs()[0];
    two.stop();
    drop(two);
    first.wait_unreachable(2);
    eventually("noticing", || one.active_since(2).is_none());
    let (_two, second) = member_at(2, address, options());
    connected(&one, 2);
    one.send(vec![envelope(2, Lane::Message, "after")]);
    second.wait_received(1);
    assert_eq!(second.heads(Lane::Message).last(), Some(&Bytes::from_static(b"after")));
    eventually("both lanes", || one.stats().peers[&2].connects >= 3);
}

#[test]
fn a_peer_that_moves_is_followed() {
    let (one, _) = member(1, options());
    let (two, _) = member(2, options());
    introduce(&one, 2, &two);
    connected(&one, 2);
    let (moved, inbox) = member(2, options());
    one.update_peer(2, &[url(&moved)]).expect("known");
    eventually("the new address", || {
        one.send(vec![envelope(2, Lane::Message, "here?")]);
        !inbox.heads(Lane::Message).is_empty()
    });
    assert_eq!(one.update_peer(9, &[url(&moved)]), Err(PeerError::Unknown { id: 9 }));
}

#[test]
fn the_second_url_is_tried_when_the_first_fails() {
    let (one, _) = member(1, options());
    let (two, inbox) = member(2, options());
    let dead = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port");
    one.add_peer(2, &[format!("http://{dead}"), url(&two)]).expect("good urls");
    connected(&one, 2);
    one.send(vec![envelope(2, Lane::Message, "found")]);
    inbox.wait_received(1);
}

#[test]
fn what_cannot_be_queued_is_dropped_counted_and_reported() {
    let (one, first) = member(
        1,
        options()
            .queue(4, 0)
            .max_frame(64 << 10)
            .max_payloads(8)
            .handshake_timeout(Duration::from_secs(60)),
    );
    one.send(vec![
        envelope(9, Lane::Message, "nobody"),
        envelope(0, Lane::Message, ""),
        envelope(1, Lane::Message, ""),
    ]);
    assert_eq!(one.stats().dropped_unknown, 1);
    // A listener that never answers: the handshake does not end within this test, so that queues fill up and nothing
    // else reports the peers.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let urls = [format!("http://{}", silent.local_addr().expect("bound"))];
    one.add_peer(2, &urls).expect("a good url");
    one.send(vec![Envelope {
        head: vec![0; (64 << 10) + 1].into(),
        ..envelope(2, Lane::Append, "")
    }]);
    first.wait_unreachable(2);
    one.send(vec![Envelope { payloads: vec![Bytes::new(); 9], ..envelope(2, Lane::Append, "") }]);
    assert_eq!(one.stats().peers[&2].dropped, 2, "too large to be sent at all");

    one.add_peer(3, &urls).expect("a good url");
    for _ in 0..4 {
        one.send(vec![Envelope { shed: Shed::First, ..envelope(3, Lane::Message, "heartbeat") }]);
    }
    assert_eq!(one.stats().peers[&3].dropped, 0);
    one.send(vec![Envelope { shed: Shed::Last, ..envelope(3, Lane::Message, "vote") }]);
    assert_eq!(one.stats().peers[&3].dropped, 1);
    first.wait_unreachable(3);
}

/// A peer may be configured to read less than we do. It is told so in time, and what it can read goes on.
#[test]
fn what_a_peer_does_not_read_is_not_sent_to_it_and_counted() {
    let ((one, first), (two, inbox)) =
        (member(1, options()), member(2, options().max_frame(64 << 10)));
    introduce(&one, 2, &two);
    connected(&one, 2);
    let told = |event: &Event| matches!(event, Event::Admitted(peer) if peer.max_frame == 64 << 10);
    first.wait("the peer's limit", |events| events.iter().any(told));
    let large = Envelope { head: vec![0; 100 << 10].into(), ..envelope(2, Lane::Append, "") };
    one.send(vec![large, envelope(2, Lane::Append, "small")]);
    inbox.wait_received(1);
    eventually("counting", || {
        let stats = &one.stats().peers[&2];
        (stats.too_large, stats.dropped, stats.sent_frames) == (1, 1, 1)
    });
    first.wait_unreachable(2);
}

#[test]
fn wrong_cluster_wrong_member_removed_and_rejected_are_told_to_both_sides() {
    let (one, first) = member(1, options());
    let foreign = TcpTransport::bind(Identity::new(2, CLUSTER + 1), "127.0.0.1:0", options())
        .expect("a free port");
    foreign.start(Recorder::new()).expect("started");
    introduce(&one, 2, &foreign);
    assert_eq!(first.wait_refused(2), Refusal::WrongCluster { ours: CLUSTER + 1, theirs: CLUSTER });
    assert!(foreign.stats().refused["wrong_cluster"] >= 1);

    let (three, third) = member(3, options());
    introduce(&one, 4, &three);
    assert_eq!(first.wait_refused(4), Refusal::WrongMember { expected: 4, actual: 3 });
    assert!(three.stats().refused["wrong_member"] >= 1);

    *third.admit.lock() =
        Box::new(|peer| if peer.id == 1 { Err(Refusal::Removed) } else { Ok(()) });
    introduce(&one, 3, &three);
    assert_eq!(first.wait_refused(3), Refusal::Removed);
    one.send(vec![envelope(3, Lane::Message, "never")]);
    first.wait_unreachable(3);
    assert!(one.stats().peers[&3].refused_us["removed"] >= 1);

    // And the other way round: the dialler judges the welcome.
    *first.admit.lock() = Box::new(|peer| match peer.id {
        5 => Err(Refusal::rejected("rolled back")),
        _ => Ok(()),
    });
    let (five, fifth) = member(5, options());
    introduce(&one, 5, &five);
    eventually("our refusal", || one.stats().refused.contains_key("rejected"));
    assert_eq!(one.active_since(5), None);
    introduce(&five, 1, &one);
    assert_eq!(fifth.wait_refused(1), Refusal::Rejected { reason: "rolled back".into() });
    assert!(third.heads(Lane::Message).is_empty());
}

#[test]
fn three_faulty_messages_end_a_connection() {
    let (one, first) = member(1, options());
    let (two, second) = member(2, options());
    *second.receive.lock() = Box::new(|head| match &head[..] {
        b"bad" => Err(FrameFault::Impossible { reason: "term 2^63".into() }),
        _ => Ok(()),
    });
    introduce(&one, 2, &two);
    connected(&one, 2);
    one.send(vec![envelope(2, Lane::Message, "bad"), envelope(2, Lane::Message, "bad")]);
    one.send(vec![envelope(2, Lane::Message, "good")]);
    second.wait_received(1);
    one.send(vec![envelope(2, Lane::Message, "bad")]);
    assert_eq!(
        first.wait_refused(2),
        Refusal::Protocol { reason: "impossible message: term 2^63".into() }
    );
    assert_eq!((two.stats().peers[&1].faults, two.stats().faults["impossible"]), (3, 3));
    connected(&one, 2);
}

#[test]
fn a_removed_peer_gets_what_was_queued_and_is_heard_no_more() {
    let (one, first) = member(1, options());
    let (two, second) = member(2, options());
    introduce(&one, 2, &two);
    introduce(&two, 1, &one);
    eventually("both lanes", || one.stats().peers[&2].connects == 2);
    connected(&two, 1);
    let farewells: Vec<_> = (0..500).map(|_| envelope(2, Lane::Append, vec![1; 5000])).collect();
    one.send(farewells);
    one.send(vec![envelope(2, Lane::Message, "you are removed")]);
    *first.admit.lock() = Box::new(|_| Err(Refusal::Removed));
    one.remove_peer(2);
    one.remove_peer(2);
    second.wait_received(501);
    assert_eq!(second.wait_refused(1), Refusal::Removed);
    two.send(vec![envelope(1, Lane::Message, "zombie")]);
    second.wait_unreachable(1);
    assert!(first.heads(Lane::Message).is_empty());
    assert!(!one.stats().peers.contains_key(&2));
    one.send(vec![envelope(2, Lane::Message, "nobody")]);
    assert_eq!(one.stats().dropped_unknown, 1);
}

#[test]
fn pause_drops_both_ways_and_resume_ends_it() {
    let (one, first) = member(1, options());
    let (two, second) = member(2, options());
    introduce(&one, 2, &two);
    introduce(&two, 1, &one);
    one.pause();
    one.send(vec![envelope(2, Lane::Message, "lost")]);
    two.send(vec![envelope(1, Lane::Message, "lost")]);
    eventually("the drop on arrival", || one.stats().peers[&2].dropped_received == 1);
    one.resume();
    one.send(vec![envelope(2, Lane::Message, "kept")]);
    two.send(vec![envelope(1, Lane::Message, "kept")]);
    first.wait_received(1);
    second.wait_received(1);
    assert_eq!(first.heads(Lane::Message), ["kept"]);
    assert_eq!(second.heads(Lane::Message), ["kept"]);
}

/// An idle connection stays; one whose other side has fallen silent is given up.
#[test]
fn signs_of_life_keep_a_connection_and_their_absence_ends_it() {
    let quick = options().idle_timeout(Duration::from_millis(150));
    let (one, first) = member(1, quick.clone());
    let (two, _) = member(2, quick.clone());
    introduce(&one, 2, &two);
    connected(&one, 2);
    let since = one.active_since(2);
    // Several idle timeouts long, for what must not happen cannot be waited for.
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(one.active_since(2), since, "connected without a break");
    assert_eq!(
        first.events().iter().filter(|event| matches!(event, Event::Unreachable(_))).count(),
        0
    );

    // A peer that shakes hands and then reads no more and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("bound");
    let welcome = std::thread::spawn(move || {
        let mut streams = Vec::new();
        for _ in 0..2 {
            let (mut stream, _) = silent.accept().expect("a lane");
            let greeting = raw::Greeting {
                purpose: 1,
                cluster: CLUSTER,
                from: 3,
                max_frame: 1 << 20,
                ..Default::default()
            };
            let head = prost::Message::encode_to_vec(&greeting);
            let frame = raw::frame(&mut raw::Key::GREETING.clone(), raw::WELCOME, &head, &[]);
            std::io::Write::write_all(&mut stream, &[&raw::PREFACE[..], &frame].concat())
                .expect("it reads");
            streams.push(stream);
        }
        streams
    });
    one.add_peer(3, &[format!("http://{address}")]).expect("a good url");
    let _streams = welcome.join().expect("two lanes came");
    connected(&one, 3);
    first.wait_unreachable(3);
    eventually("giving up", || one.active_since(3).is_none());
}

#[test]
fn stop_is_idempotent_and_bounded_whatever_is_queued() {
    let (one, _) = member(1, options());
    // A peer that accepts and never reads, one that does not exist, and one that does.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    one.add_peer(2, &[format!("http://{}", silent.local_addr().expect("bound"))])
        .expect("a good url");
    one.add_peer(3, &["http://127.0.0.1:1".into()]).expect("a good url");
    let (four, inbox) = member(4, options());
    introduce(&one, 4, &four);
    connected(&one, 4);
    for to in [2, 3, 4] {
        one.send((0..200).map(|_| envelope(to, Lane::Append, vec![0; 10_000])).collect());
    }
    let start = Instant::now();
    one.stop();
    assert!(start.elapsed() < Duration::from_secs(2), "took {:?}", start.elapsed());
    let start = Instant::now();
    one.stop();
    assert!(start.elapsed() < Duration::from_millis(100), "the second took {:?}", start.elapsed());
    inbox.wait_received(200);
    assert_eq!(one.add_peer(5, &["http://127.0.0.1:1".into()]), Err(PeerError::Stopped));
    assert!(matches!(one.start(Recorder::new()), Err(TcpError::Stopped)));
    one.send(vec![envelope(4, Lane::Message, "too late")]);
    let address = one.local_addrs()[0];
    drop(one);
    TcpListener::bind(address).expect("the port is free again");
}

#[test]
fn stopping_from_within_the_handler_neither_hangs_nor_waits_for_itself() {
    let (one, _) = member(1, options());
    let (two, second) = member(2, options());
    let two = Arc::new(two);
    let inner = Arc::downgrade(&two);
    *second.receive.lock() = Box::new(move |_| {
        if let Some(transport) = inner.upgrade() {
            transport.stop();
        }
        Ok(())
    });
    introduce(&one, 2, &two);
    one.send(vec![envelope(2, Lane::Message, "stop")]);
    second.wait_received(1);
}

#[test]
fn a_transport_that_was_not_started_still_stops() {
    let one = TcpTransport::bind(Identity::new(1, CLUSTER), "127.0.0.1:0", options())
        .expect("a free port");
    one.add_peer(2, &["http://127.0.0.1:1".into()]).expect("a good url");
    one.send(vec![envelope(2, Lane::Message, "queued")]);
    one.stop();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound");
    let result = TcpTransport::bind(Identity::new(1, CLUSTER), address, options());
    assert!(matches!(result, Err(TcpError::Listen { .. })));
    let result = TcpTransport::bind(Identity::new(0, CLUSTER), "127.0.0.1:0", options());
    assert!(matches!(result, Err(TcpError::Identity { .. })));
}

#[test]
fn peers_need_ids_and_urls() {
    let (one, _) = member(1, options());
    let good = ["http://127.0.0.1:1".to_owned()];
    assert_eq!(one.add_peer(0, &good), Err(PeerError::ZeroId));
    assert_eq!(one.add_peer(1, &good), Err(PeerError::OwnId { id: 1 }));
    assert_eq!(one.add_peer(2, &[]), Err(PeerError::NoUrl { id: 2 }));
    assert!(matches!(
        one.add_peer(2, &["https://127.0.0.1:1".into()]),
        Err(PeerError::BadUrl { .. })
    ));
    assert!(one.stats().peers.is_empty());
    one.add_peer(2, &good).expect("a good peer");
    one.add_peer(2, &good).expect("again");
}

#[test]
fn questions_are_answered_without_an_id() {
    let (one, first) = member(1, options());
    let urls = [url(&one)];
    assert!(matches!(
        query_members(&urls, BOUND),
        Err(QueryError::Refused { refusal: Refusal::NoAnswer, .. })
    ));
    *first.members.lock() = Some(vec![7; 300_000].into());
    assert_eq!(query_members(&urls, BOUND).expect("an answer"), vec![7; 300_000]);
    let dead = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port");
    let both = [format!("http://{dead}"), url(&one)];
    assert!(query_members(&both, BOUND).is_ok(), "the second one answers");
    assert!(matches!(query_members(&both[..1], BOUND), Err(QueryError::Unreachable { .. })));
    assert!(matches!(
        query(&urls, "weather", Bytes::new(), BOUND),
        Err(QueryError::Refused { .. })
    ));
    let long = Bytes::from(vec![0; 40_000]);
    assert!(matches!(query(&urls, "members", long, BOUND), Err(QueryError::TooLong { .. })));
    assert!(matches!(query_members(&[], BOUND), Err(QueryError::Url(_))));
    assert_eq!(one.stats().queries, 2);

    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let urls = [format!("http://{}", silent.local_addr().expect("bound"))];
    let start = Instant::now();
    let result = query_members(&urls, Duration::from_millis(200));
    assert!(matches!(result, Err(QueryError::Broken { .. })), "{result:?}");
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_peer_that_speaks_http_is_recognised() {
    let etcd = TcpListener::bind("127.0.0.1:0").expect("a port");
    let urls = [format!("http://{}", etcd.local_addr().expect("bound"))];
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = etcd.accept() {
            let _ = std::io::Write::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let result = query_members(&urls, BOUND);
    assert!(matches!(result, Err(QueryError::Stranger { .. })), "{result:?}");
    let (one, _) = member(1, options());
    one.add_peer(2, &urls).expect("a good url");
    eventually("counting", || one.stats().faults.contains_key("http"));
}
