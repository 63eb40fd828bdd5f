//! Snapshots over TCP: whole or not at all, and the sender is always told which, once.

use std::io::{self, Cursor, Read};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use oarlock_transport::{
    Identity, Lane, Refusal, SnapshotEnvelope, SnapshotSendError, TcpOptions, TcpTransport,
    Transport,
};

use crate::common::{Event, Outcome, Recorder, envelope, eventually, outcome};

const CLUSTER: u64 = 0xc1;

fn member(id: u64, options: TcpOptions) -> (TcpTransport, Arc<Recorder>) {
    let transport = TcpTransport::bind(Identity::new(id, CLUSTER), "127.0.0.1:0", options)
        .expect("a free port");
    let handler = Recorder::new();
    transport.start(handler.clone()).expect("started");
    (transport, handler)
}

fn pair() -> (TcpTransport, TcpTransport, Arc<Recorder>) {
    let (one, _) = member(1, TcpOptions::new());
    let (two, second) = member(2, TcpOptions::new());
    one.add_peer(2, &[format!("http://{}", two.local_addrs()[0])]).expect("a good peer");
    (one, two, second)
}

fn begin(one: &TcpTransport, len: u64, content: impl Read + Send + 'static) -> Outcome {
    let (done, outcome) = outcome();
    let envelope = SnapshotEnvelope { to: 2, head: Bytes::from_static(b"meta"), len };
    one.send_snapshot(envelope, Box::new(content), done);
    outcome
}

fn send(
    one: &TcpTransport,
    len: u64,
    content: impl Read + Send + 'static,
) -> Result<(), SnapshotSendError> {
    begin(one, len, content).get()
}

/// Gives bytes for ever, slowly, and says how many it gave.
struct Endless(Arc<AtomicU64>);

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        std::thread::sleep(Duration::from_millis(1));
        let count = buffer.len().min(64 << 10);
        self.0.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

fn endless() -> (Endless, Arc<AtomicU64>) {
    let given = Arc::new(AtomicU64::new(0));
    (Endless(Arc::clone(&given)), given)
}

#[test]
fn content_of_every_size_arrives_whole() {
    let (one, two, second) = pair();
    for len in [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5_000_000] {
        let content: Vec<u8> = (0..len as u32).map(|i| (i / 251) as u8 ^ i as u8).collect();
        send(&one, len, Cursor::new(content.clone())).expect("accepted");
        // The last one: what else may be told meanwhile (a lane that dialled too early) does not matter.
        let mut told = second.events().into_iter().rev();
        let Some((head, got)) = told.find_map(|event| match event {
            Event::Snapshot { from: 1, head, content } => Some((head, content)),
            _ => None,
        }) else {
            panic!("{len}")
        };
        assert_eq!((&head[..], got == content), (&b"meta"[..], true), "{len} bytes");
    }
    assert_eq!(one.stats().peers[&2].snapshots_sent, 6);
    assert_eq!(two.stats().peers[&1].snapshots_received, 6);
}

#[test]
fn content_that_fails_or_has_another_length_is_not_accepted() {
    struct Broken(u32);
    impl Read for Broken {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0 += 1;
            if self.0 < 100 { Ok(buffer.len()) } else { Err(io::Error::other("bad sector")) }
        }
    }
    struct Panicking;
    impl Read for Panicking {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            std::panic::resume_unwind(Box::new("a reader's bug"))
        }
    }
    let (one, _two, second) = pair();
    let result = send(&one, 1 << 30, Broken(0));
    assert!(matches!(result, Err(SnapshotSendError::Content(_))), "{result:?}");
    let result = send(&one, 101, Cursor::new(vec![0; 100]));
    assert!(
        matches!(result, Err(SnapshotSendError::WrongLength { declared: 101, .. })),
        "{result:?}"
    );
    let result = send(&one, 99, Cursor::new(vec![0; 100]));
    assert!(
        matches!(result, Err(SnapshotSendError::WrongLength { declared: 99, read: 100 })),
        "{result:?}"
    );
    let result = send(&one, 99, Panicking);
    assert!(matches!(result, Err(SnapshotSendError::Stopped)), "{result:?}");
    let (done, outcome) = outcome();
    let head = Bytes::from(vec![0; (1 << 20) + 1]);
    one.send_snapshot(SnapshotEnvelope { to: 2, head, len: 0 }, Box::new(io::empty()), done);
    assert!(matches!(outcome.get(), Err(SnapshotSendError::HeadTooLarge { .. })));
    send(&one, 100, Cursor::new(vec![0; 100]))
        .expect("one that is right is accepted after all that");
    let events = second.events();
    assert_eq!(
        events.iter().filter(|event| matches!(event, Event::Snapshot { .. })).count(),
        1,
        "{events:?}"
    );
}

