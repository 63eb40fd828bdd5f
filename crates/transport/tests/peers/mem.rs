//! The in-memory network keeps the same promises as TCP, and breaks them only as it is told to.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::common::{Event, Recorder, envelope, eventually, outcome};
use bytes::Bytes;
use oarlock_transport::{
    Faults, FrameFault, Identity, Lane, MemNetwork, MemTransport, PeerError, Refusal,
    SnapshotEnvelope, SnapshotSendError, Transport,
};

const SEED: u64 = 20_26;
const CLUSTER: u64 = 0xc1;

fn member(network: &MemNetwork, id: u64, peers: &[u64]) -> (MemTransport, Arc<Recorder>) {
    let transport =
        network.endpoint(Identity::new(id, CLUSTER).incarnation(1).urls(["http://h:1"]));
    let handler = Recorder::new();
    transport.start(handler.clone());
    for peer in peers {
        transport.add_peer(*peer, &[]).expect("a good peer");
    }
    (transport, handler)
}

fn numbered(to: u64, lane: Lane, count: u64) -> Vec<oarlock_transport::Envelope> {
    (0..count).map(|i| envelope(to, lane, i.to_be_bytes().to_vec())).collect()
}

fn numbers(heads: &[Bytes]) -> Vec<u64> {
    heads.iter().map(|head| u64::from_be_bytes(head[..].try_into().expect("eight bytes"))).collect()
}

#[test]
fn order_is_kept_per_lane_under_random_delay() {
    let network = MemNetwork::new(SEED);
    network.set_faults(Faults {
        delay: Duration::ZERO..=Duration::from_millis(3),
        ..Faults::default()
    });
    let (one, _) = member(&network, 1, &[2]);
    let (_two, inbox) = member(&network, 2, &[1]);
    one.send(numbered(2, Lane::Message, 200));
    one.send(numbered(2, Lane::Append, 200));
    inbox.wait_received(400);
    for lane in Lane::ALL {
        assert_eq!(
            numbers(&inbox.heads(lane)),
            (0..200).collect::<Vec<_>>(),
            "seed {SEED}, {lane:?}"
        );
    }
    let stats = one.stats().peers[&2].clone();
    assert_eq!((stats.sent_frames, stats.sent_bytes, stats.dropped), (400, 3200, 0));
}

#[test]
fn loss_duplication_and_reordering_happen_and_repeat_with_the_seed() {
    let run = |seed| {
        let network = MemNetwork::new(seed);
        let (one, _) = member(&network, 1, &[2]);
        let (_two, inbox) = member(&network, 2, &[1]);
        let delay = Duration::ZERO..=Duration::from_millis(1);
        network.set_faults(Faults { delay, loss: 0.2, duplicate: 0.2, reorder: 0.2 });
        one.send(numbered(2, Lane::Message, 300));
        network.set_faults(Faults::default());
        one.send(numbered(2, Lane::Append, 1));
        // Long enough for every detour; the last of the message lane is one of those that were drawn.
        eventually("all that is under way arrives", || {
            let before = inbox.events().len();
            std::thread::sleep(Duration::from_millis(60));
            inbox.events().len() == before && !inbox.heads(Lane::Append).is_empty()
        });
        numbers(&inbox.heads(Lane::Message))
    };
    let first = run(SEED);
    let mut sorted = first.clone();
    sorted.sort_unstable();
    assert_ne!(first, sorted, "seed {SEED}: something was overtaken");
    let all = sorted.len();
    let mut second = run(SEED);
    second.sort_unstable();
    assert_eq!(sorted, second, "seed {SEED}: the same fates");
    sorted.dedup();
    assert!(sorted.len() < 300, "seed {SEED}: something was lost");
    assert!(all > sorted.len(), "seed {SEED}: something arrived twice");
}

#[test]
fn a_cut_is_one_way_and_reports_unreachable() {
    let network = MemNetwork::new(SEED);
    let (one, first) = member(&network, 1, &[2]);
    let (two, second) = member(&network, 2, &[1]);
    network.cut(1, 2);
    one.send(vec![envelope(2, Lane::Message, "lost")]);
    first.wait_unreachable(2);
    assert_eq!(one.active_since(2), None);
    two.send(vec![envelope(1, Lane::Message, "arrives")]);
    first.wait_received(1);
    network.heal();
    one.send(vec![envelope(2, Lane::Message, "after")]);
    second.wait_received(1);
    assert_eq!(second.heads(Lane::Message), ["after"]);
}

#[test]
fn partitions_separate_groups_only() {
    let network = MemNetwork::new(SEED);
    let (one, _) = member(&network, 1, &[2, 3]);
    let (_two, second) = member(&network, 2, &[1, 3]);
    let (three, third) = member(&network, 3, &[1, 2]);
    network.partition(&[&[1, 2], &[3]]);
    one.send(vec![envelope(3, Lane::Message, "lost"), envelope(2, Lane::Message, "arrives")]);
    second.wait_received(1);
    network.heal();
    network.isolate(2);
    three.send(vec![envelope(2, Lane::Message, "lost")]);
    one.send(vec![envelope(3, Lane::Message, "arrives")]);
    third.wait_received(1);
    assert_eq!(third.heads(Lane::Message), ["arrives"]);
    assert_eq!(second.heads(Lane::Message), ["arrives"]);
}

#[test]
fn handshakes_are_judged_both_ways() {
    let network = MemNetwork::new(SEED);
    let (one, first) = member(&network, 1, &[2]);
    let (_two, second) = member(&network, 2, &[1]);
    eventually("the peers connect unasked", || one.active_since(2).is_some());
    let seen = second
        .wait("admission", |events| events.iter().any(|event| matches!(event, Event::Admitted(_))));
    let Some(Event::Admitted(info)) = seen.first() else { panic!("{seen:?}") };
    assert_eq!((info.id, info.cluster, info.incarnation), (1, CLUSTER, 1));
    assert_eq!(
        (info.urls.as_slice(), &info.hello[..]),
        (&["http://h:1".to_owned()][..], &b"hello 2"[..])
    );

    let (_three, third) = member(&network, 3, &[]);
    *third.admit.lock() = Box::new(|_| Err(Refusal::Removed));
    one.add_peer(3, &[]).expect("a good peer");
    assert_eq!(first.wait_refused(3), Refusal::Removed);
    one.send(vec![envelope(3, Lane::Message, "never")]);
    first.wait_unreachable(3);
    assert!(third.heads(Lane::Message).is_empty());
    assert!(one.stats().peers[&3].refused_us["removed"] >= 1);

    let stranger = network.endpoint(Identity::new(4, CLUSTER + 1));
    stranger.start(Recorder::new());
    one.add_peer(4, &[]).expect("a good peer");
    assert_eq!(first.wait_refused(4), Refusal::WrongCluster { ours: CLUSTER + 1, theirs: CLUSTER });
}

#[test]
fn a_restarted_endpoint_is_found_again() {
    let network = MemNetwork::new(SEED);
    let (one, first) = member(&network, 1, &[2]);
    let (two, second) = member(&network, 2, &[]);
    one.send(vec![envelope(2, Lane::Message, "before")]);
    second.wait_received(1);
    two.stop();
    one.send(vec![envelope(2, Lane::Message, "nobody there")]);
    first.wait_unreachable(2);
    let (_two, second) = member(&network, 2, &[]);
    one.send(vec![envelope(2, Lane::Message, "after")]);
    second.wait_received(1);
    assert_eq!(second.heads(Lane::Message), ["after"]);
}

#[test]
fn three_faulty_messages_end_a_connection() {
    let network = MemNetwork::new(SEED);
    let (one, first) = member(&network, 1, &[2]);
    let (two, second) = member(&network, 2, &[]);
    *second.receive.lock() = Box::new(|head| match &head[..] {
        b"bad" => Err(FrameFault::Impossible { reason: "bad".into() }),
        _ => Ok(()),
    });
    one.send((0..3).map(|_| envelope(2, Lane::Message, "bad")).collect());
    first.wait_unreachable(2);
    assert_eq!(two.stats().peers[&1].faults, 3);
    one.send(vec![envelope(2, Lane::Message, "good")]);
    second.wait_received(1);
}

#[test]
fn pause_drops_both_ways_and_resume_ends_it() {
    let network = MemNetwork::new(SEED);
    let (one, first) = member(&network, 1, &[2]);
    let (two, second) = member(&network, 2, &[1]);
    one.pause();
    one.send(vec![envelope(2, Lane::Message, "lost")]);
    two.send(vec![envelope(1, Lane::Message, "lost")]);
    eventually("the message is dropped on arrival", || one.stats().peers[&2].dropped_received == 1);
    one.resume();
    one.send(vec![envelope(2, Lane::Message, "kept")]);
    two.send(vec![envelope(1, Lane::Message, "kept")]);
    first.wait_received(1);
    second.wait_received(1);
    assert_eq!(first.heads(Lane::Message), ["kept"]);
    assert_eq!(second.heads(Lane::Message), ["kept"]);
}