#[test]
fn the_receivers_refusal_comes_back_typed_early_and_late() {
    let (one, two, second) = pair();
    *second.before_snapshot.lock() = Box::new(|| Err(Refusal::Busy));
    let (content, given) = endless();
    let result = send(&one, u64::MAX, content);
    assert!(matches!(result, Err(SnapshotSendError::Refused(Refusal::Busy))), "{result:?}");
    assert!(given.load(Ordering::Relaxed) < 64 << 20, "it stopped sending soon");
    *second.before_snapshot.lock() = Box::new(|| Ok(()));
    *second.after_snapshot.lock() = Box::new(|| Err(Refusal::rejected("disk full")));
    let result = send(&one, 3, Cursor::new(b"abc"));
    let Err(SnapshotSendError::Refused(Refusal::Rejected { reason })) = result else {
        panic!("{result:?}")
    };
    assert_eq!(reason, "disk full");
    assert_eq!(two.stats().peers[&1].snapshots_refused, 2);
    *second.admit.lock() = Box::new(|_| Err(Refusal::Removed));
    let result = send(&one, 3, Cursor::new(b"abc"));
    assert!(matches!(result, Err(SnapshotSendError::Refused(Refusal::Removed))), "{result:?}");
}

#[test]
fn a_receiver_that_is_gone_is_reported() {
    let (one, two, second) = pair();
    let (content, given) = endless();
    let running = begin(&one, u64::MAX, content);
    eventually("some of it is sent", || given.load(Ordering::Relaxed) > 4 << 20);
    two.stop();
    let result = running.get();
    assert!(matches!(result, Err(SnapshotSendError::Lost(_))), "{result:?}");
    second.wait("the other side notices", |events| {
        events.iter().any(|event| matches!(event, Event::BrokenSnapshot { .. }))
    });
    let result = send(&one, 3, Cursor::new(b"abc"));
    assert!(matches!(result, Err(SnapshotSendError::Unreachable { id: 2, .. })), "{result:?}");
}

#[test]
fn a_receiver_that_says_nothing_is_given_up() {
    let (one, _) = member(1, TcpOptions::new().snapshot_timeout(Duration::from_millis(200)));
    let (two, second) = member(2, TcpOptions::new());
    one.add_peer(2, &[format!("http://{}", two.local_addrs()[0])]).expect("a good peer");
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = parking_lot::Mutex::new(held);
    *second.after_snapshot.lock() = Box::new(move || {
        let _ = held.lock().recv();
        Ok(())
    });
    let result = send(&one, 3, Cursor::new(b"abc"));
    assert!(matches!(result, Err(SnapshotSendError::NoAnswer)), "{result:?}");
    drop(release);
}

#[test]
fn removing_the_peer_or_stopping_ends_a_snapshot() {
    let (one, two, _second) = pair();
    let (content, given) = endless();
    let running = begin(&one, u64::MAX, content);
    eventually("some of it is sent", || given.load(Ordering::Relaxed) > 1 << 20);
    assert!(matches!(send(&one, 1, io::empty()), Err(SnapshotSendError::Busy)), "one at a time");
    one.remove_peer(2);
    let result = running.get();
    assert!(matches!(result, Err(SnapshotSendError::PeerRemoved)), "{result:?}");
    assert!(matches!(send(&one, 1, io::empty()), Err(SnapshotSendError::UnknownPeer { id: 2 })));

    one.add_peer(2, &[format!("http://{}", two.local_addrs()[0])]).expect("a good peer");
    let (content, given) = endless();
    let running = begin(&one, u64::MAX, content);
    eventually("some of it is sent", || given.load(Ordering::Relaxed) > 1 << 20);
    one.pause();
    assert!(matches!(send(&one, 1, io::empty()), Err(SnapshotSendError::Paused)));
    one.resume();
    let start = Instant::now();
    one.stop();
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    let result = running.get();
    assert!(matches!(result, Err(SnapshotSendError::Stopped)), "{result:?}");
    assert!(matches!(send(&one, 1, io::empty()), Err(SnapshotSendError::Stopped)));
}

#[test]
fn messages_pass_a_snapshot_on_its_way() {
    let (one, _two, second) = pair();
    let (content, given) = endless();
    let running = begin(&one, u64::MAX, content);
    eventually("some of it is sent", || given.load(Ordering::Relaxed) > 1 << 20);
    one.send(vec![envelope(2, Lane::Message, "heartbeat"), envelope(2, Lane::Append, "entries")]);
    second.wait_received(2);
    one.stop();
    assert!(running.get().is_err());
}

#[test]
fn an_unreachable_peer_is_reported_with_the_cause() {
    let (one, _) = member(1, TcpOptions::new());
    let dead = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port");
    one.add_peer(2, &[format!("http://{dead}")]).expect("a good url");
    let result = send(&one, 3, Cursor::new(b"abc"));
    assert!(matches!(result, Err(SnapshotSendError::Unreachable { id: 2, .. })), "{result:?}");
    assert!(one.active_since(2).is_none());
}