#[test]
fn peers_are_checked_and_strangers_dropped() {
    let network = MemNetwork::new(SEED);
    let (one, _) = member(&network, 1, &[]);
    assert_eq!(one.add_peer(0, &[]), Err(PeerError::ZeroId));
    assert_eq!(one.add_peer(1, &[]), Err(PeerError::OwnId { id: 1 }));
    assert_eq!(one.update_peer(9, &[]), Err(PeerError::Unknown { id: 9 }));
    one.remove_peer(9);
    one.send(vec![envelope(9, Lane::Message, "nobody")]);
    assert_eq!(one.stats().dropped_unknown, 1);
    one.stop();
    assert_eq!(one.add_peer(2, &[]), Err(PeerError::Stopped));
}

fn snapshot(to: u64, len: u64) -> SnapshotEnvelope {
    SnapshotEnvelope { to, head: Bytes::from_static(b"meta"), len }
}

#[test]
fn snapshots_arrive_whole_or_say_why_not() {
    let network = MemNetwork::new(SEED);
    let (one, _) = member(&network, 1, &[2]);
    let (_two, second) = member(&network, 2, &[]);
    let content: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
    let send = |len: u64, content: Box<dyn Read + Send>| {
        let (done, outcome) = outcome();
        one.send_snapshot(snapshot(2, len), content, done);
        outcome.get()
    };

    send(100_000, Box::new(io::Cursor::new(content.clone()))).expect("accepted");
    assert!(second.events().contains(&Event::Snapshot {
        from: 1,
        head: Bytes::from_static(b"meta"),
        content: content.clone()
    }));

    let short = send(100_001, Box::new(io::Cursor::new(content.clone())));
    assert!(
        matches!(short, Err(SnapshotSendError::WrongLength { declared: 100_001, read: 100_000 })),
        "{short:?}"
    );
    let long = send(99_999, Box::new(io::Cursor::new(content.clone())));
    assert!(
        matches!(long, Err(SnapshotSendError::WrongLength { declared: 99_999, .. })),
        "{long:?}"
    );
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("bad sector"))
        }
    }
    assert!(matches!(send(5, Box::new(Broken)), Err(SnapshotSendError::Content(_))));
    *second.after_snapshot.lock() = Box::new(|| Err(Refusal::rejected("no room")));
    let refused = send(5, Box::new(io::Cursor::new(vec![0; 5])));
    assert!(
        matches!(refused, Err(SnapshotSendError::Refused(Refusal::Rejected { .. }))),
        "{refused:?}"
    );

    let snapshots =
        second.events().into_iter().filter(|event| matches!(event, Event::Snapshot { .. })).count();
    assert_eq!(snapshots, 1, "only the first was stored");
    let stats = one.stats().peers[&2].clone();
    assert_eq!((stats.snapshots_sent, stats.snapshots_failed), (1, 4));

    let (done, outcome) = outcome();
    one.send_snapshot(snapshot(9, 1), Box::new(io::empty()), done);
    assert!(matches!(outcome.get(), Err(SnapshotSendError::UnknownPeer { id: 9 })));
}

#[test]
fn stop_is_idempotent_bounded_and_resolves_snapshots() {
    struct Endless(Arc<AtomicU64>);
    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            std::thread::sleep(Duration::from_millis(1));
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(buffer.len().min(1))
        }
    }
    let network = MemNetwork::new(SEED);
    let (one, _) = member(&network, 1, &[2]);
    let (_two, second) = member(&network, 2, &[]);
    let (done, first) = outcome();
    let given = Arc::new(AtomicU64::new(0));
    one.send_snapshot(snapshot(2, u64::MAX), Box::new(Endless(Arc::clone(&given))), done);
    eventually("some of it is read", || given.load(Ordering::Relaxed) > 0);
    let (done, busy) = outcome();
    one.send_snapshot(snapshot(2, 1), Box::new(io::empty()), done);
    assert!(matches!(busy.get(), Err(SnapshotSendError::Busy)));
    let start = Instant::now();
    one.stop();
    one.stop();
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(matches!(first.get(), Err(SnapshotSendError::Stopped)));
    second.wait("the broken snapshot", |events| {
        events.iter().any(|event| matches!(event, Event::BrokenSnapshot { .. }))
    });
    let (done, late) = outcome();
    one.send_snapshot(snapshot(2, 1), Box::new(io::empty()), done);
    assert!(matches!(late.get(), Err(SnapshotSendError::Stopped)));
}

#[test]
fn queries_are_answered_without_an_id() {
    let network = MemNetwork::new(SEED);
    let (_one, first) = member(&network, 1, &[]);
    assert_eq!(network.query(1, "members", Bytes::new()), None);
    *first.members.lock() = Some(Bytes::from_static(b"us"));
    assert_eq!(network.query(1, "members", Bytes::new()), Some(Bytes::from_static(b"us")));
    assert_eq!(network.query(1, "weather", Bytes::new()), None);
    assert_eq!(network.query(2, "members", Bytes::new()), None);
}
